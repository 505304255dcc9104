"""Several runs as one ensemble, or the sub-models of one run: scored, recommended, written as a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from longtail.core.counts import ClassCounts
from longtail.core.errors import ConfigError
from longtail.core.groups import GROUP_NAMES, GroupRule, ShotGroups
from longtail.core.manifest import SPLITS
from longtail.core.paths import expanded
from longtail.data import Progress
from longtail.data.data_set import DataSet
from longtail.data.options import DataConfig
from longtail.engine.hardware import describe_environment, find_device
from longtail.engine.identity import images_differ
from longtail.engine.options import TrainingConfig
from longtail.ensembles.combination import OF_MIRROR, Combination
from longtail.ensembles.combined_model import order_of
from longtail.ensembles.mixtures import SubModelLogits, compare_mixtures
from longtail.ensembles.recommendation import combine, recommend
from longtail.ensembles.weights import Descent, Views
from longtail.methods import Method
from longtail.prediction import predict_sub_models
from longtail.runs import LoadedModel, Run, load
from longtail.runs.ensemble_folder import require_empty, write_ensemble

MIRROR = "mirror"


@dataclass(frozen=True)
class Scored:
    """Logits of a split, what belongs together in it, [N] or None, and how SADE learns its weights on it."""

    logits: SubModelLogits
    together: NDArray[np.int64] | None
    descent: Descent

    def mixtures(
        self, counts: ClassCounts, rule: GroupRule, held_out: SubModelLogits | None
    ) -> list[dict[str, Any]]:
        """Score every mixture; see `compare_mixtures`."""
        return compare_mixtures(
            self.logits, counts, rule=rule, held_out=held_out, descent=self.descent
        )


def ensemble(
    runs: Run | Path | str | Sequence[Run | Path | str],
    split: str = "test",
    *,
    views: str = MIRROR,
    out: Path | str | None = None,
    combination: str | None = None,
    device: str | None = None,
    progress: Progress = lambda done, size: None,
) -> dict[str, Any]:
    """Score every way to combine several runs, or the sub-models of one; recommend one, and write it.

    Where the data set has a val split and another one is scored, val fits what is fitted and chooses what is
    recommended.

    Args:
        runs: Finished runs on the same data, or their folders; or one whose method has sub-models.
        split: `train`, `val` or `test`.
        views: `mirror`, or an augmentation policy of which two views are drawn (`sade`).
        out: Folder of a model that `predict` and `export` take; missing or empty. Nothing is written if not
            given. It holds copies of the runs.
        combination: What is written there, by its name in `mixtures`; the recommended one if not given, and
            nothing if a single model is better on val than all of them.
        device: As for `train`.
        progress: Called while a split is predicted, with the number of images that are done, by all models
            and of all views, and of all.

    Returns:
        A line for a results file; `mixtures` is the list of `longtail.ensembles.compare_mixtures`, and
        `recommended` what `longtail.ensembles.recommendation.recommend` returns. `written` names the folder
        and the combination, if something was written.

    Raises:
        ConfigError: If the runs have other classes or other data, there are no sub-models, or the combination
            cannot be written.
        ProtocolError: If the combination is fitted on val and there is none.
    """
    runs, out = Run.all_of(runs), None if out is None else expanded(out)
    if out is not None:
        require_empty(out)
    if combination is not None:
        _require_kept(combination, views, out)
    models = [load(run.folder.path, device=device) for run in runs]
    _require_one_task(runs, models)
    data, facts = runs[0].open_data(), models[0].metadata
    counts = ClassCounts(facts.class_counts, facts.classes)
    groups = ShotGroups.from_counts(counts, runs[0].config.data.groups)
    scored = _on(split, runs, models, data, views, progress)
    if scored.logits.clean.shape[1] == 1:
        raise ConfigError(
            f"{runs[0].folder.path} has no sub-models (method {facts.method}); name several runs."
        )
    chooses = data.manifest.has("val") and split != "val"
    held_out = _on("val", runs, models, data, views, progress) if chooses else None
    val = None if held_out is None else held_out.logits
    names = _names(runs, models, scored.logits.clean.shape[1])
    recommended = recommend(
        scored.logits, names, groups, held_out=val, together=scored.together,
        held_together=None if held_out is None else held_out.together,
    )  # fmt: skip
    line = {
        "recipes": [run.config.recipe for run in runs],
        "seeds": [run.config.training.seed for run in runs],
        "split": split,
        "views": views,
        "sub_models": names,
        "recommended": recommended,
        "images": _images(scored.logits.labels, groups),
        "mixtures": scored.mixtures(counts, groups.rule, val),
        "checkpoints_sha256": [model.metadata.weights_sha256 for model in models],
        **describe_environment(find_device(device)),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "configs": [run.config.model_dump(mode="json") for run in runs],
    }
    wanted = combination or recommended["combination"]
    if out is not None and wanted is not None:
        made = combine(wanted, scored.logits, groups, val)
        _write(made, runs, facts.classes, line, out)
        line["written"] = {"folder": str(out), "combination": made.name}
    return line


def _require_kept(name: str, views: str, out: Path | None) -> None:
    """Refuse what cannot be written before anything is computed."""
    if out is None:
        raise ConfigError("--combination selects what is written, so it needs --out FOLDER.")
    Combination(name, 2, 2)  # raises, saying why
    if name in OF_MIRROR and views != MIRROR:
        raise ConfigError(
            f"The combination {name!r} cannot be written with --views {views}, because random views "
            "are not a function of the image. Use --views mirror."
        )


def _images(labels: Tensor, groups: ShotGroups) -> dict[str, int]:
    """Return on how many images each accuracy rests."""
    inside = {name: int(groups.mask(name)[labels].sum()) for name in GROUP_NAMES}
    return {"all": len(labels), **inside}


def _write(
    made: Combination,
    runs: Sequence[Run],
    classes: tuple[str, ...],
    line: dict[str, Any],
    out: Path,
) -> None:
    scores = next((row for row in line["mixtures"] if row["name"] == made.name), None)
    assert scores is not None, "every combination that can be kept is scored"
    kept = ("split", "views", "sub_models", "recommended", "images", "date")
    described = {key: line[key] for key in kept}
    described |= {
        "classes": list(classes),
        "scores": scores,
        "sources": [str(run.folder.path) for run in runs],
    }
    write_ensemble(runs, made, out, described)


def _images_of(run: Run) -> DataConfig:
    """Return which images a run has, however it augments them."""
    return run.config.data.model_copy(update={"augmentation": None})


def _require_one_task(runs: Sequence[Run], models: Sequence[LoadedModel]) -> None:
    """Refuse runs that were trained on other images or classes, and the same run twice."""
    for run, model in zip(runs, models, strict=True):
        trained_on = {model.metadata.train_checksum, models[0].metadata.train_checksum} - {
            ""
        }  # old: unknown
        known = [one.identity.images for one in (run, runs[0]) if one.identity is not None]
        changed = len(known) == 2 and any(
            images_differ(known[0], known[1], name) for name in SPLITS
        )
        same = _images_of(run) == _images_of(runs[0]) and len(trained_on) < 2 and not changed
        if set(model.metadata.classes) != set(models[0].metadata.classes) or not same:
            raise ConfigError(
                f"{run.folder.path} has other classes, other data or another split than "
                f"{runs[0].folder.path}. Only runs that were trained on the same images can be combined; "
                "otherwise, some would be scored on images that they were trained on."
            )
    weights = [model.metadata.weights_sha256 for model in models]
    for place, run in enumerate(runs):
        if weights[place] in weights[:place]:
            twin = runs[weights.index(weights[place])].folder.path
            raise ConfigError(
                f"{run.folder.path} has the same weights as {twin}: name each run once."
            )


def _names(runs: Sequence[Run], models: Sequence[LoadedModel], count: int) -> list[str]:
    """Name the sub-models: runs by their folders, what is inside of a run by its number."""
    if count == len(runs):
        folders = [run.folder.path.name for run in runs]
        alike = len(set(folders)) < count
        return [str(run.folder.path) for run in runs] if alike else folders
    return [f"sub-model {place}" for place in range(1, count + 1)]


def _on(
    split: str,
    runs: Sequence[Run],
    models: Sequence[LoadedModel],
    data: DataSet,
    views: str,
    progress: Progress,
) -> Scored:
    part = data.split(split)
    seen = ("none", "none", "mirror") if views == MIRROR else ("none", views, views)
    clean, one, other = _each_view(models, part, seen, runs[0].config.training, progress)
    labels = torch.from_numpy(part.manifest.labels.copy())
    logits = SubModelLogits(clean, one, other, labels, _bias(models), views)
    return Scored(logits, part.together, _descent(runs, models, part, views, progress))


def _descent(
    runs: Sequence[Run],
    models: Sequence[LoadedModel],
    part: DataSet,
    views: str,
    progress: Progress,
) -> Descent:
    """Return how SADE learns its weights: at the rate of the training, of fresh random views in each pass."""
    training = runs[0].config.training

    def redraw(number: int) -> Views:
        drawn, seed = (views, views), 1 + 2 * number
        first, second = _each_view(models, part, drawn, training, progress, seed)
        return first, second

    fresh = None if views == MIRROR else redraw
    if len(runs) > 1:
        return Descent(redraw=fresh)
    return Descent(training.learning_rate, training.weight_decay, fresh)


def _each_view(
    models: Sequence[LoadedModel],
    part: DataSet,
    views: Sequence[str],
    training: TrainingConfig,
    progress: Progress,
    first_seed: int = 0,
) -> Iterator[Tensor]:
    """Yield the logits of all sub-models for each view, [N, T, C]; a view is seen once."""
    known: dict[str, Tensor] = {}
    images = len(part.manifest)
    repeated = max(0, views.count("none") - 1)  # the plain view is seen once
    passes, done = len(models) * (len(views) - repeated), 0
    progress(0, passes * images)

    def passed(of_this: int, _size: int, _seconds: float) -> None:
        progress(done + of_this, passes * images)

    for seed, view in enumerate(views, start=first_seed):
        if view == "none" and view in known:
            yield known[view]
            continue
        each = []
        for model in models:
            own = part.normalised_by(model.metadata.mean, model.metadata.std)
            logits = predict_sub_models(
                model.method,
                own,
                device=model.device,
                view=view,
                seed=seed,
                workers=training.workers,
                passed=passed,
            )
            order = order_of(model.metadata.classes, models[0].metadata.classes)
            each.append(logits.index_select(2, order))
            done += images
        known[view] = torch.cat(each, dim=1)
        yield known[view]


def _bias(models: Sequence[LoadedModel]) -> Tensor | None:
    """Return the known bias of all sub-models, [T, C], or None if one is not known or there is none.

    It is what the methods know of their sub-models; or, of several runs without sub-models, the logarithm
    of the class distribution that the scores of each assume. Without it all assume uniform classes.
    """
    each = [model.method.known_bias() for model in models]
    if all(bias is None for bias in each):
        each = [_log_prior(model) for model in models]
    classes = models[0].metadata.classes
    known = [
        bias.cpu().index_select(1, order_of(model.metadata.classes, classes))
        for bias, model in zip(each, models, strict=True)
        if bias is not None
    ]
    if len(known) < len(each):
        return None
    bias = torch.cat(known)
    return bias if bool((bias != bias[:, :1]).any()) else None


def _log_prior(model: LoadedModel) -> Tensor | None:
    """Return the log of the prior that a run without sub-models assumes, [1, C]; None if unknown."""
    prior = model.metadata.prior()
    if prior is None or type(model.method).sub_model_logits is not Method.sub_model_logits:
        return None
    return prior.log().float()[None]
