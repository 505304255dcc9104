"""Options of which images' loss sharpness-aware minimisation flattens, and how much: a factor for each class.

SAM takes the gradient of the whole loss uphill (`longtail.engine.sharpness`). For long-tailed data two papers
take only a part S of it there, and the rest P where the weights are. With l the loss of an image:

    ImbSAM      (Zhou et al., ICCV 2023, arXiv 2308.07815)
                P = mean of [n_y >= eta] l        S = weight times the mean of [n_y < eta] l
    Focal-SAM   (Li et al., ICML 2025, arXiv 2505.01660)
                P = mean of (1 - s_y) l           S = mean of s_y l,   s_c = lam (1 - pi_c)^gamma

Where papers and codes disagree: ImbSAM's code doubles S (`weight=2`, the default), its text does not. Its
training in PyTorch hands over the rare classes by another name than is expected: it does not run as released.
In both codes, BatchNorm's statistics follow both passes. Here, they follow the first only, as those of the
weights that predict (`longtail.engine.sharpness`).
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from longtail.config import ByName, Options
from longtail.core.counts import ClassCounts


class ImbSAMOptions(Options):
    """Flat minima for rare classes only."""

    name: Literal["imbsam"] = "imbsam"
    below: int = Field(
        20, ge=1, description="eta: classes with fewer training images are flattened"
    )
    weight: float = Field(
        2.0,
        gt=0,
        description="weight of the loss of these classes: 2 in the released code, 1 in the text",
    )

    def factors(self, counts: ClassCounts) -> Tensor:
        """Return the factors of a loss of each class, in all and of that in S, float32 [2, C]."""
        rare = counts.tensor(torch.float64) < self.below
        sharp = self.weight * rare.double()
        return torch.stack([sharp + (~rare).double(), sharp]).float()


class FocalSAMOptions(Options):
    """Flat minima, the more, the rarer the class."""

    name: Literal["focal-sam"] = "focal-sam"
    gamma: float = Field(3.2, ge=0, description="0 treats all classes alike")
    strength: float = Field(0.8, gt=0, le=1, description="lambda; 1 with gamma=0 is SAM")

    def factors(self, counts: ClassCounts) -> Tensor:
        """As of ImbSAM."""
        sharp = self.strength * (1 - counts.log_prior(torch.float64).exp()) ** self.gamma
        return torch.stack([torch.ones_like(sharp), sharp]).float()


SharpnessOptions = Annotated[
    Annotated[ImbSAMOptions | FocalSAMOptions, Field(discriminator="name")], ByName
]
