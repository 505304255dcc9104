"""Options of the losses, each of which builds its loss; and which of them correct for the class prior."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torch import nn

from longtail.config import Choice, Options
from longtail.core.batch import Position
from longtail.core.counts import ClassCounts
from longtail.core.stage import epochs_of
from longtail.losses import (
    LADE,
    LDAM,
    CrossEntropy,
    Focal,
    GaussianClouded,
    InverseSoftmax,
    LogitAdjusted,
    SigmoidFocal,
    SoftmaxEqualization,
    VectorScaling,
)


class LossOptions(Choice):
    """A loss: each kind has a name and builds its loss."""

    name: str

    @abstractmethod
    def build(self, counts: ClassCounts, scale: float) -> nn.Module:
        """Build the loss: a `longtail.losses.LabelLoss`, or what is called like one.

        Args:
            counts: Training images per class.
            scale: Inverse temperature of a cosine head, 1 of a linear one.
        """


class CrossEntropyOptions(LossOptions):
    """-log softmax(z)_y."""

    name: Literal["cross-entropy"] = "cross-entropy"
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="probability that is spread over all classes"
    )

    def build(self, counts: ClassCounts, scale: float) -> nn.Module:
        """Build the loss."""
        return CrossEntropy(self.label_smoothing)


class FocalOptions(LossOptions):
    """Focal loss, softmax form (gamma 1 in the LDAM family, 2 in the OLTR family)."""

    name: Literal["focal"] = "focal"
    gamma: float = Field(1.0, ge=0, description="focusing parameter; 0 is cross-entropy")

    def build(self, counts: ClassCounts, scale: float) -> nn.Module:
        """Build the loss."""
        return Focal(self.gamma)


class SigmoidFocalOptions(LossOptions):
    """Focal loss, sigmoid form; the classifier starts at the bias of a rare positive."""

    name: Literal["sigmoid-focal"] = "sigmoid-focal"
    gamma: float = Field(
        1.0, ge=0, description="focusing parameter; 0 is the sum of binary cross-entropies"
    )

    def build(self, counts: ClassCounts, scale: float) -> nn.Module:
        """Build the loss."""
        return SigmoidFocal(self.gamma)


class BalancedSoftmaxOptions(LossOptions):
    """CE(z + log n, y)."""

    name: Literal["balanced-softmax"] = "balanced-softmax"

    def build(self, counts: ClassCounts, scale: float) -> nn.Module:
        """Build the loss."""
        return LogitAdjusted(counts, tau=1.0)


class LogitAdjustedOptions(LossOptions):
    """CE(z + tau log pi, y); tau 1 is balanced softmax."""

    name: Literal["logit-adjusted"] = "logit-adjusted"
    tau: float = Field(
        1.0, description="strength; 0 is cross-entropy, negative values prefer frequent classes"
    )

    def build(self, counts: ClassCounts, scale: float) -> nn.Module:
        """Build the loss."""
        return LogitAdjusted(counts, tau=self.tau)


class InverseSoftmaxOptions(LossOptions):
    """CE(z + log pi - reversal log R(pi), y), R the frequencies in reverse order: SADE's third expert."""

    name: Literal["inverse-softmax"] = "inverse-softmax"
    reversal: float = Field(
        2.0,
        ge=0,
        description="strength of the reversed prior: 2 on CIFAR and ImageNet-LT, 1 on iNaturalist; 0 is "
        "balanced softmax",
    )

    def build(self, counts: ClassCounts, scale: float) -> nn.Module:
        """Build the loss."""
        return InverseSoftmax(counts, tau=self.reversal)


