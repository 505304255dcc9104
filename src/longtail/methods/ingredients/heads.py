"""Options of the classifier, and which losses need which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torch import nn

from longtail.config import Options
from longtail.losses import rare_positive_bias
from longtail.methods.ingredients.losses import (
    GaussianCloudedOptions,
    LDAMOptions,
    LossOptions,
    SigmoidFocalOptions,
)
from longtail.models.heads import CosineHead, Initialisation, LinearHead


class HeadOptions(Options):
    """The classifier."""

    name: Literal["linear", "cosine"] = "linear"
    scale: float = Field(30.0, gt=0, description="inverse temperature of the cosine head")
    initialisation: Initialisation = Field(
        "uniform",
        description="initialisation of a linear head: PyTorch's, or Kaiming's, as in LDAM's code and code "
        "based on it",
    )

    def build(self, num_features: int, num_classes: int, loss: Options) -> nn.Module:
        """Build the head; a sigmoid loss sets the linear head's initial bias."""
        if self.name == "cosine":
            return CosineHead(num_features, num_classes, self.scale)
        rare = isinstance(loss, SigmoidFocalOptions)
        return LinearHead(
            num_features,
            num_classes,
            rare_positive_bias(num_classes) if rare else None,
            self.initialisation,
        )


def refuse_without_cosines(losses: Sequence[LossOptions], head: HeadOptions) -> None:
    """Raise a ValueError if a loss is in units of a cosine and the head has none."""
    if head.name == "cosine":
        return
    for loss in losses:
        if isinstance(loss, LDAMOptions | GaussianCloudedOptions):
            what = "margins" if isinstance(loss, LDAMOptions) else "clouds"
            raise ValueError(
                f"loss {loss.name} needs head cosine, because its {what} are differences of cosines"
            )
