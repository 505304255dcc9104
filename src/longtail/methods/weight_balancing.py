"""WB: weight balancing (Alshammari et al., CVPR 2022, arXiv 2203.14197).

Idea: Without much weight decay, the classifier's rows of frequent classes grow long. Decay that is ten to
twenty-five times as strong as usual keeps them balanced, and is worth more than most losses. Then train the
classifier alone: class-balanced loss, more decay, and a cap on the length of its rows.

Symbols:
    f(x), W, b   features [B, D], classifier [C, D], [C]; w_c is a row of W
    delta        the cap: min |w_c| + share (max |w_c| - min |w_c|), of the rows after stage 1

Stages:
    1   cross-entropy, everything; the weight decay of the training configuration, 5e-3 in the recipe
    2   W, b alone; effective-number weights, decay 0.1; after each step w_c <- w_c min(1, delta / |w_c|)

Where paper and released code disagree, and what we do:
- The published CIFAR numbers are from a ResNet-34 with 21 million parameters, although the text says
  ResNet-32.
- The "class-balanced softmax loss" of the code is binary cross-entropy on softmax outputs, averaged over
  images and classes (`loss=binary`, the default, for which its weight decay was tuned); that of the text is
  cross-entropy (`loss=cross-entropy`).
- The code caps rows once per epoch; we cap them after each step. Biases have no cap.
- The code keeps the epoch that was best on test; we keep the last one.
- The code steps its schedules before each epoch: training starts below the peak, and the last epoch of each
  stage has learning rate 0 (`ahead`, the default). In stage 2, its BatchNorm is in train mode, so the
  statistics of the frozen backbone are still updated (`second_bn=train`, the default).
- Its long-tailed subset takes the first images of each class in file order (data.long_tail.kept=first); other
  papers draw them at random.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from longtail.config import Options
from longtail.core.batch import Batch, Position, StepOutput
from longtail.core.stage import Stage
from longtail.losses import CrossEntropy, SoftmaxBinary, class_weights, cross_entropy
from longtail.methods.ingredients import assumed
from longtail.methods.method import Facts, FitBatches, Method, Setting
from longtail.models.heads import LinearHead


class WeightBalancingOptions(Options):
    """What can be chosen."""

    name: Literal["weight-balancing"] = "weight-balancing"
    second: int = Field(10, ge=1, description="epochs of the second stage")
    second_rate: float = Field(
        0.01, gt=0, description="learning rate of the second stage, with a cosine to zero"
    )
    second_decay: float = Field(0.1, ge=0, description="weight decay of the second stage")
    loss: Literal["binary", "cross-entropy"] = Field(
        "binary",
        description="loss of the second stage: binary as in the released code, cross-entropy as in the text",
    )
    beta: float = Field(
        0.9999, ge=0, le=1, description="beta of the effective-number weights in the second stage"
    )
    ahead: bool = Field(
        True,
        description="whether schedules run one epoch ahead and end at 0, as in the released code",
    )
    second_bn: Literal["train", "eval"] = Field(
        "train",
        description="train: update the BatchNorm statistics of the frozen backbone in the second "
        "stage, as in the released code",
    )
    cap: float = Field(
        0.1, ge=0, le=1,
        description="largest length of a classifier row: 0 is the shortest row after stage 1, 1 the longest",
    )  # fmt: skip


class WeightBalancing(Method):
    """See the head of this file."""

    Config = WeightBalancingOptions
    summary = (
        "strong weight decay, then a classifier trained with a class-balanced loss and capped rows"
    )
    advice = (
        "you train from scratch and have not tuned weight decay; loss=cross-entropy worked better "
        "here"
    )
    citation = "Alshammari et al., Long-Tailed Recognition via Weight Balancing, CVPR 2022"

    weights: Tensor
    longest: Tensor

    def __init__(self, config: WeightBalancingOptions, setting: Setting) -> None:
        super().__init__()
        self.config, self.epochs = config, setting.epochs
        self.counts = counts = setting.class_counts
        self.backbone = setting.build_backbone()
        self.head = LinearHead(self.backbone.num_features, len(counts))
        self.balanced = CrossEntropy() if config.loss == "cross-entropy" else SoftmaxBinary()
        self.register_buffer("weights", class_weights(counts, "effective-number", beta=config.beta))
        # delta, once it is known; until then longer than any row, and finite as all that is saved
        self.register_buffer("longest", torch.tensor(torch.finfo(torch.float32).max))

    def stages(self) -> Sequence[Stage]:
        """Representation, the cap, and the classifier."""
        config = self.config
        return [
            Stage(
                name="representation",
                epochs=self.epochs,
                trainable=("backbone", "head"),
                ahead=int(config.ahead),
            ),
            Stage(name="cap", epochs=0, kind="fit"),
            Stage(
                name="classifier",
                epochs=config.second,
                trainable=("head",),
                learning_rate=config.second_rate,
                weight_decay=config.second_decay,
                schedule="cosine",
                warmup=0,
                ahead=int(config.ahead),
                update_norm=("backbone",) if config.second_bn == "train" else (),
            ),
        ]

    def training_step(self, batches: Sequence[Batch], at: Position) -> StepOutput:
        """Return cross-entropy in stage 1, the class-balanced loss in stage 2."""
        (batch,) = batches
        logits, labels = self.predict(batch.images), batch.labels
        if at.stage == 0:
            return StepOutput(cross_entropy(logits, labels))
        return StepOutput(self.balanced(logits, labels, self.weights))

    def fit(self, stage: Stage, batches: FitBatches, split: str) -> Facts:
        """Take the cap from the rows of the classifier; no image is looked at."""
        self.longest.copy_(longest_allowed(self.head.weight, self.config.cap))
        return {"longest_row": float(self.longest)}

    @torch.no_grad()
    def after_step(self, out: StepOutput, at: Position) -> None:
        """Shorten the rows that are longer than the cap."""
        if at.stage > 0:
            self.head.weight.copy_(capped_rows(self.head.weight, self.longest))

    def predict(self, images: Tensor) -> Tensor:
        """Return W f(x) + b."""
        logits: Tensor = self.head(self.backbone(images))
        return logits

    @classmethod
    def shares_first_stage(cls, own: Options, other: Options) -> bool:
        """Say whether both learn the same representation."""
        both = isinstance(own, WeightBalancingOptions) and isinstance(other, WeightBalancingOptions)
        return both and getattr(own, "ahead", None) == getattr(other, "ahead", None)

    def corrections(self) -> tuple[str, ...]:
        """Name what the second stage does."""
        return ("classifier trained with effective-number class weights", "capped classifier rows")

    def assumed_prior(self, at: Position) -> Tensor | None:
        """Return the training prior until the second stage, whose cap is no likelihood."""
        return assumed(self.counts, at) if at.stage < 2 else None


def longest_allowed(weight: Tensor, share: float) -> Tensor:
    """Return delta, a scalar, for classifier rows [C, D]: the shortest plus `share` of the range."""
    lengths = weight.detach().norm(dim=1)
    shortest, longest = lengths.min(), lengths.max()
    cap: Tensor = shortest + share * (longest - shortest)
    return cap


def capped_rows(weight: Tensor, longest: Tensor) -> Tensor:
    """Return rows [C, D] with those longer than `longest` shortened to it, the others as they are."""
    lengths = weight.norm(dim=1, keepdim=True)
    return torch.where(lengths > longest, weight * (longest / lengths), weight)