class LADEOptions(LossOptions):
    """Balanced softmax and a term for what the label distribution does not say."""

    name: Literal["lade"] = "lade"
    alpha: float = Field(
        0.1,
        ge=0,
        description="weight of LADE's regulariser: .1 on CIFAR, .05 on ImageNet-LT and iNaturalist",
    )
    quadratic: float = Field(
        0.01,
        ge=0,
        description="lambda of the regulariser's quadratic term: .01 on CIFAR, .5 on ImageNet-LT and "
        "iNaturalist",
    )
    form: Literal["code", "paper"] = Field(
        "code",
        description="how the regulariser averages: as in the released code, or as in the paper",
    )

    def build(self, counts: ClassCounts, scale: float) -> nn.Module:
        """Build the loss."""
        return LADE(counts, self.alpha, self.quadratic, self.form)


class SoftmaxEqualizationOptions(LossOptions):
    """Cross-entropy in which rare classes are spared most of the pushes by images of other classes."""

    name: Literal["softmax-equalization"] = "softmax-equalization"
    spared: float = Field(
        0.9,
        ge=0,
        le=1,
        description="probability that a rare class ignores images of other classes; 0 is cross-entropy",
    )
    threshold: float = Field(
        0.005, ge=0, le=1, description="a class with a smaller share of all images is rare"
    )

    def build(self, counts: ClassCounts, scale: float) -> nn.Module:
        """Build the loss."""
        return SoftmaxEqualization(counts, self.spared, self.threshold)


class VectorScalingOptions(LossOptions):
    """CE(z / T + tau log pi, y), T_c = (n_max / n_c)^gamma: VS loss; tau 0 is class-dependent temperature."""

    name: Literal["vector-scaling"] = "vector-scaling"
    gamma: float = Field(
        0.05, ge=0, description="exponent of the temperatures; 0 is logit adjustment"
    )
    tau: float = Field(0.75, description="strength of the logit adjustment")

    def build(self, counts: ClassCounts, scale: float) -> nn.Module:
        """Build the loss."""
        return VectorScaling(counts, self.gamma, self.tau)


class GaussianCloudedOptions(LossOptions):
    """Noise on the logits, the more, the rarer the class (GCL's first stage); needs the cosine head."""

    name: Literal["gaussian-clouded"] = "gaussian-clouded"
    sigma: float = Field(
        0.5, ge=0, description="noise of the rarest class, as a difference of cosines"
    )

    def build(self, counts: ClassCounts, scale: float) -> nn.Module:
        """Build the loss."""
        return GaussianClouded(counts, self.sigma, scale=scale)


class LDAMOptions(LossOptions):
    """Margins that grow with rarity; needs the cosine head."""

    name: Literal["ldam"] = "ldam"
    max_margin: float = Field(
        0.5, gt=0, le=2, description="margin of the rarest class, as a difference of cosines"
    )

    def build(self, counts: ClassCounts, scale: float) -> nn.Module:
        """Build the loss."""
        return LDAM(counts, self.max_margin, scale)


class LateLossOptions(Options):
    """CE(z + tau log pi, y) in the last epochs, whatever the loss before: truncated logit adjustment."""

    adjustment: float = Field(0.75, description="tau of this loss: strength of the adjustment")
    start: float = Field(
        0.8, ge=0, description="first epoch with this loss; below 1, a fraction of all epochs"
    )

    @property
    def loss(self) -> LossOptions:
        """The loss from `start` on."""
        return LogitAdjustedOptions(tau=self.adjustment)

    def has_started(self, at: Position) -> bool:
        """Say whether this loss holds in this epoch."""
        return at.epoch >= epochs_of(self.start, at.epochs)


def losses_that_correct(losses: Sequence[LossOptions]) -> tuple[str, ...]:
    """Name the losses that correct for the class prior, each once."""
    correcting = (
        BalancedSoftmaxOptions,
        LogitAdjustedOptions,
        InverseSoftmaxOptions,
        LADEOptions,
        SoftmaxEqualizationOptions,
        VectorScalingOptions,
        GaussianCloudedOptions,
        LDAMOptions,
    )
    return tuple(dict.fromkeys(loss.name for loss in losses if isinstance(loss, correcting)))
