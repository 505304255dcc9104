"""One backbone, one head: every method that is only a choice of loss, sampler, head and schedule.

Idea: Keep the network and change what it is told. The loss (balanced softmax, LDAM, focal), the
pictures it sees (samplers, mixup, cutmix), or when either changes (deferred re-weighting or
re-sampling) shift attention to rare classes.

Symbols:
    f(x)  features   [B, D]      W, b  head      [C, D], [C]
    z     logits     [B, C]      w     weights   [C], mean 1 over classes
    lam   share of the first picture of a mixed pair

Covers, as recipes: cross-entropy; focal; class-balanced cross-entropy and focal (Cui et al., CVPR
2019); LDAM and LDAM-DRW (Cao et al., NeurIPS 2019); CE-DRW; CE-DRS; balanced softmax (Ren et al.,
NeurIPS 2020); logit adjustment (Menon et al., ICLR 2021); LADE (Hong et al., CVPR 2021); softmax equalization
(Tan et al., CVPR 2020); the first stage of GCL (Li et al., CVPR 2022); mixup; cutmix;
CMO (Park et al., CVPR 2022). On a pretrained backbone: fine-tuning, its last block alone, or a head on
frozen features, which without augmentation are computed once (f(x) is constant then).

Where papers and code disagree: see the loss files. Deferred re-sampling follows the text of the
LDAM paper, because in its released code the sampler never takes effect. The switch of a deferred
recipe changes no parameter and no optimiser state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator
from torch import Tensor

from longtail.core.batch import Batch, Position, StepOutput
from longtail.core.stage import Stage
from longtail.data.options import Options
from longtail.losses import Reduction
from longtail.methods.ingredients import (
    ByName,
    ClassWeightOptions,
    CrossEntropyOptions,
    HeadOptions,
    LossOptions,
    MixingOptions,
    SamplingOptions,
    SigmoidFocalOptions,
    losses_that_correct,
    mixed_batch,
    mixing_corrections,
    mixing_streams,
    refuse_without_cosines,
)
from longtail.methods.method import Method, Setting


class SingleHeadOptions(Options):
    """What can be chosen."""

    name: Literal["single-head"] = "single-head"
    loss: LossOptions = CrossEntropyOptions()
    head: Annotated[HeadOptions, ByName] = HeadOptions()
    sampling: Annotated[SamplingOptions, ByName] = SamplingOptions()
    class_weights: Annotated[ClassWeightOptions | None, ByName] = None
    mixing: Annotated[MixingOptions | None, ByName] = None
    reduction: Literal["weighted-mean", "mean"] = Field(
        "weighted-mean", description="of weighted losses: divide by the batch's weights, or by B"
    )
    train: Literal["all", "last-block", "head"] = Field(
        "all", description="the rest of the backbone stays as pretrained"
    )
    backbone_rate: float = Field(1.0, gt=0, description="factor of the backbone's learning rate")
    augment: bool = Field(True, description="false with train=head: features are computed once")

    @model_validator(mode="after")
    def _cosines_where_needed(self) -> SingleHeadOptions:
        refuse_without_cosines((self.loss,), self.head)
        return self

    @model_validator(mode="after")
    def _frozen_backbone(self) -> SingleHeadOptions:
        if self.train == "head" and self.backbone_rate != 1:
            raise ValueError(
                "backbone_rate is without effect where train=head freezes the backbone"
            )
        if self.augment:
            return self
        if self.train != "head":
            raise ValueError(
                "augment=false computes features once, so it needs train=head; where the backbone is "
                "trained, data.augmentation=none leaves augmentation out"
            )
        if self.mixing is not None:
            raise ValueError("mixing mixes pictures, so it needs augment=true")
        return self


class SingleHead(Method):
    """See the head of this file."""

    Config = SingleHeadOptions
    summary = "one backbone and head with any loss, sampler, class weights and pair mixing"
    advice = "first choice: balanced softmax costs nothing and is hard to beat"
    citation = "see the recipe"

    weights: Tensor | None

    def __init__(self, config: SingleHeadOptions, setting: Setting) -> None:
        super().__init__()
        self.config, self.epochs = config, setting.epochs
        self.backbone = setting.build_backbone()
        num_classes = len(setting.class_counts)
        self.head = config.head.build(self.backbone.num_features, num_classes, config.loss)
        self.loss = config.loss.build(setting.class_counts, config.head.scale)
        weighting = config.class_weights
        self.register_buffer(
            "weights", weighting.build(setting.class_counts) if weighting else None
        )

    def stages(self) -> Sequence[Stage]:
        """Train everything in one stage."""
        # the bias of a rare positive must not decay to zero (Cui et al.)
        config = self.config
        exempt = ("head.bias",) if isinstance(config.loss, SigmoidFocalOptions) else ()
        trainable: tuple[str, ...] = () if config.train == "all" else ("head",)
        if config.train == "last-block":
            trainable += (f"backbone.{self.backbone.last_block}",)
        return [
            Stage(
                name="joint" if config.train == "all" else config.train,
                epochs=self.epochs,
                samplings=(config.sampling.build(self.epochs), *mixing_streams(config.mixing)),
                views=("default",) if config.augment else ("none",),
                features=None if config.augment else "backbone",
                trainable=trainable,
                no_weight_decay=exempt,
                rates=() if config.backbone_rate == 1 else (("backbone", config.backbone_rate),),
            )
        ]

    def training_step(self, batches: Sequence[Batch], at: Position) -> StepOutput:
        """Return w_y L(z, y), mixed over the two labels of a pair where pictures were mixed."""
        batch = batches[0]
        mixed = mixed_batch(self.config.mixing, batches, at)
        pictures = mixed.images if mixed else batch.images
        logits = self.head(self.backbone(pictures) if self.config.augment else pictures)
        weights = self._weights_at(at)

        def label_loss(labels: Tensor) -> Tensor:
            reduction: Reduction = self.config.reduction
            loss: Tensor = self.loss(logits, labels, weights, reduction)
            return loss

        return StepOutput(mixed.loss(label_loss) if mixed else label_loss(batch.labels))

    def predict(self, images: Tensor) -> Tensor:
        """Return z; no prior is added at test time."""
        logits: Tensor = self.head(self.backbone(images))
        return logits

    def corrections(self) -> tuple[str, ...]:
        """Name the loss, weights and sampler that correct for the prior."""
        config = self.config
        named = [*losses_that_correct((config.loss,))]
        if config.class_weights:
            named.append(f"{config.class_weights.name} class weights")
        if config.sampling.name != "instance":
            named.append(f"{config.sampling.name} sampling")
        return (*named, *mixing_corrections(config.mixing))

    def _weights_at(self, at: Position) -> Tensor | None:
        weighting = self.config.class_weights
        return self.weights if weighting and weighting.has_started(at) else None
