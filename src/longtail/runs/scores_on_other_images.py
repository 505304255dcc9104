"""Score a finished run on other labelled images than its own, or for another class distribution.

Nothing here touches what the run says of itself: results go into a folder of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longtail.adjust import deployment_shift, estimate_prior, in_use
from longtail.core import distributed
from longtail.core.counts import ClassCounts
from longtail.core.errors import CheckpointError, ConfigError
from longtail.core.predictions import Predictions
from longtail.core.prior import unknown_prior, written
from longtail.core.protocol import Protocol
from longtail.core.table_cells import csv_text
from longtail.core.words import counted, folder_name
from longtail.engine.checksums import read_json
from longtail.engine.run_folder import require_writable, writing
from longtail.evaluation import score
from longtail.prediction import content_checksum, predict_split, write_predictions
from longtail.runs.model import LoadedModel
from longtail.runs.other_images import Elsewhere
from longtail.runs.run import Run

FOLDER = "elsewhere"
SCORES, PREDICTIONS, LEFT_OUT = "scores.json", "predictions.parquet", "left-out.csv"


@dataclass(frozen=True)
class Deployment:
    """The class distribution that predictions are to be right for.

    Attributes:
        name: For people and folders: `uniform`, `training`, the name of a file, `estimate`.
        prior: float [C]; None to estimate it from the images that are scored.
        assumed: What the model's scores assume, [C], where its metadata does not say.
    """

    name: str
    prior: Tensor | None = None
    assumed: Tensor | None = None


def target_folder(
    run: Run, name: str, source: str, deployment: Deployment | None, out: Path | None
) -> Path:
    """Return where an evaluation goes: `out`, or a folder of the run.

    Args:
        run: The run.
        name: Short, for the folder; the prior is added to it.
        source: What is scored, as it is written down in the scores.
        deployment: As of `evaluate_elsewhere`.
        out: What the user wants.

    Raises:
        ConfigError: If it holds the evaluation of something else, or files of another kind.
        CheckpointError: If it cannot be written.
    """
    prior = None if deployment is None else deployment.name
    own = folder_name(name) + (f"-prior-{folder_name(prior)}" if prior else "")
    target = out or run.folder.path / FOLDER / own
    held = _held(target)
    if held is not None and held != {"source": source, "prior": prior}:
        what = f"the scores of {held.get('source')}" if held else "other files"
        raise ConfigError(f"{target} contains {what}; choose another folder with --out.")
    require_writable(target / SCORES)
    return target


def _held(target: Path) -> dict[str, Any] | None:
    """Return what a folder is the evaluation of; None if it is missing or empty, {} if of nothing."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return None
    try:
        return dict(read_json(target / SCORES)["elsewhere"])
    except (CheckpointError, KeyError, TypeError, ValueError):
        return {}


def evaluate_elsewhere(
    run: Run,
    model: LoadedModel,
    found: Elsewhere,
    target: Path,
    *,
    source: str,
    deployment: Deployment | None = None,
) -> dict[str, Any]:
    """Write predictions, scores and what was left out into a folder, and return the scores.

    Args:
        run: A finished run.
        model: Its model.
        found: The images, in the classes of the model.
        target: The folder, see `target_folder`.
        source: What the images are, for people.
        deployment: Class distribution that the predictions are moved to; none if not given.

    Raises:
        ConfigError: If there is a deployment, and it is not known what the scores assume.
    """
    data, metadata = found.data, model.metadata
    counts = ClassCounts(metadata.class_counts, metadata.classes)
    part = f", split {found.split}" if found.split else ""
    predictions = predict_split(
        model.method, data, f"{data.manifest.name}{part}", device=model.device,
        checkpoint=metadata.weights_sha256, workers=run.config.training.workers,
    )  # fmt: skip
    predictions = replace(
        predictions, corrections=metadata.corrections, assumed_prior=written(metadata.prior())
    )
    notes, prior = found.notes, None
    if deployment is not None:
        predictions, prior = moved(predictions, metadata.prior(), deployment)
        notes = (*notes, _about_prior(deployment, len(predictions.ids)))
    selected = metadata.selected_epoch is not None
    protocol = Protocol(selected, "best-validation" if selected else "last")
    scores = score(
        predictions, counts,
        rule=run.config.data.groups, selection=protocol.describe(metadata.selected_epoch),
        recipe=run.config.recipe, seed=run.config.training.seed, notes=notes, together=data.together,
        prior=None if prior is None else prior.numpy(),
    ) | {
        "run": metadata.run,
        "elsewhere": {"source": source, "prior": None if deployment is None else deployment.name},
        "prior": None if prior is None else dict(zip(counts.names, prior.tolist(), strict=True)),
        "left_out": len(found.left_out),
        "images_sha256": data.content(),
        "predictions_sha256": content_checksum(predictions),
    }  # fmt: skip
    if distributed.is_main():
        write_predictions(predictions, target / PREDICTIONS)
        with writing(target / LEFT_OUT) as file:
            rows = [("path", "label", "reason"), *found.left_out]
            file.write_text(csv_text(rows), encoding="utf-8", newline="\n")
        run.folder.write_json(target / SCORES, scores)
    distributed.barrier()
    return scores


def moved(
    predictions: Predictions, assumed: Tensor | None, deployment: Deployment
) -> tuple[Predictions, Tensor]:
    """Return predictions for another class distribution, and that distribution, float64 [C].

    Args:
        predictions: Of a model.
        assumed: Class distribution that its scores assume, [C], or None if it is not known.
        deployment: The other one. It may be estimated from all images together (transductive).

    Raises:
        ConfigError: If it is not known what the scores assume.
    """
    known = assumed if deployment.assumed is None else deployment.assumed
    if known is None:
        raise ConfigError(unknown_prior(predictions.corrections))
    logits = torch.from_numpy(predictions.logits)
    prior = deployment.prior
    if prior is None:
        prior = estimate_prior(logits, known)
    shifted = logits.double() + deployment_shift(known, prior)
    prior = in_use(prior)
    return replace(predictions, logits=shifted.float().numpy(), assumed_prior=written(prior)), prior


def _about_prior(deployment: Deployment, images: int) -> str:
    if deployment.prior is None:
        return (
            f"The class prior was estimated from these {counted(images, 'image', 'images')} together, "
            "without their labels: each prediction depends on the others."
        )
    return f"Predictions are for the class prior {deployment.name}."
