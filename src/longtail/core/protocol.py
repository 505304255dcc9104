"""Protocol: who may see which split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from longtail.core.errors import ProtocolError

Selection = Literal["last", "best-validation"]


@dataclass(frozen=True)
class Protocol:
    """The rules by which one data set is used.

    Training sees `train`. Selection (best epoch, early stopping, strengths of corrections) sees
    `val`, or nothing: then the last epoch counts. `test` is seen once, by evaluation.

    Attributes:
        has_val: Whether there is a validation split.
        selection: `last`, or `best-validation` for the epoch with the best macro accuracy on `val`.
    """

    has_val: bool
    selection: Selection = "last"

    def __post_init__(self) -> None:
        if self.selection == "best-validation" and not self.has_val:
            raise ProtocolError(
                "select=best-validation and early stopping need a validation split, and there is none. "
                "Hold out a part of train with data.validation_per_class=5, or use the last epoch "
                "(training.select=last). The test split never selects anything."
            )

    def may_train_on(self, split: str) -> None:
        """Refuse any split but `train` for gradients and statistics."""
        if split != "train":
            raise ProtocolError(f"Training may use only the train split, not {split!r}.")

    def may_select_on(self, split: str) -> None:
        """Refuse any split but `val` for choices."""
        if split != "val":
            raise ProtocolError(
                f"Choices may be made only on the val split, not on {split!r}: a number means nothing if "
                "it was chosen on the data that it is reported for."
            )

    def describe(self, best_epoch: int | None = None) -> str:
        """Return the selection rule as it is printed beside every number."""
        if self.selection == "best-validation":
            epoch = "" if best_epoch is None else f" (epoch {best_epoch})"
            return f"best macro accuracy on val{epoch}"
        return "last epoch"
