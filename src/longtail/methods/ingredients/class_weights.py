"""Options of class weights in a loss, from an epoch on."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from longtail.config import Options
from longtail.core.batch import Position
from longtail.core.counts import ClassCounts
from longtail.core.stage import epochs_of
from longtail.losses import WeightScheme, class_weights


class ClassWeightOptions(Options):
    """Weights of the classes in the loss, from an epoch on (deferred re-weighting)."""

    name: WeightScheme = "effective-number"
    beta: float = Field(0.9999, ge=0, le=1, description="beta of effective-number weights")
    exponent: float = Field(
        0.25,
        ge=0,
        le=2,
        description="of power weights: a class counts n^-exponent; 1 is inverse (ADRW)",
    )
    start: float = Field(
        0.0, ge=0, description="first epoch with class weights; below 1, a fraction of all epochs"
    )

    def build(self, counts: ClassCounts) -> Tensor:
        """Return the weights, [C]."""
        return class_weights(counts, self.name, beta=self.beta, exponent=self.exponent)

    def has_started(self, at: Position) -> bool:
        """Say whether the weights count in this epoch."""
        return at.epoch >= epochs_of(self.start, at.epochs)
