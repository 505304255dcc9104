"""Find out on val of a finished run when not to believe it, and measure on test whether that holds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longtail.core.errors import ProtocolError
from longtail.core.groups import GROUP_NAMES
from longtail.core.rng import numpy_generator
from longtail.core.words import counted
from longtail.data.data_set import DataSet
from longtail.data.preparation import Progress
from longtail.evaluation.metrics import softmax, wilson_interval
from longtail.evaluation.scores import percent
from longtail.prediction.calibration import (
    ALL,
    SCORES,
    Calibration,
    Described,
    Judged,
    KeptThreshold,
    SetScore,
)
from longtail.prediction.features import outputs_of
from longtail.runs.model import LoadedModel, load
from longtail.runs.run import Run
from longtail.uncertainty import (
    Hierarchy,
    NearestFeatures,
    class_thresholds,
    highest_precision,
    reject_threshold,
    spread,
    unit,
)
from longtail.uncertainty.conformal import EVERY, NONE, OWN
from longtail.uncertainty.rejection import fewest_images

# what is measured, its share with interval, hits, out of
MEASURED = (
    ("accepted predictions", "share_accepted", "accepted", "images"),
    ("correct, if accepted", "precision", "right", "accepted"),
    ("correct, if a coarser name", "ancestor_precision", "right_ancestors", "ancestors"),
    ("sets that contain the class", "share_covered", "covered", "labelled"),
    ("flagged as unusual", "share_unusual", "unusual", "images"),
)
SET_SIZE = "mean classes per set"
GROUPED = "Shot groups are those of the predicted class; in the rows on sets, of the true class."
FAR_OFF = 2  # times the stated rate of errors
MOST_KEPT = 10_000  # training images whose features are kept
WORTH_A_HINT = 0.5  # of precision
ERROR = 0.05  # probability of a threshold that misses the wished precision
CHOSEN_AFTERWARDS = (
    "A precision that is chosen after these val images were seen, such as one named above, is not "
    f"guaranteed with {100 * (1 - ERROR):g} % confidence: its threshold is chosen on the same images. Judge "
    "it by what is measured on test."
)
NEEDS_VAL = (
    "Thresholds are chosen on a val split, and {run} has none; test never chooses anything. Hold out a part "
    "of train and train again: data.validation_per_class=5, or a split of your own with val in it."
)


@dataclass(frozen=True)
class Wish:
    """What a user wants of predictions.

    Attributes:
        precision: Share of right ones among those that are accepted, in (0, 1).
        coverage: Share of images whose prediction set holds their class, in each class, in (0, 1).
        alarm: Share of images of known classes that may be called unusual, in (0, 1).
        score: Of the prediction sets.
        parents: Parent of each class and ancestor; empty without a hierarchy.
    """

    precision: float = 0.95
    coverage: float = 0.9
    alarm: float = 0.05
    score: SetScore = "lac"
    parents: Mapping[str, str] | None = None


def calibrate(
    run: Run,
    wish: Wish,
    *,
    device: str | None = None,
    progress: Progress = lambda done, size: None,
) -> Calibration:
    """Write `calibration.safetensors` of a run, and return it.

    Args:
        run: A finished run with a val split.
        wish: What is wanted.
        device: As for `train`.
        progress: Called while files are checked, and while the network looks at each split.

    Raises:
        ProtocolError: If there is no val split.
        DataError: If the hierarchy does not fit the classes.
    """
    model = load(run.folder.path, device=device)
    metadata = model.metadata
    hierarchy = Hierarchy(metadata.classes, wish.parents) if wish.parents else None
    data = run.open_data(progress)
    if not data.manifest.has("val"):
        raise ProtocolError(NEEDS_VAL.format(run=run.folder.path))
    look = partial(
        outputs_of,
        model.method, device=model.device, workers=run.config.training.workers, progress=progress,
    )  # fmt: skip
    train = _part(data, "train", model)
    kept = spread(train.manifest.labels, MOST_KEPT, numpy_generator(0, "kept features"))
    _, features = look(train.take(kept))
    nearest = NearestFeatures(unit(features))
    val = _part(data, "val", model)
    logits, features = look(val)
    found = chosen(
        wish, model, hierarchy, val.manifest.labels, logits, nearest.distances(features), nearest
    )
    if data.manifest.has("test"):
        test = _part(data, "test", model)
        told = measured(found, test.manifest.labels, found.judge(*look(test)))
        described = found.described.model_copy(update={"measured": told})
        found = Calibration(described, nearest, found.distances)
    found.write(run.folder.calibration)
    return found


def _part(data: DataSet, split: str, model: LoadedModel) -> DataSet:
    """Return a split in the classes of the model and as it wants to see it."""
    part = data.split(split).normalised_by(model.metadata.mean, model.metadata.std)
    manifest = part.manifest.restricted_to(model.metadata.classes)
    return DataSet(manifest, part.images, part.mean, part.std)


def chosen(
    wish: Wish,
    model: LoadedModel,
    hierarchy: Hierarchy | None,
    labels: NDArray[np.int64],
    logits: NDArray[np.float32],
    far: NDArray[np.float64],
    nearest: NearestFeatures,
) -> Calibration:
    """Choose every threshold on val.

    Args:
        wish: What is wanted.
        model: For its classes, groups and weights.
        hierarchy: Of the classes.
        labels: Of the val images, [N].
        logits: [N, C].
        far: Distances of their features to training, [N].
        nearest: Features of training.
    """
    metadata = model.metadata
    names = tuple(model.groups.name_of(label) for label in range(len(metadata.classes)))
    probabilities = softmax(logits)
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    right, groups = predicted == labels, np.array(names)[predicted]
    everything = np.ones(len(labels), dtype=bool)
    reject = {ALL: _reject(confidence, right, everything, wish.precision)}
    for name in GROUP_NAMES:
        if name in names:
            reject[name] = _reject(confidence, right, groups == name, wish.precision)
    accepted = np.zeros(len(labels), dtype=bool)
    for name in GROUP_NAMES:
        if name in reject and (value := reject[name].value) is not None:
            accepted |= (groups == name) & (confidence > value)
    scores = SCORES[wish.score](probabilities)[np.arange(len(labels)), labels]
    sets = class_thresholds(scores, labels, 1 - wish.coverage, [f"{name} shot" for name in names])
    least = math.ceil(1 / wish.alarm - 1 - 1e-9)
    distances = {ALL: far} | {
        name: far[groups == name] for name in GROUP_NAMES if int((groups == name).sum()) >= least
    }
    notes = []
    promised = any(own.value is not None for own in reject.values()) or any(
        math.isfinite(value) for value in sets.values.tolist()
    )
    if metadata.selected_epoch is not None and promised:
        notes.append(
            "The val split was also used to choose the epoch, so these figures are slightly optimistic."
        )
    if len(labels) < least:
        notes.append(f"{len(labels):,} val images are too few to call any image unusual.")
    described = Described(
        weights_sha256=metadata.weights_sha256,
        classes=metadata.classes,
        groups=names,
        precision=wish.precision,
        coverage=wish.coverage,
        alarm=wish.alarm,
        images=len(labels),
        reject=reject,
        score=wish.score,
        set_thresholds=tuple(None if math.isinf(t) else t for t in sets.values.tolist()),
        set_pools=sets.pools,
        set_images=sets.images,
        parents=dict(wish.parents or {}),
        levels=_levels(hierarchy, probabilities, labels, ~accepted, wish.precision),
        notes=tuple(notes),
    )
    return Calibration(described, nearest, distances)


def _reject(
    confidence: NDArray[np.float64],
    right: NDArray[np.bool_],
    inside: NDArray[np.bool_],
    precision: float,
) -> KeptThreshold:
    """Choose a threshold on some of the images; where there is none, find out which precision has one."""
    own = confidence[inside], right[inside]
    found = reject_threshold(*own, precision, error=ERROR)
    highest = highest_precision(*own, error=ERROR) if found.value is None else None
    return KeptThreshold.of(found, highest)


def _levels(
    hierarchy: Hierarchy | None,
    probabilities: NDArray[np.float64],
    labels: NDArray[np.int64],
    left: NDArray[np.bool_],
    precision: float,
) -> tuple[KeptThreshold, ...]:
    """Choose a threshold for each level of ancestors, of the images that no finer name is accepted for."""
    found: list[KeptThreshold] = []
    for level in range(0 if hierarchy is None else len(hierarchy.levels)):
        assert hierarchy is not None
        best, sure = hierarchy.predicted(probabilities, level)
        right = hierarchy.right(best, labels, level)
        threshold = reject_threshold(sure[left], right[left], precision, error=ERROR)
        found.append(KeptThreshold.of(threshold))
        if threshold.value is not None:
            left = left & ~(sure > threshold.value)
    return tuple(found)


def measured(
    calibration: Calibration, labels: NDArray[np.int64], judged: Judged
) -> dict[str, dict[str, Any]]:
    """Return what the thresholds do on labelled images, overall and by shot group.

    Accepted predictions and unusual images go by the group of the predicted class, which is what a user sees;
    prediction sets by that of the right class, which is what they promise.

    Args:
        calibration: The thresholds.
        labels: Of the images, [N].
        judged: What the calibration says of them.

    Returns:
        For `all` and each group: `images`, `accepted` and `right` of predictions; `ancestors` and
        `right_ancestors`; `labelled` images, `covered` and `set_size` (mean); `unusual`. Shares have Wilson's
        95 % intervals: `precision`, `share_accepted`, `share_covered`, `share_unusual`.
    """
    told = calibration.described
    names = np.array(told.groups)
    right = judged.predicted == labels
    covered = judged.sets[np.arange(len(labels)), labels]
    named = np.array([bool(ancestor) for ancestor in judged.ancestors])
    below = np.zeros(len(labels), dtype=bool)
    if calibration.hierarchy is not None:
        members = calibration.hierarchy.members
        below = np.array(
            [
                bool(a) and bool(members[a][label])
                for a, label in zip(judged.ancestors, labels, strict=True)
            ]
        )
    found: dict[str, dict[str, Any]] = {}
    for name in (ALL, *GROUP_NAMES):
        said = (names[judged.predicted] == name) | (name == ALL)
        true = (names[labels] == name) | (name == ALL)
        accepted = said & judged.accepted
        found[name] = {
            "images": int(said.sum()),
            "accepted": int(accepted.sum()),
            "right": int((accepted & right).sum()),
            "ancestors": int((said & named).sum()),
            "right_ancestors": int((said & below).sum()),
            "unusual": int((said & judged.unusual).sum()),
            "labelled": int(true.sum()),
            "covered": int((true & covered).sum()),
            "set_size": float(judged.sets[true].sum(axis=1).mean()) if true.any() else None,
        }
        row = found[name]
        row["precision"] = _share(row["right"], row["accepted"])
        row["ancestor_precision"] = _share(row["right_ancestors"], row["ancestors"])
        row["share_accepted"] = _share(row["accepted"], row["images"])
        row["share_covered"] = _share(row["covered"], row["labelled"])
        row["share_unusual"] = _share(row["unusual"], row["images"])
    return found


def _share(hits: int, size: int) -> dict[str, Any]:
    if size == 0:
        return {"value": None, "interval": None}
    return {"value": hits / size, "interval": list(wilson_interval(hits, size))}


def describe(described: Described) -> list[str]:
    """Say in sentences what is promised, and of which groups or classes nothing can be."""
    groups = {name: own for name, own in described.reject.items() if name != ALL}
    lines = [_about_group(name, own, described.precision) for name, own in groups.items()]
    if any(map(_hinted, groups.values())):
        lines.append(CHOSEN_AFTERWARDS)
    if any(own.value is None for own in groups.values()):
        lines.append(_more_images(described.precision))
    lines += [_about_sets(described), *described.notes]
    return lines + _far_off(described)


def _about_group(name: str, own: KeptThreshold, precision: float) -> str:
    if own.value is not None:
        above = "any confidence" if own.value < 0 else f"a confidence above {own.value:.3f}"
        return (
            f"{name} shot: predictions are accepted with {above}; {own.right:,} of {own.accepted:,} such val "
            f"images are correctly classified, which shows a precision of {100 * (own.bound or 0):.1f} % or "
            "more."
        )
    images = counted(own.images, "val image that is", "val images that are")
    images = f"the {images} predicted as {name} shot"
    wished = f"that {100 * precision:g} % of the accepted predictions are correct"
    why = (
        f"To show {wished} takes {own.needed:,} correctly classified val images, more than {images}"
        if own.images < own.needed
        else f"No threshold on {images} shows {wished}"
    )
    told = f"{name} shot: no prediction is accepted. {why}."
    if _hinted(own):
        told += (
            f" The highest precision that val shows there is {100 * (own.highest or 0):.0f} % "
            f"(--precision {own.highest:g})."
        )
    return told


def _hinted(own: KeptThreshold) -> bool:
    """Say whether the highest precision is worth a hint: nobody accepts what is mostly wrong."""
    return own.highest is not None and own.highest >= WORTH_A_HINT


def _more_images(precision: float) -> str:
    """Say how many val images can show a precision at best."""
    least = fewest_images(precision, ERROR)
    return (
        f"To show {100 * precision:g} %, a group needs at least {least:,} val images predicted as one of its "
        "classes if all are correct, and more if some are wrong. Train again with a larger "
        "data.validation_share, or ask for a lower --precision."
    )


def _about_sets(described: Described) -> str:
    pools = Counter(described.set_pools)
    covered = f"{100 * described.coverage:g} %"
    least = math.ceil(1 / (1 - described.coverage) - 1 - 1e-9)
    text = (
        f"prediction sets contain the true class for {covered} of the images of each class with at least "
        f"{counted(least, 'val image', 'val images')} ({pools[OWN]:,} of {len(described.classes):,} classes)"
    )
    shared = [
        f"one for {counted(size, *_pooled(pool, least))}"
        for pool, size in pools.items()
        if pool not in (OWN, NONE)
    ]
    if shared:
        text += (
            f". Classes with fewer val images share thresholds: {' and '.join(shared)}. For these, {covered} "
            "holds on average over the classes: single classes may be below it"
        )
    if pools[NONE]:
        are = counted(pools[NONE], "class is", "classes are")
        text += f". {are} in every set, because there are too few val images"
    return f"{text}."


def _pooled(pool: str, least: int) -> tuple[str, str]:
    """Name one class, and several, that share the threshold of a pool."""
    if pool != EVERY:
        return f"{pool} class", f"{pool} classes"
    source = f"(chosen on the images of all classes with fewer than {least:,})"
    return (
        f"class whose group has too few val images {source}",
        f"classes whose groups have too few val images {source}",
    )


def _far_off(described: Described) -> list[str]:
    """Say of groups whose rates on test are far from the stated ones that these hold on average."""
    missed, alarm = 1 - described.coverage, described.alarm
    far = []
    for name in GROUP_NAMES:
        row = described.measured.get(name, {})
        covered, unusual = (
            row.get(key, {}).get("value") for key in ("share_covered", "share_unusual")
        )
        told = []
        if covered is not None and 1 - covered > FAR_OFF * missed:
            told.append(f"{percent(covered)} % of the sets contain the class")
        if unusual is not None and unusual > FAR_OFF * alarm:
            told.append(f"{percent(unusual)} % of the images are flagged as unusual")
        if told:
            far.append(f"{name} shot, {' and '.join(told)}")
    if not far:
        return []
    return [
        f"{100 * described.coverage:g} % (sets) and {100 * alarm:g} % (unusual) hold on average over all "
        f"images, not within each group. On test: {'; '.join(far)}."
    ]
