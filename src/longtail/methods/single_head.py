"""One backbone, one head: every method that is only a choice of loss, sampler, head and schedule.

Idea: Keep the network and change what it is told. The loss (balanced softmax, LDAM, focal), the
images it sees (samplers, mixup, cutmix), or when either changes (deferred re-weighting or
re-sampling) shift attention to rare classes.

Symbols:
    f(x)  features   [B, D]      W, b  head      [C, D], [C]
    z     logits     [B, C]      w     weights   [C], mean 1 over classes
    lam   share of the first image of a mixed pair

Covers, as recipes: cross-entropy; focal; class-balanced cross-entropy and focal (Cui et al., CVPR 2019); LDAM
and LDAM-DRW (Cao et al., NeurIPS 2019); CE-DRW; CE-DRS; balanced softmax (Ren et al., NeurIPS 2020); logit
adjustment (Menon et al., ICLR 2021); LADE (Hong et al., CVPR 2021); softmax equalization (Tan et al., CVPR
2020); vector scaling (Kini et al., NeurIPS 2021), class-dependent temperatures (Ye et al., 2020), and the
former with weights in place of temperatures late in training (ADRW and TLA, Wang et al., NeurIPS 2023);
cross-entropy with the lifted structured (Song et al., CVPR 2016) or range loss (Zhang et al., ICCV 2017); the
first stage of GCL (Li et al., CVPR 2022); mixup; cutmix; CMO (Park et al., CVPR 2022); with
training.optimizer=sam, ImbSAM (Zhou et al., ICCV 2023) and Focal-SAM (Li et al., ICML 2025). On a pretrained
backbone: fine-tuning, its last block alone, or a head on frozen features, which without augmentation are
computed once (f(x) is constant then). The head may begin with class means, a linear probe or vectors of the
class names (LIFT, Shi et al., ICML 2024), and stay so.

Where papers and code disagree: see the loss files. Deferred re-sampling follows the text of the
LDAM paper, because in the released code the sampler never takes effect. When a deferred recipe
switches, no parameter and no optimiser state changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from longtail.config import ByName, Options
from longtail.core.batch import Batch, Position, StepOutput
from longtail.core.errors import ConfigError
from longtail.core.stage import Stage
from longtail.losses import LabelLoss, Reduction
from longtail.losses.softmax.adjusted_softmax import reduce
from longtail.methods.ingredients import (
    ClassWeightOptions,
    CrossEntropyOptions,
    FeatureLossOptions,
    HeadOptions,
    HeadStartOptions,
    LateLossOptions,
    LossOptions,
    MixingOptions,
    ProbeOptions,
    SamplingOptions,
    SharpnessOptions,
    SigmoidFocalOptions,
    assumed,
    losses_that_correct,
    mixed_batch,
    mixing_corrections,
    mixing_streams,
    refuse_without_cosines,
    start_head,
    start_stage,
)
from longtail.methods.method import Facts, FitBatches, Method, Setting


class SingleHeadOptions(Options):
    """What can be chosen."""

    name: Literal["single-head"] = "single-head"
    loss: LossOptions = Field(CrossEntropyOptions(), description="loss of the logits")
    late_loss: LateLossOptions | None = Field(
        None, description="logit adjustment instead of the loss in the last epochs (TLA)"
    )
    head: Annotated[HeadOptions, ByName] = HeadOptions()
    sampling: Annotated[SamplingOptions, ByName] = SamplingOptions()
    class_weights: Annotated[ClassWeightOptions | None, ByName] = None
    mixing: Annotated[MixingOptions | None, ByName] = None
    reduction: Literal["weighted-mean", "mean"] = Field(
        "weighted-mean",
        description="divisor of a weighted loss: the sum of the batch's weights, or B",
    )
    feature_loss: FeatureLossOptions | None = Field(
        None,
        description="on features, added; draw several images of a class (sampling=class-balanced)",
    )
    sharpness: SharpnessOptions | None = Field(
        None,
        description="which classes training.optimizer=sam flattens the loss of; null is all alike",
    )
    head_start: HeadStartOptions | None = Field(
        None, description="what the head begins with; random rows if not given"
    )
    train: Literal["all", "last-block", "head", "nothing"] = Field(
        "all",
        description="which part of the network is trained; the rest of the backbone keeps its "
        "pretrained weights; nothing: the head also keeps its initial weights",
    )
    backbone_rate: float = Field(1.0, gt=0, description="factor for the backbone's learning rate")
    augment: bool = Field(
        True,
        description="whether images are augmented; false (needs train=head) computes the features once",
    )

    @model_validator(mode="after")
    def _cosines_where_needed(self) -> SingleHeadOptions:
        refuse_without_cosines((self.loss,), self.head)
        return self

    @property
    def losses(self) -> tuple[LossOptions, ...]:
        """The losses in the order of training."""
        return (self.loss,) if self.late_loss is None else (self.loss, self.late_loss.loss)

    @model_validator(mode="after")
    def _frozen_backbone(self) -> SingleHeadOptions:
        if self.train in ("head", "nothing") and self.backbone_rate != 1:
            raise ValueError(
                f"backbone_rate has no effect, because train={self.train} freezes the backbone"
            )
        if self.feature_loss is not None and self.train in ("head", "nothing"):
            raise ValueError(f"feature_loss trains the backbone, which train={self.train} freezes")
        if self.feature_loss is not None and self.mixing is not None:
            raise ValueError(
                "feature_loss compares images of one class each, so it needs mixing=null"
            )
        if self.train == "nothing":
            if self.head_start is None or isinstance(self.head_start, ProbeOptions):
                raise ValueError(
                    "train=nothing needs a head that is computed: head_start=class-means, or "
                    "head_start=vectors head_start.file=FILE"
                )
            if self.mixing is not None:
                raise ValueError("mixing is without effect where nothing is trained")
            return self
        if self.augment:
            return self
        if self.train != "head":
            raise ValueError(
                "augment=false computes the features once, so it needs train=head; to switch off "
                "augmentation while the backbone is trained, use data.augmentation=none"
            )
        if self.mixing is not None:
            raise ValueError("mixing mixes images, so it needs augment=true")
        return self


class SingleHead(Method):
    """See the head of this file."""

    Config = SingleHeadOptions
    summary = "one backbone and one head with any loss, sampler, class weights and mixing"
    advice = "you want a first method: balanced softmax costs nothing and is hard to beat"
    citation = "see the recipe"

    weights: Tensor | None
    factors: Tensor | None

    def __init__(self, config: SingleHeadOptions, setting: Setting) -> None:
        super().__init__()
        self.config, self.epochs, self.counts = config, setting.epochs, setting.class_counts
        self.backbone = setting.build_backbone()
        num_classes = len(setting.class_counts)
        self.head = config.head.build(self.backbone.num_features, num_classes, config.loss)
        late, scale = config.late_loss, config.head.scale
        self.loss = config.loss.build(setting.class_counts, scale)
        self.late_loss = late.loss.build(setting.class_counts, scale) if late else None
        weighting = config.class_weights
        self.register_buffer(
            "weights", weighting.build(setting.class_counts) if weighting else None
        )
        sharp = config.sharpness
        if sharp is not None and not isinstance(self.loss, LabelLoss):
            raise ConfigError(
                f"method.sharpness weighs the loss of each image, which the loss {config.loss.name} does not "
                "tell: it is no longtail.losses.LabelLoss. Leave sharpness out, or derive the loss from it."
            )
        self.register_buffer("factors", sharp.factors(setting.class_counts) if sharp else None)

    def stages(self) -> Sequence[Stage]:
        """Train everything in one stage, after the head got what it begins with."""
        # the bias of a rare positive must not decay to zero (Cui et al.)
        config = self.config
        exempt = ("head.bias",) if isinstance(config.loss, SigmoidFocalOptions) else ()
        trainable: tuple[str, ...] = () if config.train == "all" else ("head",)
        if config.train == "last-block":
            trainable += (f"backbone.{self.backbone.last_block}",)
        start = config.head_start
        sampling = config.sampling.build(self.epochs)
        before = [] if start is None else [start_stage(start, sampling, exempt)]
        if config.train == "nothing":
            return before
        return [
            *before,
            Stage(
                name="joint" if config.train == "all" else config.train,
                epochs=self.epochs,
                samplings=(sampling, *mixing_streams(config.mixing)),
                views=("default",) if config.augment else ("none",),
                features=None if config.augment else "backbone",
                trainable=trainable,
                no_weight_decay=exempt,
                rates=() if config.backbone_rate == 1 else (("backbone", config.backbone_rate),),
            ),
        ]

    def fit(self, stage: Stage, batches: FitBatches, split: str) -> Facts:
        """Give the head what it begins with."""
        assert self.config.head_start is not None
        head: Any = self.head
        return start_head(head, self.config.head_start, batches, self.counts.names)

    def training_step(self, batches: Sequence[Batch], at: Position) -> StepOutput:
        """Return w_y L(z, y), mixed over the two labels of a pair where images were mixed."""
        batch = batches[0]
        on_features = batch.images.dim() == 2  # [B, D] of a frozen backbone
        mixed = None if on_features else mixed_batch(self.config.mixing, batches, at)
        images = mixed.images if mixed else batch.images
        features = images if on_features else self.backbone(images)
        logits = self.head(features)
        weights, of_now = self._weights_at(at), self._loss_at(at)

        def label_loss(labels: Tensor) -> Tensor:
            reduction: Reduction = self.config.reduction
            if self.factors is None:
                loss: Tensor = of_now(logits, labels, weights, reduction)
                return loss
            assert isinstance(of_now, LabelLoss), "refused before"
            losses = of_now.per_image(logits, labels)  # [B], of one draw where there is noise
            parts = [f[labels] * losses for f in self.factors.unbind()]
            return torch.stack([reduce(part, labels, weights, reduction) for part in parts])

        loss = mixed.loss(label_loss) if mixed else label_loss(batch.labels)
        sharp = None
        if self.factors is not None:
            loss, sharp = loss  # of all images, and the part that SAM flattens
        if self.config.feature_loss is not None and not on_features:
            loss = loss + self.config.feature_loss.loss(features, batch.labels)
        return StepOutput(loss, sharp=sharp)

    def predict(self, images: Tensor) -> Tensor:
        """Return z; no prior is added at test time."""
        logits: Tensor = self.head(self.backbone(images))
        return logits

    def corrections(self) -> tuple[str, ...]:
        """Name the loss, weights and sampler that correct for the prior."""
        config = self.config
        if config.train == "nothing":
            return ()
        named = [*losses_that_correct(config.losses)]
        if config.class_weights:
            named.append(f"{config.class_weights.name} class weights")
        if config.sampling.name != "instance":
            named.append(f"{config.sampling.name} sampling")
        if config.sharpness:
            named.append(f"{config.sharpness.name} sharpness")
        return (*named, *mixing_corrections(config.mixing))

    def assumed_prior(self, at: Position) -> Tensor | None:
        """Return what sampler, weights and loss leave of the prior; unknown where nothing is trained."""
        config = self.config
        if self.factors is not None and bool((self.factors[0] != 1).any()):
            return None  # weights of classes that are no class weights by name
        if config.train == "nothing":
            return None
        return assumed(
            self.counts, at, losses=config.losses[-1:] if self._is_late(at) else config.losses[:1],
            sampling=config.sampling.build(self.epochs),
            weighting=config.class_weights, mixing=config.mixing,
        )  # fmt: skip

    def _is_late(self, at: Position) -> bool:
        late = self.config.late_loss
        return late is not None and late.has_started(at)

    def _loss_at(self, at: Position) -> nn.Module:
        return self.late_loss if self.late_loss is not None and self._is_late(at) else self.loss

    def _weights_at(self, at: Position) -> Tensor | None:
        weighting = self.config.class_weights
        return self.weights if weighting and weighting.has_started(at) else None
