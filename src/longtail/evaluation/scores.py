"""From predictions to scores: what `scores-<split>.json` holds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longtail.core.counts import ClassCounts
from longtail.core.groups import GROUP_NAMES, RULE_TEXT, GroupRule, ShotGroups
from longtail.core.predictions import Predictions
from longtail.core.words import counted
from longtail.evaluation.bootstrap import paired_intervals
from longtail.evaluation.metrics import (
    calibration_error,
    confusion_matrix,
    macro_accuracy,
    mean_interval,
    micro_accuracy,
    per_class_accuracy,
    softmax,
    wilson_interval,
)

HEADLINES = ("accuracy", "macro_accuracy", "worst_class_accuracy", "many", "medium", "few")


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
) -> dict[str, Any]:
    """Compute every score of one split. Accuracies are fractions in [0, 1]; None where undefined.

    Args:
        predictions: Of one split.
        counts: Training pictures per class, in the order of `predictions.classes`.
        rule: Group rule of the headline; the other one is stored beside it.
        selection: How the checkpoint was chosen, see `Protocol.describe`.
        recipe: Name for people.
        seed: Of the run.
        notes: Remarks that belong beside the numbers.
        together: int64 [N], equal for pictures that belong together, for `accuracy_interval`: they are
            drawn again as a whole. Without it every picture stands alone (Wilson's interval).
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
    worst = int(np.nanargmin(per_class)) if measured.any() else None
    calibration = {"overall": calibration_error(confidence, correct)}
    for name in GROUP_NAMES:
        inside = main.mask(name).numpy()[predictions.labels]
        calibration[name] = calibration_error(confidence[inside], correct[inside])
    other: GroupRule = "index" if rule == "threshold" else "threshold"
    return {
        "split": predictions.split,
        "num_images": len(predictions.ids),
        "num_classes": num_classes,
        "num_classes_evaluated": int(measured.sum()),
        "accuracy": micro_accuracy(confusion),
        "accuracy_interval": list(_interval(correct, together)),
        "macro_accuracy": macro_accuracy(confusion),
        "worst_class_accuracy": None if worst is None else float(per_class[worst]),
        "worst_class": None if worst is None else predictions.classes[worst],
        "groups": _groups(confusion, main),
        "groups_by_other_rule": _groups(confusion, ShotGroups.from_counts(counts, other)),
        "calibration_error": calibration,
        "per_class": [
            {
                "name": name,
                "group": main.name_of(label),
                "train_count": counts.values[label],
                "test_count": int(tested[label]),
                "accuracy": float(per_class[label]) if measured[label] else None,
            }
            for label, name in enumerate(predictions.classes)
        ],
        "selection": selection,
        "recipe": recipe,
        "seed": seed,
        "checkpoint_sha256": predictions.checkpoint,
        "notes": [*notes, *_remarks(main, measured)],
    }


def percent(value: float | None) -> str:
    """Return a fraction in percent with one digit, `-` if it is undefined."""
    return "-" if value is None else f"{100 * value:.1f}"


def percent_of_seeds(values: Sequence[float]) -> str:
    """Return the mean of fractions in percent, `42.8 ± 0.7` with the deviation (n - 1) of several."""
    text = percent(statistics.mean(values))
    return f"{text} ± {percent(statistics.stdev(values))}" if len(values) > 1 else text


def headlines(scores: dict[str, Any]) -> dict[str, float | None]:
    """Return micro, macro, worst class and the three groups of one score file."""
    flat = {name: scores[name] for name in HEADLINES[:3]}
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
            # Student's interval of two seeds is wide; an accuracy lies in 0..1 all the same
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


def _remarks(groups: ShotGroups, measured: np.ndarray[Any, np.dtype[np.bool_]]) -> list[str]:
    remarks = []
    if empty := groups.empty_groups():
        remarks.append(f"No class is {' or '.join(empty)} shot by the rule {groups.rule}.")
    if not measured.all():
        remarks.append(
            f"{counted(int((~measured).sum()), 'class has', 'classes have')} no picture in this split."
        )
    return remarks
