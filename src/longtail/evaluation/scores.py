"""From predictions to scores: what `scores-<split>.json` holds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from longtail.core.counts import ClassCounts
from longtail.core.errors import DataError
from longtail.core.groups import GROUP_NAMES, RULE_TEXT, GroupRule, ShotGroups
from longtail.core.names import some
from longtail.core.predictions import Predictions
from longtail.core.words import counted
from longtail.evaluation.bootstrap import drawn_again, group_masks, paired_intervals
from longtail.evaluation.metrics import (
    LEAST_SEEDS,
    calibration_error,
    confusion_matrix,
    macro_accuracy,
    mean_interval,
    micro_accuracy,
    per_class_accuracy,
    softmax,
    wilson_interval,
)

LEAST_IMAGES = 5  # test images of a class that may be called the worst
ALL = "all"
HEADLINES = ("accuracy", "macro_accuracy", "worst_class_accuracy", "many", "medium", "few")


def accuracies(predictions: Predictions) -> dict[str, float]:
    """Return accuracy and macro accuracy, in [0, 1], of predictions of at least one image."""
    confusion = confusion_matrix(
        predictions.labels, predictions.predicted(), len(predictions.classes)
    )
    macro = macro_accuracy(confusion)
    assert macro is not None, "the split is not empty"
    return {"accuracy": micro_accuracy(confusion), "macro_accuracy": macro}


def score(
    predictions: Predictions,
    counts: ClassCounts,
    *,
    rule: GroupRule,
    selection: str,
    recipe: str,
    seed: int,
    notes: Sequence[str] = (),
    together: NDArray[np.int64] | None = None,
    prior: NDArray[np.float64] | None = None,
) -> dict[str, Any]:
    """Compute every score of one split. Accuracies are fractions in [0, 1]; None where undefined.

    Args:
        predictions: Of one split.
        counts: Training images per class, in the order of `predictions.classes`.
        rule: Group rule of the headline; the other one is stored beside it.
        selection: How the checkpoint was chosen, see `Protocol.describe`.
        recipe: Name for people.
        seed: Of the run.
        notes: What belongs beside the numbers.
        together: int64 [N], equal for images that belong together, for the intervals: they are drawn again
            as a whole. Without it every image stands alone (Wilson's interval for `accuracy`).
        prior: Shares of the classes, [C], for the accuracy where classes have these; classes without an
            image are left out of it.
    """
    num_classes = len(predictions.classes)
    predicted = predictions.predicted()
    confusion = confusion_matrix(predictions.labels, predicted, num_classes)
    per_class = per_class_accuracy(confusion)
    tested = confusion.sum(axis=1)
    confidence = softmax(predictions.logits).max(axis=1)
    correct = predicted == predictions.labels
    main = ShotGroups.from_counts(counts, rule)
    measured = ~np.isnan(per_class)
    calibration = {"overall": calibration_error(confidence, correct)}
    for name in GROUP_NAMES:
        inside = main.mask(name).numpy()[predictions.labels]
        calibration[name] = calibration_error(confidence[inside], correct[inside])
    other: GroupRule = "index" if rule == "threshold" else "threshold"
    rows = [
        {
            "name": name,
            "group": main.name_of(label),
            "train_count": counts.values[label],
            "test_count": int(tested[label]),
            "accuracy": float(per_class[label]) if measured[label] else None,
        }
        for label, name in enumerate(predictions.classes)
    ]
    worst = worst_class(rows)
    return {
        "split": predictions.split,
        "num_images": len(predictions.ids),
        "num_classes": num_classes,
        "num_classes_evaluated": int(measured.sum()),
        "accuracy": micro_accuracy(confusion),
        "accuracy_interval": list(_interval(correct, together)),
        "macro_accuracy": macro_accuracy(confusion),
        "worst_class_accuracy": None if worst is None else worst["accuracy"],
        "worst_class": None if worst is None else worst["name"],
        "groups": _groups(confusion, main),
        "groups_by_other_rule": _groups(confusion, ShotGroups.from_counts(counts, other)),
        "intervals": _class_averages(predictions.labels, correct, tested, main, prior, together),
        "drawn_again": drawn_again(predictions.labels, together),
        "calibration_error": calibration,
        "per_class": rows,
        "selection": selection,
        "recipe": recipe,
        "seed": seed,
        "checkpoint_sha256": predictions.checkpoint,
        "notes": [*notes, *_notes(rows, worst_is_known=worst is not None)],
    }


def worst_class(per_class: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the class of lowest accuracy among those with at least five test images.

    One image decides nothing about a class: among many classes of one or two images some are always missed.

    Args:
        per_class: Of a score file.

    Returns:
        Its entry, the first of several that tie; None, "not measurable", if no class has that many images.
    """
    known = [
        row
        for row in per_class
        if row["test_count"] >= LEAST_IMAGES and row["accuracy"] is not None
    ]
    return min(known, key=lambda row: float(row["accuracy"]), default=None)


def image_counts(scores: Mapping[str, Any]) -> dict[str, int]:
    """Return on how many images each accuracy of a score file rests: `all`, and each shot group."""
    images = dict.fromkeys((ALL, *GROUP_NAMES), 0)
    for row in scores["per_class"]:
        images[ALL] += row["test_count"]
        images[row["group"]] += row["test_count"]
    return images


def judged(difference: Mapping[str, Any], seeds: int) -> int:
    """Say whether one method is better than another: 1 if better, -1 if worse, 0 if that is not known.

    Args:
        difference: Of their accuracies, with its `interval`, or None.
        seeds: That each was trained with, of the one with fewer. Below three nothing is said of a method: the
            interval of one training holds for its model only.
    """
    if difference["interval"] is None or seeds < LEAST_SEEDS:
        return 0
    low, high = difference["interval"]
    return int(low > 0) - int(high < 0)


class _Layout(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class _Group(_Layout):
    classes: int
    accuracy: float | None


class _Groups(_Layout):
    rule: GroupRule
    many: _Group
    medium: _Group
    few: _Group


class _OfClass(_Layout):
    name: str
    group: str
    train_count: int = Field(ge=1)
    test_count: int = Field(ge=0)
    accuracy: float | None


class _Scores(_Layout):
    split: str
    num_images: int
    accuracy: float | None
    macro_accuracy: float | None
    worst_class_accuracy: float | None
    worst_class: str | None
    groups: _Groups
    calibration_error: dict[str, float | None]
    per_class: list[_OfClass] = Field(min_length=1)
    selection: str
    recipe: str
    seed: int
    checkpoint_sha256: str
    notes: list[str]


def require_scores(content: Mapping[str, Any], source: str) -> None:
    """Refuse what is no content of a score file.

    Raises:
        DataError: Naming the first entry that is missing or wrong.
    """
    try:
        _Scores.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(
            f"{source} does not contain scores of longtail ({place}: {first['msg']})."
        ) from error


def percent(value: float | None) -> str:
    """Return a fraction in percent with one digit, `-` if it is undefined."""
    # one rounding of what is equal up to the order of its sum: .3335 and .33349999999999996
    return "-" if value is None else f"{round(100 * value, 9):.1f}"


def percent_of_seeds(values: Sequence[float]) -> str:
    """Return the mean of fractions in percent, `42.8 ± 0.7` with the deviation (n - 1) of several."""
    text = percent(statistics.mean(values))
    return f"{text} ± {percent(statistics.stdev(values))}" if len(values) > 1 else text


def headlines(scores: dict[str, Any]) -> dict[str, float | None]:
    """Return micro, macro, worst class and the three groups of one score file."""
    flat = {name: scores[name] for name in HEADLINES[:2]}
    worst = worst_class(scores["per_class"])  # earlier versions took classes of one image
    flat["worst_class_accuracy"] = None if worst is None else worst["accuracy"]
    return flat | {name: scores["groups"][name]["accuracy"] for name in GROUP_NAMES}


def summarise(all_scores: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return mean, standard deviation (n - 1) and 95 % interval of the headlines over seeds."""
    rows = [headlines(scores) for scores in all_scores]
    summary: dict[str, Any] = {
        "recipe": all_scores[0]["recipe"],
        "seeds": [scores["seed"] for scores in all_scores],
        "selection": [scores["selection"] for scores in all_scores],
        "rule": all_scores[0]["groups"]["rule"],
    }
    for name in HEADLINES:
        values = [row[name] for row in rows]
        if any(value is None for value in values):
            summary[name] = {"mean": None, "std": None, "interval": None, "values": values}
            continue
        array = np.array(values, dtype=np.float64)
        interval = mean_interval(array)
        summary[name] = {
            "mean": float(array.mean()),
            "std": float(array.std(ddof=1)) if len(array) > 1 else None,
            # Student's interval of three seeds is wide; but an accuracy lies in 0..1
            "interval": [max(0.0, interval[0]), min(1.0, interval[1])] if interval else None,
            "values": values,
        }
    return summary


def _groups(confusion: np.ndarray[Any, np.dtype[np.int64]], groups: ShotGroups) -> dict[str, Any]:
    described: dict[str, Any] = {"rule": groups.rule, "rule_text": RULE_TEXT[groups.rule]}
    for name, size in groups.sizes().items():
        accuracy = macro_accuracy(confusion, groups.mask(name).numpy())
        described[name] = {"classes": size, "accuracy": accuracy}
    return described


def _interval(
    correct: NDArray[np.bool_], together: NDArray[np.int64] | None
) -> tuple[float, float]:
    if together is None:
        return wilson_interval(int(correct.sum()), len(correct))
    everything = {"all": np.ones(1, dtype=bool)}
    one_class = np.zeros(len(correct), dtype=np.int64)
    found = paired_intervals(one_class, correct, correct, everything, together=together)
    low, high = found["all"]["after"]["interval"]
    return low, high


def _class_averages(
    labels: NDArray[np.int64],
    correct: NDArray[np.bool_],
    tested: NDArray[np.int64],
    groups: ShotGroups,
    prior: NDArray[np.float64] | None,
    together: NDArray[np.int64] | None,
) -> dict[str, dict[str, Any]]:
    """Return class-averaged accuracy, its 95 % interval, and the classes and images on which it rests.

    Args:
        labels: int64 [N].
        correct: bool [N].
        tested: Images of each class, [C].
        groups: Of the classes.
        prior: Of `score`.
        together: Of `score`.

    Returns:
        For `all`, each shot group, and `prior` where it is given: `value` and `interval` (both are None for
        a group without images), and how many `images` of how many `classes` they rest on.
    """
    weights: Mapping[str, NDArray[Any]] = group_masks(groups)
    if prior is not None:
        shares = np.where(tested > 0, prior, 0.0)
        weights = {**weights, "prior": shares / shares.sum()}
    found = paired_intervals(labels, correct, correct, weights, together=together)
    sizes = {
        name: {
            "classes": int((tested[weight > 0] > 0).sum()),
            "images": int(tested[weight > 0].sum()),
        }
        for name, weight in weights.items()
    }
    return {name: row["after"] | sizes[name] for name, row in found.items()}


def _notes(per_class: Sequence[Mapping[str, Any]], *, worst_is_known: bool) -> list[str]:
    notes = []
    if absent := [row["name"] for row in per_class if not row["test_count"]]:
        what = counted(len(absent), "class has", "classes have")
        notes.append(f"{what} no images among those scored: {some(absent)}.")
    if not worst_is_known:
        notes.append(f"The worst class is not measurable: no class has {LEAST_IMAGES} images.")
    return notes
