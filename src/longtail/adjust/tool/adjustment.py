"""Correct a model that is trained already, and show what that does to whom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longtail.adjust import tau_curve
from longtail.adjust.tool.corrections import CHANGES_THE_PRIOR, CORRECTIONS, Corrected, Request
from longtail.adjust.tool.evidence import Evidence, Outputs
from longtail.adjust.tool.harm import why_it_does_not_help
from longtail.core.errors import ConfigError, DataError
from longtail.core.groups import GroupRule, ShotGroups
from longtail.core.prior import written
from longtail.evaluation.bootstrap import drawn_again, group_masks, paired_intervals
from longtail.evaluation.metrics import calibration_error, confusion_matrix, softmax

NO_PREFERENCE = 0.05  # a strength below this says that there was nothing to correct


@dataclass(frozen=True)
class Adjustment:
    """A correction and what it does.

    Attributes:
        name: Of the correction.
        corrected: The corrected model.
        measured_on: Split of the scores, `test` where there is one.
        scores: Accuracies before and after with intervals, by group; calibration error.
        warnings: What the user should think about.
        assumed_before: Class distribution that the logits assumed before, [C]; None if unknown.
        corrections: What was done about the imbalance, in training and by this.
        harm: Why it does not help, judged on val; None if nothing speaks against it.
    """

    name: str
    corrected: Corrected
    measured_on: str
    scores: dict[str, Any]
    warnings: tuple[str, ...]
    assumed_before: Tensor | None
    corrections: tuple[str, ...]
    harm: str | None = None

    def describe(self) -> dict[str, Any]:
        """Return everything as JSON."""
        facts = {"correction": self.name, **self.corrected.facts}
        return {
            **facts,
            "assumed_prior_before": written(self.assumed_before),
            "assumed_prior": written(self.corrected.assumed),
            "corrections": list(self.corrections),
            "does_not_help": self.harm,
            "transductive": self.corrected.transductive,
            "measured_on": self.measured_on,
            "scores": self.scores,
            "warnings": list(self.warnings),
        }


def adjust(
    evidence: Evidence,
    name: str,
    request: Request | None = None,
    *,
    rule: GroupRule = "threshold",
) -> Adjustment:
    """Correct a model and compare it with what it was.

    Args:
        evidence: The model's outputs.
        name: Of a correction in `CORRECTIONS`.
        request: Strength and the like; chosen where it is not given.
        rule: Of the shot groups.

    Raises:
        ConfigError: If there is no such correction.
        ProtocolError: If a split that it needs is missing; a strength is never chosen on test.
        DataError: If features or the last layer are missing, or the corrected logits are not finite.
    """
    if name not in CORRECTIONS:
        raise ConfigError(f"--by must be one of {', '.join(CORRECTIONS)} or auto, not {name!r}.")
    corrected = CORRECTIONS[name](evidence, request or Request())
    split = next((s for s in ("test", "val") if s in evidence.splits), None)
    if split is None:
        evidence.outputs("test")  # raises, saying how to get one
    assert split is not None
    outputs = evidence.outputs(split)
    after = corrected.logits(evidence, split)
    if not bool(torch.isfinite(after).all()):
        raise DataError(
            f"The logits corrected by {name} are not finite. Choose a smaller strength, and check the size "
            "of the model's logits and weights."
        )
    before = evidence.logits(split) if evidence.has_predictions() else None
    warnings = _warnings(evidence, name, corrected, split)
    keeps_order = name not in CHANGES_THE_PRIOR
    scores = _compare(evidence, outputs, before, after, rule, keeps_order=keeps_order)
    done = evidence.corrections + ((name,) if name in CHANGES_THE_PRIOR else ())
    harm = why_it_does_not_help(evidence, name, corrected)
    return Adjustment(name, corrected, split, scores, warnings, evidence.prior(), done, harm)


def tau_oracle(evidence: Evidence) -> dict[str, Any]:
    """Return the strength that is best on test: for diagnosis, never to be reported as a result."""
    curve = tau_curve(
        evidence.features("test"),
        evidence.outputs("test").labels,
        evidence.known_classifier().weight,
    )
    return {
        "what": "ORACLE: chosen on the test split; an upper bound, not a result",
        "strength": curve.best,
        "macro_accuracy": max(curve.accuracy),
        "curve": [
            {"strength": tau, "macro_accuracy": accuracy}
            for tau, accuracy in zip(curve.taus, curve.accuracy, strict=True)
        ],
    }


def _compare(
    evidence: Evidence,
    outputs: Outputs,
    before: Tensor | None,
    after: Tensor,
    rule: GroupRule,
    *,
    keeps_order: bool,
) -> dict[str, Any]:
    """Score before and after; a correction that keeps predictions changes no accuracy, whatever is drawn."""
    groups = group_masks(ShotGroups.from_counts(evidence.class_counts, rule))
    labels = outputs.labels
    right_after = (after.argmax(dim=1) == labels).numpy()
    right_before = right_after if before is None else (before.argmax(dim=1) == labels).numpy()
    scores: dict[str, Any] = {
        "rule": rule,
        "images": len(labels),
        "groups": paired_intervals(
            labels.numpy(), right_before, right_after, groups, together=outputs.together
        ),
        "intervals": drawn_again(labels.numpy(), outputs.together),
        "calibration_error": {"after": _calibration(after, right_after)},
    }
    for name, row in scores["groups"].items():
        row["classes"] = int(groups[name].sum())
        row["images"] = int(groups[name][labels.numpy()].sum())
    if before is not None:
        moved = before.argmax(dim=1) != after.argmax(dim=1)
        scores["predictions_changed"] = 0 if keeps_order else int(moved.sum())
    if before is None:  # there was no classifier, so there is no before
        for row in scores["groups"].values():
            row["before"] = row["difference"] = {"value": None, "interval": None}
    else:
        if keeps_order:
            for row in scores["groups"].values():
                if row["difference"]["value"] is not None:
                    row["difference"]["interval"] = [0.0, 0.0]
        scores["calibration_error"]["before"] = _calibration(before, right_before)
    return scores


def _calibration(logits: Tensor, right: np.ndarray[Any, Any]) -> float | None:
    return calibration_error(softmax(logits.float().numpy()).max(axis=1), right)


def _warnings(evidence: Evidence, name: str, corrected: Corrected, split: str) -> tuple[str, ...]:
    warnings = []
    # moving a known prior is exact, however often
    again = name in CHANGES_THE_PRIOR and name != "prior"
    if evidence.corrections and again:
        warnings.append(
            f"The model was already corrected for the imbalance ({', '.join(evidence.corrections)}). A "
            f"second correction by {name} may go too far: compare before and after."
        )
    chosen = corrected.facts.get("chosen_on") == "val" and name in ("tau", "logit-adjust")
    if chosen and corrected.facts["strength"] < NO_PREFERENCE and not evidence.corrections:
        warnings.append(
            "The best strength on val is 0: the model does not favour frequent classes. It may have "
            "been trained with a correction (--trained-with)."
        )
    if corrected.transductive:
        warnings.append(
            f"Transductive: the prior was estimated from all images of the {split} split together."
        )
    if split == "val":
        warnings.append(
            "There is no test split. The scores are from val, where the strength was chosen, so they "
            "look better than they are."
        )
    if evidence.has_predictions() and (hint := _other_order(evidence, split)):
        warnings.append(hint)
    return tuple(warnings)


def _other_order(evidence: Evidence, split: str) -> str | None:
    """Look for a permutation of the classes under which the model would be far better."""
    from scipy.optimize import linear_sum_assignment  # takes seconds to import

    labels, logits = evidence.outputs(split).labels, evidence.logits(split)
    confusion = confusion_matrix(
        labels.numpy(), logits.argmax(dim=1).numpy(), len(evidence.class_counts)
    )
    rows, columns = linear_sum_assignment(-confusion)
    own, best = float(np.trace(confusion)), float(confusion[rows, columns].sum())
    total = max(1, confusion.sum())
    if best / total - own / total < 0.2 or own > 0.5 * best:
        return None
    names = evidence.class_counts.names
    moved = [(names[r], names[c]) for r, c in zip(rows, columns, strict=True) if r != c][:3]
    shown = ", ".join(f"{a} as {b}" for a, b in moved)
    return (
        f"The classes seem to be in a different order than the labels: {100 * own / total:.1f} % "
        f"of the predictions are correct, and {100 * best / total:.1f} % would be if classes were "
        f"exchanged (for example {shown}). Name the classes in the order of the model's outputs."
    )
