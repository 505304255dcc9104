"""Options that several methods share: losses, class weights, samplers, heads, mixing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from torch import Tensor, nn

from longtail.core.batch import Batch, Position
from longtail.core.counts import ClassCounts
from longtail.core.rng import numpy_generator
from longtail.core.stage import SamplerName, Sampling, epochs_of
from longtail.data.options import Options
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
    WeightScheme,
    class_weights,
    rare_positive_bias,
)
from longtail.methods.mixing import Mixed, cutmix, mixup
from longtail.models.heads import CosineHead, LinearHead


def _by_name(value: Any) -> Any:  # noqa: ANN401 - raw input of a recipe
    """Let `loss: ldam` stand for `loss: {name: ldam}`."""
    return {"name": value} if isinstance(value, str) else value


ByName = BeforeValidator(_by_name)


class CrossEntropyOptions(Options):
    """-log softmax(z)_y."""

    name: Literal["cross-entropy"] = "cross-entropy"
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share spread over all classes")

    def build(self, counts: ClassCounts, scale: float) -> nn.Module:
        """Build the loss."""
        return CrossEntropy(self.label_smoothing)


class FocalOptions(Options):
    """Focal loss, softmax form (gamma 1 in the LDAM family, 2 in the OLTR family)."""

    name: Literal["focal"] = "focal"
    gamma: float = Field(1.0, ge=0, description="0 is cross-entropy")

    def build(self, counts: ClassCounts, scale: float) -> nn.Module:
        """Build the loss."""
        return Focal(self.gamma)


class SigmoidFocalOptions(Options):
    """Focal loss, sigmoid form; the classifier starts at the bias of a rare positive."""

    name: Literal["sigmoid-focal"] = "sigmoid-focal"
    gamma: float = Field(1.0, ge=0, description="0 is the sum of binary cross-entropies")

    def build(self, counts: ClassCounts, scale: float) -> nn.Module:
        """Build the loss."""
        return SigmoidFocal(self.gamma)


class BalancedSoftmaxOptions(Options):
    """CE(z + log n, y)."""

    name: Literal["balanced-softmax"] = "balanced-softmax"

    def build(self, counts: ClassCounts, scale: float) -> nn.Module:
        """Build the loss."""
        return LogitAdjusted(counts, tau=1.0)


class LogitAdjustedOptions(Options):
    """CE(z + tau log pi, y); tau 1 is balanced softmax."""

    name: Literal["logit-adjusted"] = "logit-adjusted"
    tau: float = Field(1.0, description="0 is cross-entropy; below 0 prefers frequent classes")

    def build(self, counts: ClassCounts, scale: float) -> nn.Module:
        """Build the loss."""
        return LogitAdjusted(counts, tau=self.tau)


class InverseSoftmaxOptions(Options):
    """CE(z + log pi - reversal log R(pi), y), R the frequencies in reverse order: SADE's third expert."""

    name: Literal["inverse-softmax"] = "inverse-softmax"
    reversal: float = Field(
        2.0, ge=0, description="2 on CIFAR and ImageNet-LT, 1 on iNaturalist; 0 is balanced softmax"
    )

    def build(self, counts: ClassCounts, scale: float) -> nn.Module:
        """Build the loss."""
        return InverseSoftmax(counts, tau=self.reversal)


class LADEOptions(Options):
    """Balanced softmax and a term for what the label distribution does not say."""

    name: Literal["lade"] = "lade"
    alpha: float = Field(
        0.1, ge=0, description="weight of the term: .1 on CIFAR, .05 on ImageNet-LT and iNaturalist"
    )
    quadratic: float = Field(
        0.01, ge=0, description="lam: .01 on CIFAR, .5 on ImageNet-LT and iNaturalist"
    )
    form: Literal["code", "paper"] = Field("code", description="of the mean in the term")

    def build(self, counts: ClassCounts, scale: float) -> nn.Module:
        """Build the loss."""
        return LADE(counts, self.alpha, self.quadratic, self.form)


class SoftmaxEqualizationOptions(Options):
    """Cross-entropy in which rare classes are spared most of the pushes by pictures of other classes."""

    name: Literal["softmax-equalization"] = "softmax-equalization"
    spared: float = Field(0.9, ge=0, le=1, description="probability; 0 is cross-entropy")
    threshold: float = Field(
        0.005, ge=0, le=1, description="classes with a smaller share of all pictures are rare"
    )

    def build(self, counts: ClassCounts, scale: float) -> nn.Module:
        """Build the loss."""
        return SoftmaxEqualization(counts, self.spared, self.threshold)


class GaussianCloudedOptions(Options):
    """Noise on the logits, the more, the rarer the class (GCL's first stage); needs the cosine head."""

    name: Literal["gaussian-clouded"] = "gaussian-clouded"
    sigma: float = Field(0.5, ge=0, description="of the rarest class's cloud, in units of a cosine")

    def build(self, counts: ClassCounts, scale: float) -> nn.Module:
        """Build the loss."""
        return GaussianClouded(counts, self.sigma, scale=scale)


class LDAMOptions(Options):
    """Margins that grow with rarity; needs the cosine head."""

    name: Literal["ldam"] = "ldam"
    max_margin: float = Field(0.5, gt=0, le=2, description="of the rarest class, cosine units")

    def build(self, counts: ClassCounts, scale: float) -> nn.Module:
        """Build the loss."""
        return LDAM(counts, self.max_margin, scale)


