"""MiSLAS: mixup and label-aware smoothing (Zhong et al., CVPR 2021, arXiv 2104.00466).

Idea: Networks trained on a long tail are too sure of themselves, most in frequent classes, and mixup helps
the representation but not the classifier. So train the representation with mixup, then go on with the
classifier alone on class-balanced pictures, with labels that are smoothed the more, the more frequent their
class is.

Symbols:
    f(x)   features                                    [B, D]
    W, b   classifier, trained in both stages          [C, D], [C]
    s      scale of each class, 1 in the beginning     [C]
    eps    smoothing of each class                     [C]

Stages:
    1   z = W f(x) + b           mixup, cross-entropy; pictures as they are
    2   z = s (W f(x) + b)       (1 - eps_y) (-log p_y) + eps_y mean_c(-log p_c); class-balanced; the rate
                                 of W and b is a fraction of that of s; f stays, but for the running mean
                                 and variance of its BatchNorm, which follow the batches ("shift learning")

Where paper and released code disagree, and what happens here:
- Weight decay of stage 1 on CIFAR: 2e-4 in the code, 5e-4 as its authors recommend later, and as the recipe.
- Stage 2 of the code begins from the epoch of stage 1 that was best on test. Here from its last one.
- On Places-LT a new residual block is trained on the frozen backbone, which is not here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from longtail.core.batch import Batch, Position, StepOutput
from longtail.core.stage import Sampling, Stage
from longtail.data.options import Options
from longtail.losses import LabelAwareSmoothing, cross_entropy
from longtail.methods.ingredients import (
    ByName,
    MixingOptions,
    mixed_batch,
    mixing_corrections,
    mixing_streams,
)
from longtail.methods.method import Method, Setting
from longtail.models.heads import LinearHead

Share = Annotated[float, Field(ge=0, lt=1)]


class MiSLASOptions(Options):
    """What can be chosen; defaults are those of CIFAR-100-LT at ratio 100."""

    name: Literal["mislas"] = "mislas"
    mixing: Annotated[MixingOptions | None, ByName] = MixingOptions()
    smoothing: tuple[Share, Share] = Field(
        (0.4, 0.1),
        description="eps of the most frequent and of the rarest class: .4 and .1 at ratio 100 and on "
        "Places-LT, .3 and 0 at 50, on ImageNet-LT and iNaturalist, .2 and 0 at 10",
    )
    second: int = Field(10, ge=1, description="epochs of the second stage")
    second_rate: float = Field(0.1, gt=0, description="its learning rate, with a cosine to zero")
    classifier_rate: float = Field(
        0.2, gt=0,
        description="factor of that rate for the classifier: .2 at ratio 100, .1 at 50 and 10, .05 on "
        "large sets",
    )  # fmt: skip
    shift: bool = Field(
        True, description="whether BatchNorm's statistics follow the class-balanced batches"
    )


class MiSLAS(Method):
    """See the head of this file."""

    Config = MiSLASOptions
    summary = "mixup for the representation, then a classifier on smoothed labels"
    advice = "honest confidence beside rare classes, at some accuracy in a short training"
    citation = "Zhong et al., Improving Calibration for Long-Tailed Recognition, CVPR 2021"

    def __init__(self, config: MiSLASOptions, setting: Setting) -> None:
        super().__init__()
        self.config, self.epochs = config, setting.epochs
        counts = setting.class_counts
        self.backbone = setting.build_backbone()
        self.head = LinearHead(self.backbone.num_features, len(counts))
        self.scales = nn.Parameter(torch.ones(len(counts)))
        self.smoothed = LabelAwareSmoothing(counts, *config.smoothing)

    def stages(self) -> Sequence[Stage]:
        """Representation, then classifier."""
        config = self.config
        return [
            Stage(
                name="representation",
                epochs=self.epochs,
                samplings=(Sampling(), *mixing_streams(config.mixing)),
                trainable=("backbone", "head"),
            ),
            Stage(
                name="classifier",
                epochs=config.second,
                samplings=(Sampling(name="class-balanced"),),
                trainable=("head", "scales"),
                update_norm=("backbone",) if config.shift else (),
                learning_rate=config.second_rate,
                schedule="cosine",
                warmup=0,
                rates=(("head", config.classifier_rate),),
            ),
        ]

    def training_step(self, batches: Sequence[Batch], at: Position) -> StepOutput:
        """Return cross-entropy of mixed pictures in stage 1, smoothed cross-entropy in stage 2."""
        batch = batches[0]
        if at.stage > 0:
            return StepOutput(self.smoothed(self.predict(batch.images), batch.labels))
        mixed = mixed_batch(self.config.mixing, batches, at)
        logits = self.head(self.backbone(mixed.images if mixed else batch.images))

        def label_loss(labels: Tensor) -> Tensor:
            return cross_entropy(logits, labels)

        return StepOutput(mixed.loss(label_loss) if mixed else label_loss(batch.labels))

    def predict(self, images: Tensor) -> Tensor:
        """Return s (W f(x) + b); the scales are 1 until stage 2."""
        joint: Tensor = self.head(self.backbone(images))
        return self.scales * joint

    @classmethod
    def shares_first_stage(cls, own: Options, other: Options) -> bool:
        """Say whether both learn the same representation."""
        if not (isinstance(own, MiSLASOptions) and isinstance(other, MiSLASOptions)):
            return False
        return own.mixing == other.mixing

    def corrections(self) -> tuple[str, ...]:
        """Name what the second stage does."""
        mixing = mixing_corrections(self.config.mixing)
        return ("classifier trained on class-balanced pictures", *mixing)
