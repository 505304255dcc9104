"""The model card: what a model is, how good it is for whom, and what it must not be used for."""

from __future__ import annotations

from pathlib import Path

from longtail import api
from longtail.core.groups import GROUP_NAMES, RULE_TEXT
from longtail.data.pictures import describe_view
from longtail.evaluation.scores import percent

LIMITS = """\
- It knows the classes below and answers with one of them whatever the picture shows.
- Its probabilities assume {prior}. For another class distribution use `longtail adjust RUN --by prior` or
  `longtail predict --prior`.
- Accuracies are those of pictures like the ones it was tested on. Groups with few classes or few test
  pictures are known less well than the digits suggest."""


def model_card(
    run: api.Run, model: api.LoadedModel, file: Path, form: str, difference: float
) -> str:
    """Return the model card as Markdown; it holds measured numbers only."""
    card, config = model.card, run.config
    lines = [
        f"# {config.recipe}",
        "",
        f"Image classifier for {len(card.classes)} classes, trained with longtail: method "
        f"`{config.method_name}`, backbone `{config.model.backbone}`, {card.epochs_done} epochs, seed "
        f"{config.training.seed}.",
        "",
        f"- File: `{file.name}` ({form}); differs from the trained run by at most {difference:.1e} in a "
        "logit on the pictures that it was compared on.",
        f"- Input: RGB pictures of {card.image_size} x {card.image_size} pixels"
        + (
            f", normalised with mean {list(card.mean)} and deviation {list(card.std)} of values in 0..1."
            if form == "timm"
            else ", values in 0..1; normalisation is inside."
        ),
        f"- From a file: upright by its EXIF tag, {describe_view(card.image_size)}.",
        f"- Weights of the run: SHA-256 `{card.weights_sha256}`.",
        f"- Corrections for imbalance in training: {', '.join(card.corrections) or 'none'}.",
        "",
        "## Data",
        "",
        f"{sum(card.class_counts):,} training pictures, {max(card.class_counts):,} of the largest class "
        f"and {min(card.class_counts):,} of the smallest. Groups "
        f"{RULE_TEXT[model.groups.rule]}.",
        "",
    ]
    for split in run.evaluated_splits():
        scores = run.scores(split)
        lines += [
            f"## Measured on split {split}",
            "",
            f"{scores['num_images']:,} pictures, {scores['selection']}.",
            "",
            "| | accuracy in % |",
            "|---|---|",
            f"| averaged over pictures (micro) | {percent(scores['accuracy'])} |",
            f"| averaged over classes (macro) | {percent(scores['macro_accuracy'])} |",
            f"| worst class ({scores['worst_class']}) | {percent(scores['worst_class_accuracy'])} |",
            *(
                f"| {name} shot, {scores['groups'][name]['classes']} classes | "
                f"{percent(scores['groups'][name]['accuracy'])} |"
                for name in GROUP_NAMES
            ),
            "",
            f"Expected calibration error {percent(scores['calibration_error']['overall'])} %.",
            "",
        ]
    prior = "classes that are alike" if card.corrections else "the class distribution of training"
    lines += ["## Limits", "", LIMITS.format(prior=prior), "", "## Classes", ""]
    lines.append(", ".join(card.classes) + ".")
    return "\n".join(lines) + "\n"