LossOptions = Annotated[
    Annotated[
        CrossEntropyOptions
        | FocalOptions
        | SigmoidFocalOptions
        | BalancedSoftmaxOptions
        | LogitAdjustedOptions
        | InverseSoftmaxOptions
        | LADEOptions
        | SoftmaxEqualizationOptions
        | GaussianCloudedOptions
        | LDAMOptions,
        Field(discriminator="name"),
    ],
    ByName,
]


class HeadOptions(Options):
    """The classifier."""

    name: Literal["linear", "cosine"] = "linear"
    scale: float = Field(30.0, gt=0, description="inverse temperature of the cosine head")

    def build(self, num_features: int, num_classes: int, loss: Options) -> nn.Module:
        """Build the head; a sigmoid loss sets the linear head's initial bias."""
        if self.name == "cosine":
            return CosineHead(num_features, num_classes, self.scale)
        rare = isinstance(loss, SigmoidFocalOptions)
        return LinearHead(
            num_features, num_classes, rare_positive_bias(num_classes) if rare else None
        )


def refuse_without_cosines(losses: Sequence[LossOptions], head: HeadOptions) -> None:
    """Raise a ValueError if a loss is in units of a cosine and the head has none."""
    if head.name == "cosine":
        return
    for loss in losses:
        if isinstance(loss, LDAMOptions | GaussianCloudedOptions):
            what = "margins" if isinstance(loss, LDAMOptions) else "clouds"
            raise ValueError(
                f"loss {loss.name} needs head cosine: its {what} are in units of a cosine"
            )


def losses_that_correct(losses: Sequence[Options]) -> tuple[str, ...]:
    """Name the losses that correct for the class prior, each once."""
    correcting = (
        BalancedSoftmaxOptions,
        LogitAdjustedOptions,
        InverseSoftmaxOptions,
        LADEOptions,
        SoftmaxEqualizationOptions,
        GaussianCloudedOptions,
        LDAMOptions,
    )
    return tuple(dict.fromkeys(loss.name for loss in losses if isinstance(loss, correcting)))


class ClassWeightOptions(Options):
    """Weights of the classes in the loss, from an epoch on (deferred re-weighting)."""

    name: WeightScheme = "effective-number"
    beta: float = Field(0.9999, ge=0, le=1, description="of effective-number weights")
    start: float = Field(
        0.0, ge=0, description="first epoch with weights; below 1 a share of the epochs"
    )

    def build(self, counts: ClassCounts) -> Tensor:
        """Return the weights, [C]."""
        return class_weights(counts, self.name, beta=self.beta)

    def has_started(self, at: Position) -> bool:
        """Say whether the weights count in this epoch."""
        return at.epoch >= epochs_of(self.start, at.epochs)


class SamplingOptions(Options):
    """How training pictures are drawn, from an epoch on (deferred re-sampling)."""

    name: SamplerName = "instance"
    form: Literal["published", "multinomial"] = Field(
        "published", description="cycles and shuffles as released, or independent draws"
    )
    draws_per_class: int = Field(4, ge=1, description="of the class-balanced cycle")
    beta: float = Field(0.9999, ge=0, lt=1, description="of effective-number sampling")
    start: float = Field(
        0.0, ge=0, description="first epoch of this sampler, instance-balanced before"
    )

    def build(self, epochs: int) -> Sampling:
        """Return the sampling of a stage of `epochs` epochs."""
        return Sampling(
            name=self.name,
            form=self.form,
            draws_per_class=self.draws_per_class,
            beta=self.beta,
            switch_epoch=epochs_of(self.start, epochs) if self.start else None,
        )


class MixingOptions(Options):
    """Pair mixing of the training batch."""

    name: Literal["mixup", "cutmix"] = "mixup"
    alpha: float = Field(1.0, gt=0, description="lam ~ Beta(alpha, alpha)")
    probability: float = Field(1.0, ge=0, le=1, description="of mixing a batch")
    partners: Literal["batch", "class-balanced"] = Field(
        "batch",
        description="what is mixed in: pictures of the batch, or of a second stream that draws all "
        "classes equally often (CMO)",
    )
    start: float = Field(
        0.0, ge=0, description="first epoch that mixes; below 1 a share of the epochs"
    )
    rest: float = Field(
        0.0, ge=0, description="epochs at the end that do not mix; below 1 a share of the epochs"
    )

    def mixes(self, at: Position) -> bool:
        """Say whether batches of this epoch may be mixed."""
        last = at.epochs - epochs_of(self.rest, at.epochs)
        return epochs_of(self.start, at.epochs) <= at.epoch < last


def mixed_batch(
    options: MixingOptions | None, batches: Sequence[Batch], at: Position
) -> Mixed | None:
    """Mix the pictures of a step as `options` say, or return None if this step is not mixed.

    Args:
        options: Of the mixing, or None for none.
        batches: The pictures, and those of the streams that `options` ask for.
        at: Where the training is.
    """
    if options is None or not options.mixes(at):
        return None
    generator = numpy_generator(at.seed, "mixing", at.stage, at.epoch, at.step)
    if generator.random() >= options.probability:
        return None
    mix = mixup if options.name == "mixup" else cutmix
    batch, *others = batches
    partners = (others[0].images, others[0].labels) if others else None
    return mix(batch.images, batch.labels, options.alpha, generator, partners)


def mixing_streams(options: MixingOptions | None) -> tuple[Sampling, ...]:
    """Return the further streams of pictures that a stage needs to mix."""
    if options is None or options.partners == "batch":
        return ()
    return (Sampling(name="class-balanced", form="multinomial"),)


def mixing_corrections(options: MixingOptions | None) -> tuple[str, ...]:
    """Name what mixing corrects for the class prior."""
    return ("mixing with class-balanced partners",) if mixing_streams(options) else ()
