"""The model card: what a model is, how good it is for whom, and what it must not be used for."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch

from longtail.core.counts import ClassCounts
from longtail.core.groups import GROUP_NAMES, RULE_TEXT
from longtail.core.names import visible
from longtail.data.images.resize import describe_view
from longtail.engine.checkpoint import CheckpointMetadata
from longtail.evaluation.scores import ALL, LEAST_IMAGES, image_counts, percent, worst_class
from longtail.export.preparation import program
from longtail.runs import LoadedModel, Run
from longtail.runs.calibrating import describe
from longtail.runs.ensemble_folder import Note

_SIGNS = re.compile(r"[\\`*_\[\]|~$]|^[-+#]")  # that mean something in Markdown
LIMITS = """\
- It knows the classes below and predicts one of them whatever the image shows.
- Its probabilities assume the class distribution named above. For another one, use
  `longtail adjust RUN --by prior` or `longtail predict --prior`.
- The accuracies apply to images like those it was tested on. For groups with few classes or few test images,
  they are less certain than the digits suggest: `longtail report RUN` gives confidence intervals."""


def model_card(run: Run, model: LoadedModel, form: str, where: str) -> str:
    """Return the model card as Markdown; it holds measured numbers only.

    Args:
        run: A finished run.
        model: Of the run.
        form: Of the file.
        where: What the file is, as Markdown.
    """
    metadata, config = model.metadata, run.config
    lines = [
        f"# {as_markdown(config.recipe)}",
        "",
        f"Image classifier for {len(metadata.classes)} classes, trained with longtail: method "
        f"`{config.method_name}`, backbone `{config.model.backbone}`, {metadata.epochs_done} epochs, seed "
        f"{config.training.seed}.",
        "",
        f"- {where}",
        f"- Input: RGB images of {metadata.image_size} x {metadata.image_size} pixels"
        + (
            (
                f", normalised with mean {list(metadata.mean)} and standard deviation {list(metadata.std)} "
                "of values in 0..1."
            )
            if form == "timm"
            else ", values in 0..1; normalisation is part of the model."
        ),
        (
            "- Preprocessing of a file: EXIF orientation applied, "
            f"{describe_view(metadata.image_size, metadata.fit)}."
        ),
        f"- Weights of the run: SHA-256 `{metadata.weights_sha256}`.",
        f"- Corrections for imbalance during training: {', '.join(metadata.corrections) or 'none'}.",
        f"- Class distribution that the scores assume: {_assumed(metadata)}.",
        "",
        "## Data",
        "",
        (
            f"{sum(metadata.class_counts):,} training images, {max(metadata.class_counts):,} in the "
            f"largest class and {min(metadata.class_counts):,} in the smallest. Groups "
            f"{RULE_TEXT[model.groups.rule]}."
        ),
        "",
    ]
    for split in run.evaluated_splits():
        scores = run.scores(split)
        images, worst = image_counts(scores), worst_class(scores["per_class"])
        lines += [
            f"## Measured on split {split}",
            "",
            f"{scores['num_images']:,} images, {scores['selection']}.",
            "",
            "| | accuracy in % | images |",
            "|---|---|---|",
            f"| averaged over images (micro) | {percent(scores['accuracy'])} | {images[ALL]:,} |",
            f"| averaged over classes (macro) | {percent(scores['macro_accuracy'])} | {images[ALL]:,} |",
            f"| worst class | not measurable: no class has {LEAST_IMAGES} images | |"
            if worst is None
            else f"| worst class ({as_markdown(worst['name'])}) | {percent(worst['accuracy'])} | "
            f"{worst['test_count']:,} |",
            *(
                f"| {name} shot, {scores['groups'][name]['classes']} classes | "
                f"{percent(scores['groups'][name]['accuracy'])} | {images[name]:,} |"
                for name in GROUP_NAMES
            ),
            "",
            f"Expected calibration error: {percent(scores['calibration_error']['overall'])} %.",
            "",
        ]
    lines += _calibrated(model)
    lines += ["## Limits", "", LIMITS, "", *_preparation(metadata), "## Classes", ""]
    lines.append(", ".join(map(as_markdown, metadata.classes)) + ".")
    return "\n".join(lines) + "\n"


def ensemble_card(note: Note, runs: Sequence[Run], model: LoadedModel, where: str) -> str:
    """Return the card of an ensemble as Markdown; it holds what was measured when it was written."""
    metadata, told = model.metadata, note.model_dump()
    scores, images = told["scores"], told["images"]
    lines = [
        f"# Ensemble of {', '.join(as_markdown(run.config.recipe) for run in runs)}",
        "",
        (
            f"Image classifier for {len(metadata.classes)} classes: the {note.combination} of "
            f"{len(note.sub_models)} models that were trained with longtail."
        ),
        "",
        f"- {where}",
        (
            f"- Input: RGB images of {metadata.image_size} x {metadata.image_size} pixels, values in "
            "0..1; normalisation is part of the model."
        ),
        (
            "- Preprocessing of a file: EXIF orientation applied, "
            f"{describe_view(metadata.image_size, metadata.fit)}."
        ),
        f"- Class distribution that the scores assume: {_assumed(metadata)}.",
        "",
        f"## Measured on split {told['split']}",
        "",
        "| | macro accuracy in % | images |",
        "|---|---|---|",
        f"| all classes | {percent(scores['accuracy'])} | {images[ALL]:,} |",
        *(f"| {name} shot | {percent(scores[name])} | {images[name]:,} |" for name in GROUP_NAMES),
        "",
        "## Limits",
        "",
        LIMITS,
        "",
        *_preparation(metadata),
        "## Classes",
        "",
        ", ".join(map(as_markdown, metadata.classes)) + ".",
    ]
    return "\n".join(lines) + "\n"


def _preparation(metadata: CheckpointMetadata) -> list[str]:
    """Give the program that makes the input from a file."""
    return [
        "## From a file to the input",
        "",
        "This program needs Pillow and NumPy; `prepare(path)` returns what the model saw in its evaluation "
        "and what `longtail predict` gives it. Other ways of decoding or resizing change the probabilities.",
        "",
        "```python",
        program(metadata.image_size, metadata.fit).rstrip("\n"),
        "```",
        "",
    ]


def _calibrated(model: LoadedModel) -> list[str]:
    """Say what val showed of when not to trust the model, if it was calibrated."""
    if model.calibration is None:
        return []
    told = model.calibration.described
    return [
        "## When not to trust it",
        "",
        f"Chosen on {told.images:,} images of val, for images that are distributed like those:",
        "",
        *(f"- {as_markdown(line)}" for line in describe(told)),
        "",
        "The thresholds are in the metadata of the file under `calibration` (JSON). Accept a prediction if "
        "its probability (softmax of the logits) is above the threshold of the predicted class: with "
        "`group = groups[class]`, that is `reject[group].value`; null accepts none. "
        + _of_sets(told.score),
        "",
        "The warning of unusual images needs features, which the file does not give: use `longtail predict`.",
        "",
    ]


def _of_sets(score: str) -> str:
    """Say which classes are in a prediction set."""
    own = (
        "1 minus its probability"
        if score == "lac"
        else "the sum of all probabilities that are at least its own"
    )
    return (
        f"A class is in the prediction set if {own} is at most `set_thresholds[class]`; null always includes "
        "the class."
    )


def as_markdown(text: str) -> str:
    """Return a name that Markdown shows as it is: no HTML, links, tables or emphasis of a stranger."""
    plain = visible(text).replace("\n", " ").replace("\t", " ")
    escaped = _SIGNS.sub(r"\\\g<0>", plain)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _assumed(metadata: CheckpointMetadata) -> str:
    """Say which class distribution the scores assume: in words where there are any, else by its ends."""
    prior = metadata.prior()
    if prior is None:
        return "not known"
    counts = ClassCounts(metadata.class_counts, metadata.classes)
    if torch.allclose(prior, torch.full_like(prior, 1 / len(prior)), atol=1e-9):
        return "all classes equally frequent"
    if torch.allclose(prior, counts.prior(torch.float64), atol=1e-9):
        return "that of training"
    most, least = int(prior.argmax()), int(prior.argmin())
    top, bottom = (as_markdown(metadata.classes[place]) for place in (most, least))
    return (
        f"from {100 * float(prior[most]):.3g} % ({top}) to {100 * float(prior[least]):.3g} % ({bottom}); "
        "all shares are in `checkpoint.json` as `assumed_prior`"
    )
