"""Try every correction that fits a model and its data, and choose one of them on val, or none.

The criterion is class-averaged accuracy on val. The model stays as it is where nothing has a higher one; the
calibration error decides between corrections that gain the same. A strength is chosen on one half of val and
judged on the other, in turns: on the images that chose it, it would look better than it is. `prior` is not
tried, because the shares of the classes in use must come from the user, or be estimated from test images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from longtail.adjust.tool.corrections import CORRECTIONS, Corrected, Request
from longtail.adjust.tool.evidence import Evidence, Outputs
from longtail.adjust.tool.harm import calibration, class_averaged, why_it_does_not_help
from longtail.core.errors import ConfigError, LongtailError, ProtocolError
from longtail.evaluation.halves import halves

AUTO = "auto"
# of equal ones the first: those that change least come first
TRIED = ("temperature", "balanced-temperature", "logit-adjust", "tau", "lws", "crt", "ncm")
CRITERION = "macro accuracy on val (ties: calibration error)"
NO_VAL = (
    "--by auto chooses on a validation split, and there is none; the test split never selects "
    "anything. Mark rows of the table with split val, add a folder val/ to the data, or hold "
    "out a part of train when you train (validation_per_class=5)."
)
Writable = Callable[[Corrected], object]


@dataclass(frozen=True)
class Tried:
    """What a correction does on val.

    Attributes:
        name: Of the correction; `as it is` for the model.
        strength: That all of val chooses; None where there is none.
        accuracy: Class-averaged, on the halves of val, each with the strength that the other half chooses.
        calibration_error: On the same.
        changed: Predictions that are other ones than the model's.
    """

    name: str
    strength: float | None
    accuracy: float
    calibration_error: float
    changed: int

    @property
    def rank(self) -> tuple[float, float]:
        """The criterion, the smaller the better."""
        # rounded: means of the same hits may differ in the last digit
        return -round(self.accuracy, 9), round(self.calibration_error, 9)

    def gains_on(self, other: Tried) -> bool:
        """Say whether the accuracy is higher; a calibration error that differs alone may be chance."""
        return self.rank[0] < other.rank[0]


@dataclass(frozen=True)
class Choice:
    """The outcome.

    Attributes:
        name: Of the chosen correction; None to leave the model as it is.
        images: Of val.
        rows: The model as it is, and what was tried.
        left_out: Why a correction was not tried or not taken, by name.
    """

    name: str | None
    images: int
    rows: tuple[Tried, ...]
    left_out: dict[str, str]

    def describe(self) -> dict[str, Any]:
        """Return everything as JSON."""
        rows = [vars(row) for row in self.rows]
        return {"criterion": CRITERION, "tried": rows, "left_out": self.left_out}

    def unexplained(self) -> dict[str, str]:
        """Return those of `left_out` whose reason no row shows: not tried, or better on the halves."""
        worse = {row.name for row in self.rows if not row.gains_on(self.rows[0])}
        return {name: why for name, why in self.left_out.items() if name not in worse}


def choose(
    evidence: Evidence,
    request_of: Callable[[str], Request],
    writable: Writable = lambda corrected: None,
) -> Choice:
    """Choose a correction on val, or none.

    Args:
        evidence: Of the model. The test split in it is not looked at.
        request_of: How a correction is to be fitted, by its name; without a strength.
        writable: Raises a `LongtailError` if a correction cannot be written into the model.

    Raises:
        ProtocolError: If there is no val split.
        ConfigError: If there are no predictions to be better than.
    """
    if "val" not in evidence.splits:
        raise ProtocolError(NO_VAL)
    if not evidence.has_predictions():
        raise ConfigError(
            "--by auto compares with the model's own predictions, but there are only features. Add "
            "logits, or the classifier's weight and bias."
        )
    seen = {split: outputs for split, outputs in evidence.splits.items() if split != "test"}
    evidence = replace(evidence, splits=seen)
    outputs, before = evidence.outputs("val"), evidence.logits("val").float()
    half = halves(outputs.labels.numpy(), outputs.together)
    rows, left_out = [_row("as it is", None, before, before, outputs.labels)], {}
    for name in TRIED:
        request = request_of(name)
        try:
            corrected = CORRECTIONS[name](evidence, request)
            writable(corrected)
            after = _crossed(evidence, name, request, corrected, half)
        except LongtailError as error:
            left_out[name] = str(error).split(". ")[0].rstrip(".") + "."
            continue
        if not bool(torch.isfinite(after).all()):
            left_out[name] = "Its logits are not finite."
            continue
        strength = corrected.facts.get("strength")
        rows.append(_row(name, strength, before, after, outputs.labels))
        if (harm := why_it_does_not_help(evidence, name, corrected)) is not None:
            left_out[name] = f"It does not help: {harm}."
    return Choice(_best(rows, left_out), len(outputs), tuple(rows), left_out)


def _best(rows: list[Tried], left_out: dict[str, str]) -> str | None:
    as_it_is, *tried = rows
    better = [row for row in tried if row.name not in left_out and row.gains_on(as_it_is)]
    # keeps the first of equal ones
    return min(better, key=lambda row: row.rank).name if better else None


def _row(name: str, strength: float | None, before: Tensor, after: Tensor, labels: Tensor) -> Tried:
    changed = int((before.argmax(dim=1) != after.argmax(dim=1)).sum())
    return Tried(name, strength, class_averaged(after, labels), calibration(after, labels), changed)


def _crossed(
    evidence: Evidence, name: str, request: Request, whole: Corrected, half: NDArray[np.bool_]
) -> Tensor:
    """Return logits of val, [N, C], each from a correction that did not see the image."""
    if whole.facts.get("chosen_on") != "val" or not half.any():
        return whole.logits(evidence, "val").float()
    outputs = evidence.outputs("val")
    after = torch.empty_like(evidence.logits("val"), dtype=torch.float32)
    for rows in (half, ~half):
        one, other = (
            replace(evidence, splits={**evidence.splits, "val": _part(outputs, part)})
            for part in (rows, ~rows)
        )
        after[torch.from_numpy(~rows)] = (
            CORRECTIONS[name](one, request).logits(other, "val").float()
        )
    return after


def _part(outputs: Outputs, rows: NDArray[np.bool_]) -> Outputs:
    places = torch.from_numpy(np.flatnonzero(rows))
    return Outputs(
        outputs.labels[places],
        None if outputs.logits is None else outputs.logits[places],
        None if outputs.features is None else outputs.features[places],
        None if outputs.together is None else outputs.together[rows],
    )
