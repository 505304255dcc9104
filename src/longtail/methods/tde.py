"""TDE: de-confounded training and total direct effect (Tang et al., NeurIPS 2020, arXiv 2009.12991).

Idea: Momentum carries the mean direction of features, which on a long tail is that of frequent classes, into
every feature. Train with a normalised classifier of several heads, remember that direction, and take it out
of the features when predicting: what remains is what the image itself says.

Symbols:
    x, w_c   features [B, D] and classifier rows [C, D], both cut into K heads: x^k, w_c^k
    tau, g   inverse temperature; what is added to the length of a row
    d        running sum of mean features, mu d + mean over the batch of x; only its direction counts   [D]
    alpha    how much of it is taken out

Training:    z_c = tau/K sum_k <w_c^k, x^k> / ((|w_c^k| + g) |x^k|), cross-entropy
Prediction:  z_c = tau/K sum_k <w_c^k, u^k - alpha cos(u^k, v^k) v^k> / (|w_c^k| + g)
             with u^k and v^k the unit vectors of x^k and d^k

Where paper and released code disagree, and what we do:
- As in the code, the batch mean is added without a factor 1 - mu; the direction is the same.
- On large data sets, the code changes mu with the learning rate. Here, it is constant.
- On CIFAR, the released network has two parallel last blocks and 128 features, although it is called
  ResNet-32; the first published numbers used pretrained weights.
- In the code, alpha is a constant per data set. `alpha=null` uses the authors' rule of thumb, 1 divided by
  the mean cosine between training features and d.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from longtail.config import Options
from longtail.core import distributed
from longtail.core.batch import Batch, Position, StepOutput
from longtail.core.errors import ConfigError
from longtail.core.stage import Stage
from longtail.losses import cross_entropy
from longtail.methods.ingredients import assumed
from longtail.methods.method import Facts, FitBatches, Method, Setting
from longtail.models.heads import CausalHead


class TDEOptions(Options):
    """What can be chosen."""

    name: Literal["tde"] = "tde"
    heads: int = Field(
        2, ge=1, description="number K of heads; each sees an equal part of the features"
    )
    scale: float = Field(16.0, gt=0, description="tau, the inverse temperature")
    softening: float = Field(
        1 / 32, ge=0, description="gamma, added to the length of a classifier row"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="mu, momentum of the mean direction")
    alpha: float | None = Field(
        None, ge=0,
        description="alpha, the share of the mean direction that prediction removes: 1.5 on CIFAR, 3 "
        "on large data sets, 0 for nothing; by a rule of thumb if not given",
    )  # fmt: skip


class TDE(Method):
    """See the head of this file."""

    Config = TDEOptions
    summary = (
        "a normalised classifier of several heads; prediction removes the mean direction of the "
        "features"
    )
    advice = "rare classes should gain what frequent classes lose, without a second training"
    citation = (
        "Tang et al., Long-Tailed Classification by Keeping the Good and Removing the Bad Momentum "
        "Causal Effect, NeurIPS 2020"
    )

    begins_with = ("backbone", "head", "direction")

    direction: Tensor
    alpha: Tensor

    def __init__(self, config: TDEOptions, setting: Setting) -> None:
        super().__init__()
        self.config, self.epochs, self.counts = config, setting.epochs, setting.class_counts
        self.backbone = setting.build_backbone()
        width = self.backbone.num_features
        if width % config.heads:
            raise ConfigError(
                f"method.heads must divide the {width} features of the backbone, but got {config.heads}."
            )
        self.head = CausalHead(
            width, len(setting.class_counts), config.heads, config.scale, config.softening
        )
        self.register_buffer("direction", torch.zeros(width))
        self.register_buffer("alpha", torch.zeros(()))  # until the training is over

    def stages(self) -> Sequence[Stage]:
        """Train everything; then set alpha, so that runs with another one can share the training."""
        return [
            Stage(name="joint", epochs=self.epochs, trainable=("backbone", "head")),
            Stage(name="alpha", epochs=0, kind="fit"),
        ]

    def training_step(self, batches: Sequence[Batch], at: Position) -> StepOutput:
        """Return cross-entropy of the normalised classifier."""
        (batch,) = batches
        features = self.backbone(batch.images)
        loss = cross_entropy(self.head(features), batch.labels)
        return StepOutput(loss, carry={"features": features.detach()})

    @torch.no_grad()
    def after_step(self, out: StepOutput, at: Position) -> None:
        """Move the direction by the mean feature of the joint batch."""
        mean = distributed.mean(out.carry["features"].float().mean(dim=0))
        self.direction.mul_(self.config.momentum).add_(mean)

    def fit(self, stage: Stage, batches: FitBatches, split: str) -> Facts:
        """Set alpha as given, or to 1 over the mean cosine of features to the direction."""
        if self.config.alpha is not None:
            self.alpha.fill_(self.config.alpha)
            return {"alpha": self.config.alpha}
        total, seen = 0.0, 0
        for images, _ in batches:
            cosines = self.head.cosines(self.backbone(images), self.direction)  # [B, K]
            total += float(cosines.detach().mean(dim=1).sum())
            seen += len(cosines)
        cosine = total / seen
        # features that do not lean to the direction have nothing to take out
        self.alpha.fill_(1 / cosine if cosine > 0 else 0.0)
        return {"mean_cosine": cosine, "alpha": float(self.alpha)}

    def predict(self, images: Tensor) -> Tensor:
        """Return the logits of features without their part along the direction."""
        logits: Tensor = self.head(self.backbone(images), self.direction, self.alpha)
        return logits

    @property
    def notes(self) -> tuple[str, ...]:
        """Say which alpha was found."""
        if self.config.alpha is not None or not self.alpha:
            return ()
        return (f"alpha = {float(self.alpha):.2f} (1 over the mean cosine of training features).",)

    @classmethod
    def shares_first_stage(cls, own: Options, other: Options) -> bool:
        """Say whether both train alike, whatever they take out afterwards."""
        if not (isinstance(own, TDEOptions) and isinstance(other, TDEOptions)):
            return False
        return own.model_copy(update={"alpha": other.alpha}) == other

    def corrections(self) -> tuple[str, ...]:
        """Name what is taken out."""
        return () if self.config.alpha == 0 else ("mean direction of features removed",)

    def assumed_prior(self, at: Position) -> Tensor | None:
        """Return the training prior while nothing is taken out."""
        nothing = at.stage == 0 or self.config.alpha == 0
        return assumed(self.counts, at) if nothing else None
