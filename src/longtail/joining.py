"""Join sub-models: those of one run, or several runs as one ensemble."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor

from longtail.api import LoadedModel, load
from longtail.core.counts import ClassCounts
from longtail.core.errors import ConfigError
from longtail.data.pictures import DataSet
from longtail.engine.config import TrainingConfig
from longtail.engine.hardware import describe_environment, find_device, resolve_precision
from longtail.evaluation import Answers, answer_split, compare_mixtures
from longtail.runs import Run


def mixtures(
    runs: Sequence[Run], split: str = "test", *, views: str = "mirror", device: str | None = None
) -> dict[str, Any]:
    """Score every way to join the sub-models of one run, or of several runs on the same data.

    Where the data set has a val split and another one is scored, a stacking is fitted on it.

    Args:
        runs: Finished runs.
        split: `train`, `val` or `test`.
        views: `mirror`, or an augmentation policy of which two views are drawn (`sade`).
        device: As for `train`.

    Returns:
        A line for a results file; `mixtures` is the list of `longtail.evaluation.compare_mixtures`.

    Raises:
        ConfigError: If the runs have other classes or other data, or there are no sub-models.
    """
    models = [load(run.folder.path, device=device) for run in runs]
    first = runs[0].config
    for run, model in zip(runs, models, strict=True):
        trained_on = {model.card.train_checksum, models[0].card.train_checksum} - {
            ""
        }  # old: unknown
        same = run.config.data == first.data and len(trained_on) < 2
        if model.card.classes != models[0].card.classes or not same:
            raise ConfigError(
                f"{run.folder.path} has other classes, other data or another split than "
                f"{runs[0].folder.path}; only runs that were trained on the same pictures can be joined, or "
                "some would be asked about pictures that they know."
            )
    data = runs[0].open_data()

    def answers(name: str) -> Answers:
        part = data.split(name)
        seen = ("none", "none", "mirror") if views == "mirror" else ("none", views, views)
        clean, one, other = _answers(models, part, seen, first.training)
        labels = torch.from_numpy(part.manifest.labels.copy())
        return Answers(clean, one, other, labels, _bias(models), views)

    scored = answers(split)
    if scored.clean.shape[1] == 1:
        raise ConfigError(
            f"{runs[0].folder.path} has no sub-models (method {models[0].card.method}); give several "
            "runs to join them."
        )
    fitted = data.manifest.has("val") and split != "val"
    found = compare_mixtures(
        scored,
        ClassCounts(models[0].card.class_counts, models[0].card.classes),
        rule=first.data.groups,
        held_out=answers("val") if fitted else None,
    )
    return {
        "recipes": [run.config.recipe for run in runs],
        "seeds": [run.config.training.seed for run in runs],
        "split": split,
        "views": views,
        "mixtures": found,
        "checkpoints_sha256": [model.card.weights_sha256 for model in models],
        **describe_environment(find_device(device)),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "configs": [run.config.model_dump(mode="json") for run in runs],
    }


def _answers(
    models: Sequence[LoadedModel], part: DataSet, views: Sequence[str], training: TrainingConfig
) -> Iterator[Tensor]:
    """Yield what all sub-models together answer to each view, [N, T, C]; a view is seen once."""
    known: dict[str, Tensor] = {}
    for seed, view in enumerate(views):
        if view == "none" and view in known:
            yield known[view]
            continue
        each = []
        for model in models:
            own = part.normalised_by(model.card.mean, model.card.std)
            precision = resolve_precision(training.precision, model.device)
            each.append(
                answer_split(
                    model.method, own, device=model.device, precision=precision, view=view,
                    seed=seed, workers=training.workers,
                )
            )  # fmt: skip
        known[view] = torch.cat(each, dim=1)
        yield known[view]


def _bias(models: Sequence[LoadedModel]) -> Tensor | None:
    """Return the known bias of all sub-models, [T, C], or None if one is not known."""
    each = [bias.cpu() for model in models if (bias := model.method.known_bias()) is not None]
    return torch.cat(each) if len(each) == len(models) else None
