"""Score a finished run on one of its splits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from longtail.core import distributed
from longtail.core.counts import ClassCounts
from longtail.core.predictions import Predictions
from longtail.core.prior import written
from longtail.core.protocol import Protocol
from longtail.core.stage import constant_part
from longtail.data.data_set import DataSet
from longtail.engine.hardware import find_device
from longtail.engine.options import TrainingConfig
from longtail.engine.pace import told_at_times
from longtail.engine.streams import features_of
from longtail.ensembles.sub_models_of_run import mixtures_of
from longtail.evaluation import score
from longtail.prediction import content_checksum, predict_split, write_predictions
from longtail.prediction.splits import predict_features
from longtail.prediction.views import TIMES, Crops, MeanOfCrops
from longtail.runs.model import LoadedModel, load
from longtail.runs.run import Run

UNTRAINED = "nothing was trained"  # in place of what chose the epoch


def evaluate(
    run: Run | Path | str,
    split: str = "test",
    *,
    data: DataSet | None = None,
    device: str | None = None,
    crops: Crops | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Write predictions and scores of a finished run on one split.

    Args:
        run: A finished run, or its folder.
        split: `train`, `val` or `test`.
        data: The run's data set, if it is open already.
        device: As for `train`.
        crops: Score the mean of several parts of each image instead; the files are called
            `<split>-<crops>`, and the run's own stay.
        note: Told how far it is, if it takes long.

    Returns:
        The content of `scores-<split>.json`.
    """
    distributed.start(find_device(device))
    if not distributed.is_main():
        note = _silent  # one process speaks for all
    run = Run.of(run)
    model = load(run.folder.path, device=device)
    training = run.config.training
    if data is None:
        data = run.open_data()
    part = data.split(split).normalised_by(model.metadata.mean, model.metadata.std)
    part = replace(part, manifest=part.manifest.restricted_to(model.metadata.classes))
    predictions = _predictions(model, part, split, training, crops, note)
    predictions = replace(
        predictions,
        corrections=model.metadata.corrections,
        assumed_prior=written(model.metadata.prior()),
    )
    has_val = data.manifest.has("val")
    protocol = Protocol(has_val, training.selection(has_val))
    counts = ClassCounts(model.metadata.class_counts, model.metadata.classes)
    trained = any(stage.kind == "train" for stage in model.method.stages())
    scores = score(
        predictions,
        counts,
        rule=run.config.data.groups,
        selection=protocol.describe(model.metadata.selected_epoch) if trained else UNTRAINED,
        recipe=run.config.recipe,
        seed=training.seed,
        notes=tuple(
            dict.fromkeys((*_of_crops(crops), *data.notes, *run.notes, *model.method.notes))
        ),
        together=part.together,
    ) | {
        "run": model.metadata.run,
        "images_sha256": part.content(),
        "predictions_sha256": content_checksum(predictions),
    }
    if crops is None:
        mixtures = mixtures_of(
            model.method, part, counts, run.config.data.groups,
            device=model.device, workers=training.workers,
        )  # fmt: skip
        if mixtures:
            scores["mixtures"] = mixtures
    name = split if crops is None else f"{split}-{crops}"
    if distributed.is_main():
        write_predictions(predictions, run.folder.predictions(name))
        run.folder.write_json(run.folder.scores(name), scores)
    distributed.barrier()
    return scores


def _predictions(
    model: LoadedModel,
    part: DataSet,
    split: str,
    training: TrainingConfig,
    crops: Crops | None,
    note: Callable[[str], None],
) -> Predictions:
    """Predict in fp32 whatever the training used, so that evaluate, predict, adjust and export agree."""
    method, device, known = model.method, model.device, part.manifest
    checkpoint = model.metadata.weights_sha256
    frozen = None if crops is not None else constant_part(method.stages())
    if frozen is not None and not distributed.active():
        features = features_of(
            method.get_submodule(frozen), part, training, device, note, keep=True
        )
        logits = predict_features(method, frozen, features).numpy()
        return Predictions(split, known.ids, known.labels, logits, known.classes, checkpoint)
    return predict_split(
        method if crops is None else MeanOfCrops(method, crops).eval(),
        part,
        split,
        device=device,
        checkpoint=checkpoint,
        workers=training.workers,
        passed=told_at_times(note, f"scoring {split}", on_cpu=device.type == "cpu"),
    )


def _silent(text: str) -> None:
    """Say nothing."""


def _of_crops(crops: Crops | None) -> tuple[str, ...]:
    if crops is None:
        return ()
    return (f"Each prediction is the mean of {TIMES[crops]} parts of the image ({crops}).",)
