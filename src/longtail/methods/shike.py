"""SHIKE: self-heterogeneous integration with knowledge excavation (Jin et al., CVPR 2023, arXiv 2304.01279).

Idea: Frequent classes are told apart by deep features, rare ones often by shallow ones. So let each expert
fuse the last map with one of another depth, and let experts learn from each other what is not the label, the
class that is mistaken for it most above all. Then train their classifiers again for equally frequent classes.

Symbols:
    f_e   features of expert e: last map times aligned map of another depth, pooled   [B, D], e = 1..E
    z_e   s cos(w_e, f_e), s = 30                                                      [B, C]
    z'_e  the same with a second set of rows w'_e
    H, M  hard-class mining and mutual distillation, see `longtail.losses.for_experts.knowledge_excavation`

Stages:
    1   sum_e CE(z_e, y) + 10 H + M              everything but w'
    2   sum_e CE(z'_e + log n, y)                w' alone, images as they are
Prediction is the mean of z'_e; before stage 2, of z_e.

Where paper and released code disagree, and what we do:
- The code covers only CIFAR-100-LT. On ImageNet-sized networks, maps are aligned as its classes would do it.
- Its divergences are means over images and classes (`share=element`, the default); means over images are a
  hundred times as large.
- The teacher's logit of the label is 0 instead of being left out, while the student's is -30. We do the same.
- Nothing is detached: the teacher is also pulled towards its students. We do the same.
- Its ResNet-32 has convolutions in the shortcuts (option B); ours does not.
- In stage 2, BatchNorm is in train mode (`second_bn=train`). In the PyTorch version that the code names, the
  frozen weights still decay, because their gradients are zero rather than missing. Here, they
  stay as they are.
- Its README asks for seed 0, its code uses 123. The log that it ships ends at 56.34.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from longtail.config import Options
from longtail.core.batch import Batch, Position, StepOutput
from longtail.core.figure import FigureData
from longtail.core.stage import Stage
from longtail.ensembles.alone_and_together import alone_and_together
from longtail.losses import cross_entropy, knowledge_excavation
from longtail.methods.ingredients import BalancedSoftmaxOptions, assumed
from longtail.methods.method import Facts, FitBatches, Method, Setting
from longtail.models.depth_fusion import DepthFusion
from longtail.models.heads import CosineHead


class SHIKEOptions(Options):
    """What can be chosen; defaults are those of CIFAR-100-LT."""

    name: Literal["shike"] = "shike"
    experts: int = Field(3, ge=1, le=8, description="number of experts")
    scale: float = Field(30.0, gt=0, description="s of the cosines")
    mining: float = Field(10.0, ge=0, description="weight of hard-class mining")
    mutual: float = Field(1.0, ge=0, description="weight of mutual distillation")
    share: Literal["element", "image"] = Field(
        "element",
        description="what the divergences are averaged over; element in the released code",
    )
    second: int = Field(20, ge=1, description="epochs of the second stage")
    second_rate: float = Field(
        0.1, gt=0, description="peak learning rate of the second stage, with a cosine to zero"
    )
    second_warmup: float = Field(6.0, ge=0, description="warm-up of the second stage, a duration")
    second_warmup_start: float = Field(
        0.25,
        ge=0,
        le=1,
        description="fraction of the peak learning rate at which that warm-up starts",
    )
    second_bn: Literal["train", "eval"] = Field(
        "train",
        description="train: the BatchNorm statistics of the frozen backbone follow the batches of the "
        "second stage (code)",
    )


class SHIKE(Method):
    """See the head of this file."""

    Config = SHIKEOptions
    summary = "experts that fuse maps of different depths, then balanced classifiers"
    advice = "accuracy matters more than twice the cost, with strong augmentation"
    citation = (
        "Jin et al., Long-Tailed Visual Recognition via Self-Heterogeneous Integration with Knowledge "
        "Excavation, CVPR 2023"
    )

    log_n: Tensor

    def __init__(self, config: SHIKEOptions, setting: Setting) -> None:
        super().__init__()
        self.config, self.epochs, self.groups = config, setting.epochs, setting.groups
        self.counts = counts = setting.class_counts
        self.backbone = DepthFusion([setting.build_backbone() for _ in range(config.experts)])
        width = self.backbone.num_features

        def heads() -> nn.ModuleList:
            return nn.ModuleList(
                CosineHead(width, len(counts), config.scale) for _ in range(config.experts)
            )

        self.heads, self.retrained_heads = heads(), heads()
        self.register_buffer("log_n", counts.tensor(torch.float64).log().float())
        # whether they were trained, and so are asked
        self.retrained_heads.register_buffer("trained", torch.zeros((), dtype=torch.bool))

    def stages(self) -> Sequence[Stage]:
        """Everything, then the second classifiers."""
        config = self.config
        return [
            Stage(name="experts", epochs=self.epochs, trainable=("backbone", "heads")),
            Stage(
                name="classifiers",
                epochs=config.second,
                trainable=("retrained_heads",),
                learning_rate=config.second_rate,
                schedule="cosine",
                warmup=config.second_warmup,
                warmup_start=config.second_warmup_start,
                update_norm=("backbone",) if config.second_bn == "train" else (),
            ),
        ]

    def training_step(self, batches: Sequence[Batch], at: Position) -> StepOutput:
        """Return the loss of labels and of what experts teach each other; in stage 2 the former, balanced."""
        (batch,) = batches
        features, labels = self.backbone(batch.images), batch.labels
        second = at.stage > 0
        logits = self._logits(features, self.retrained_heads if second else self.heads)
        if second:
            logits = logits + self.log_n
        told = torch.stack([cross_entropy(z, labels) for z in logits.unbind(dim=1)]).sum()
        if second:
            return StepOutput(told)
        mined, mutual = knowledge_excavation(logits, labels, self.config.share)
        loss = told + self.config.mining * mined + self.config.mutual * mutual
        scalars = {"label_loss": told.detach(), "mining": mined.detach(), "mutual": mutual.detach()}
        return StepOutput(loss, scalars)

    def after_step(self, out: StepOutput, at: Position) -> None:
        """From the first step of stage 2 on, predict by its classifiers."""
        if at.stage > 0:
            self.retrained_heads.get_buffer("trained").fill_(True)

    def predict(self, images: Tensor) -> Tensor:
        """Return the mean of the experts' logits."""
        return self.sub_model_logits(images).mean(dim=1)

    def sub_model_logits(self, images: Tensor) -> Tensor:
        """Return z'_e, before stage 2 z_e, [B, E, C]."""
        features = self.backbone(images)
        first, second = (
            self._logits(features, heads) for heads in (self.heads, self.retrained_heads)
        )
        return torch.where(self.retrained_heads.get_buffer("trained"), second, first)

    def figures(self, batches: FitBatches, lines: Sequence[Facts]) -> Sequence[FigureData]:
        """Return the accuracy of each expert alone beside their mean."""
        names = [f"expert {e + 1}" for e in range(self.config.experts)]
        return (alone_and_together(self.sub_model_logits, "experts", names, batches, self.groups),)

    @classmethod
    def shares_first_stage(cls, own: Options, other: Options) -> bool:
        """Say whether both train the same experts."""
        if not (isinstance(own, SHIKEOptions) and isinstance(other, SHIKEOptions)):
            return False
        first = {"experts", "scale", "mining", "mutual", "share"}
        return own.model_dump(include=first) == other.model_dump(include=first)

    def corrections(self) -> tuple[str, ...]:
        """Name what the second stage does."""
        return ("classifiers trained with balanced-softmax",)

    def assumed_prior(self, at: Position) -> Tensor | None:
        """Return what balanced softmax leaves of the prior; distillation of stage 1 is no likelihood."""
        if at.stage == 0:
            return None
        return assumed(self.counts, at, losses=(BalancedSoftmaxOptions(),))

    def _logits(self, features: Tensor, heads: nn.ModuleList) -> Tensor:
        pairs = zip(heads, features.unbind(dim=1), strict=True)
        return torch.stack([head(f) for head, f in pairs], dim=1)  # [B, E, C]
