"""BBN: bilateral-branch network (Zhou et al., CVPR 2020, arXiv 1912.02413).

Idea: Re-balancing helps the classifier and harms the representation. So train two branches on one trunk, one
on images as they are and one that prefers rare classes, and move the weight of the loss from the first to
the second while training goes on.

Symbols:
    f_c, f_r   features of the conventional and of the re-balancing branch: the last residual block of each is
               its own, all before is shared                                            [B, D]
    x_c, x_r   an image drawn as it is, and one whose class is drawn with probability ~ 1 / n_c
    W, b       one classifier on both features, [C, 2D], [C]
    a          1 - ((t - 1) / T)^2 in epoch t = 1..T: 1 in the beginning, near 0 at the end

Training:    z = W [2 a f_c(x_c), 2 (1 - a) f_r(x_r)] + b,  L = a CE(z, y_c) + (1 - a) CE(z, y_r)
Prediction:  z = W [f_c(x), f_r(x)] + b, as in training with a = 1/2

Each step sees two batches, so an epoch costs twice that of a plain network. Both pass the trunk one after the
other: its BatchNorm normalises each by itself, and its running statistics follow both.

Where paper and released code disagree, and what we do:
- For trainings of 90 and 180 epochs, the code uses T = 100 and 200, so that a ends at about one fifth.
  Here, T is the number of epochs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from longtail.config import Options
from longtail.core.batch import Batch, Position, StepOutput
from longtail.core.stage import Sampling, Stage
from longtail.losses import cross_entropy
from longtail.methods.method import Method, Setting
from longtail.models.experts import Experts
from longtail.models.heads import LinearHead


class BBNOptions(Options):
    """Nothing can be chosen."""

    name: Literal["bbn"] = "bbn"


class Bilateral(nn.Module):
    """A trunk and the last blocks of the two branches."""

    def __init__(self, network: Experts) -> None:
        super().__init__()
        self.trunk = network.trunk
        self.conventional, self.rebalancing = network.tails

    def forward(self, usual: Tensor, rare: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map images [B, 3, H, W] to f_c of `usual` and f_r of `rare`, [B, D] each.

        Without `rare` both branches see the same images, and the trunk runs once.
        """
        maps = self.trunk(usual)
        others = maps if rare is None else self.trunk(rare)
        return self.conventional(maps).mean(dim=(2, 3)), self.rebalancing(others).mean(dim=(2, 3))


class BBN(Method):
    """See the head of this file."""

    Config = BBNOptions
    summary = (
        "two branches, one for the class distribution and one for its reverse; training moves "
        "from the first to the second"
    )
    advice = (
        "you need a comparison with BBN and have time for hundreds of epochs, each of which sees "
        "two images for one"
    )
    citation = "Zhou et al., BBN: Bilateral-Branch Network with Cumulative Learning, CVPR 2020"

    def __init__(self, config: BBNOptions, setting: Setting) -> None:
        super().__init__()
        self.config, self.epochs = config, setting.epochs
        network = setting.build_experts(2, narrow=False, own="block")
        self.backbone = Bilateral(network)
        self.head = LinearHead(2 * network.num_features, len(setting.class_counts))

    def stages(self) -> Sequence[Stage]:
        """Train everything on two streams of images."""
        reverse = Sampling(name="reversed", form="multinomial")
        return [Stage(name="joint", epochs=self.epochs, samplings=(Sampling(), reverse))]

    def training_step(self, batches: Sequence[Batch], at: Position) -> StepOutput:
        """Return L."""
        usual, rare = batches
        share = 1 - (at.epoch / at.epochs) ** 2
        f_c, f_r = self.backbone(usual.images, rare.images)
        logits = self.head(torch.cat([2 * share * f_c, 2 * (1 - share) * f_r], dim=1))
        loss = share * cross_entropy(logits, usual.labels)
        return StepOutput(loss + (1 - share) * cross_entropy(logits, rare.labels))

    def predict(self, images: Tensor) -> Tensor:
        """Return z of images that both branches see."""
        logits: Tensor = self.head(torch.cat(self.backbone(images), dim=1))
        return logits

    def corrections(self) -> tuple[str, ...]:
        """Name the branch of rare classes."""
        return ("branch trained with reversed sampling",)
