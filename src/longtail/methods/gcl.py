"""GCL: Gaussian clouded logits (Li et al., CVPR 2022, arXiv 2305.11733).

Idea: A class with few images soon gets them right, softmax saturates, and its features stay on a few
points. So blur its logits in training: a cloud of noise, the wider, the rarer the class, asks its features to
spread. Then go on with the classifier alone on class-balanced images.

Symbols:
    f(x), w_c   features [B, D], classifier rows [C, D]; cos_c is their cosine
    delta_c     size of a class's cloud, 0 for the most frequent to 1 for the rarest          [C]
    eps         noise, fresh for every image and class, |eps| in [0, 1]                     [B, C]
    s, sigma, m scale of the cosines, size of the largest cloud, margin of the label

Stages, each with cross-entropy of z_c = s (cos_c - sigma |eps_c| delta_c - m onehot(y)_c) and mixup:
    1   everything, s = 30, m = 0; images as they are
    2   w alone, s = 20, m = 0.1; class-balanced images; each loss times 1 - p_y, a constant factor

Predictions have no cloud and no margin: z = s cos with the s of stage 2.

What the paper leaves open, and what we do:
- 1/3 is the standard deviation of the noise, as in the released code, not its variance.
- Stage 2 starts at 1/50 of the learning rate, as in the code (the product of two factors).
- The code's other sampler for stage 2, by class-wise effective numbers, is not included.
- The code does not make clear whether stage 2 mixes images on large data sets. Here, it does, like stage 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from longtail.config import ByName, Options
from longtail.core.batch import Batch, Position, StepOutput
from longtail.core.stage import Sampling, Stage
from longtail.losses import GaussianClouded
from longtail.methods.ingredients import (
    MixingOptions,
    SamplingOptions,
    mixed_batch,
    mixing_corrections,
    mixing_streams,
)
from longtail.methods.method import Method, Setting
from longtail.models.heads import CosineHead


class GCLOptions(Options):
    """What can be chosen; defaults are those of CIFAR-100-LT."""

    name: Literal["gcl"] = "gcl"
    sigma: float = Field(
        0.5, ge=0, description="noise of the rarest class, as a difference of cosines"
    )
    mixing: Annotated[MixingOptions | None, ByName] = MixingOptions()
    scale: float = Field(30.0, gt=0, description="scale s of the first stage")
    second: int = Field(30, ge=1, description="epochs of the second stage")
    second_rate: float = Field(
        0.002, gt=0, description="learning rate of the second stage, with a cosine to zero"
    )
    second_scale: float = Field(
        20.0, gt=0, description="scale s of the second stage and of predictions"
    )
    second_margin: float = Field(0.1, ge=0, description="margin m of the second stage")
    sampling: Annotated[SamplingOptions, ByName] = Field(
        SamplingOptions(name="class-balanced", form="multinomial"),
        description="sampling in the second stage; independent draws, as in the released code",
    )


class GCL(Method):
    """See the head of this file."""

    Config = GCLOptions
    summary = (
        "noise on the logits of rare classes, then a classifier trained on class-balanced images"
    )
    advice = "features of rare classes collapse to a few points, and you have time for hundreds of epochs"
    citation = (
        "Li et al., Long-Tailed Visual Recognition via Gaussian Clouded Logit Adjustment, CVPR 2022"
    )
    several_processes = "mixes the images of its own part and draws their noise"

    def __init__(self, config: GCLOptions, setting: Setting) -> None:
        super().__init__()
        self.config, self.epochs = config, setting.epochs
        counts = setting.class_counts
        self.backbone = setting.build_backbone()
        self.head = CosineHead(self.backbone.num_features, len(counts), scale=1.0)
        self.first = GaussianClouded(counts, config.sigma, 0.0, config.scale)
        self.second = GaussianClouded(
            counts, config.sigma, config.second_margin, config.second_scale
        )

    def stages(self) -> Sequence[Stage]:
        """Representation, then classifier."""
        config, partners = self.config, mixing_streams(self.config.mixing)
        return [
            Stage(
                name="representation",
                epochs=self.epochs,
                samplings=(Sampling(), *partners),
                trainable=("backbone", "head"),
            ),
            Stage(
                name="classifier",
                epochs=config.second,
                samplings=(config.sampling.build(config.second), *partners),
                trainable=("head",),
                learning_rate=config.second_rate,
                schedule="cosine",
                warmup=0,
            ),
        ]

    def training_step(self, batches: Sequence[Batch], at: Position) -> StepOutput:
        """Return the loss of clouded logits; in stage 2 times what is left to learn of each image."""
        batch, second = batches[0], at.stage > 0
        mixed = mixed_batch(self.config.mixing, batches, at)
        cosines = self.head(self.backbone(mixed.images if mixed else batch.images))

        def label_loss(labels: Tensor) -> Tensor:
            if not second:
                loss: Tensor = self.first(self.config.scale * cosines, labels)
                return loss
            losses = self.second.per_image(self.config.second_scale * cosines, labels)  # [B]
            left = -torch.expm1(-losses.detach())  # 1 - p_y
            return (left * losses).mean()

        return StepOutput(mixed.loss(label_loss) if mixed else label_loss(batch.labels))

    def predict(self, images: Tensor) -> Tensor:
        """Return s cos."""
        cosines: Tensor = self.head(self.backbone(images))
        return self.config.second_scale * cosines

    @classmethod
    def shares_first_stage(cls, own: Options, other: Options) -> bool:
        """Say whether both learn the same representation."""
        if not (isinstance(own, GCLOptions) and isinstance(other, GCLOptions)):
            return False
        return all(getattr(own, key) == getattr(other, key) for key in ("sigma", "mixing", "scale"))

    def corrections(self) -> tuple[str, ...]:
        """Name what the stages do."""
        named = ["noise that is larger for rare classes"] if self.config.sigma else []
        if (sampling := self.config.sampling.name) != "instance":
            named.append(f"classifier trained with {sampling} sampling")
        return (*named, *mixing_corrections(self.config.mixing))
