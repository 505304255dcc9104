"""Options of losses on features, added to the loss of the labels."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from longtail.config import ByName, Options
from longtail.losses import lifted_structured, range_loss


class LiftedStructuredOptions(Options):
    """Images of a class together, those of the others away (Song et al., CVPR 2016)."""

    name: Literal["lifted-structured"] = "lifted-structured"
    weight: float = Field(
        0.1, gt=0, description="weight of this loss; ours, as no paper states one"
    )
    margin: float = Field(1.0, ge=0, description="margin m between features")

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the weighted loss of features [B, D] and labels [B]."""
        return self.weight * lifted_structured(features, labels, self.margin)


class RangeOptions(Options):
    """The largest distances within a class smaller, the nearest classes apart (Zhang et al., ICCV 2017)."""

    name: Literal["range"] = "range"
    weight: float = Field(
        0.01, gt=0, description="weight of this loss; ours, as no paper states one"
    )
    largest: int = Field(
        2, ge=1, description="number k of largest distances within a class that count"
    )
    margin: float = Field(
        10.0, ge=0, description="margin M between class means (a squared distance)"
    )
    intra: float = Field(1.0, ge=0, description="alpha, weight of the distances within a class")
    inter: float = Field(1.0, ge=0, description="beta, weight of the distances between class means")

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """As of the lifted structured loss."""
        return self.weight * range_loss(
            features,
            labels,
            largest=self.largest,
            margin=self.margin,
            intra=self.intra,
            inter=self.inter,
        )


FeatureLossOptions = Annotated[
    Annotated[LiftedStructuredOptions | RangeOptions, Field(discriminator="name")], ByName
]
