"""CC-SAM: class-conditional sharpness-aware minimisation (Zhou et al., CVPR 2023).

Idea: A rare class is fitted in a sharp place of the loss: move the weights a little, and its images are lost.
So train each class on weights that were moved uphill for it, the further, the rarer the class. Then train the
classifier alone on class-balanced images, whose features are moved uphill likewise.

Symbols:
    f(x), W, b  features [B, D], classifier [C, D], [C]; P weights and biases in all, |w| their joint length
    n_c         training images of class c
    g_c         gradient of the mean loss of the images of class c in the batch, for W and for b
    G_i, w_c    gradient of the losses of the images of y_i for the features; log(n_max / n_c + .01) / 2

Stages:
    1   everything, mixup: (1 - share) CE + share mean_i CE((W + e_y) f(x_i) + b + e_y, y_i), where
            e_c = rho_c sqrt(P) g_c / |g_c|      rho_c = noise sqrt(|w| / (2 |g_c|)) / ((n_c - 1) P)^(1/4)
        and y_i is the first label of a mixed pair
    2   W, b alone, class-balanced: (1 - a) CE + a mean_i w_y CE(W (f(x_i) + w_y G_i / |G_y|) + b, y_i)
        with a = min(t / T, limit) in epoch t of T

e and G are constants of a step. Neither needs more than one pass: for a linear classifier g_c f(x_i) is a sum
over the m images of the class, (1 / m) sum_j (p_j - target_j) <f(x_j), f(x_i)>.

Where paper and released code disagree, and what we do:
- In the paper, all weights are moved, which takes a backward pass for every class in a batch. The code moves
  only the classifier, and so do we. With the released `noise`, a move is 1e-5 long: stage 1 is nearly CE.
- As in the code, W and b are moved separately, each by its own length.
- For a class with one image, n_c - 1 is 0 and the move would be infinite; we use at least 1.
- The released network builds two last blocks, as BBN does, and uses neither: it is a ResNet-30. Ours is a
  ResNet-32.
- In stage 2, the BatchNorm of the frozen backbone is in train mode, so that its statistics follow
  class-balanced batches (`second_bn=train`, the default).
- In the code, stage 2 starts from the epoch that was best on test. Here, it starts from the last one.
- The released configuration has ratio 200 (`cifar_imb_ratio` .005); the paper's tables have 100 and 50.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from longtail.config import ByName, Options
from longtail.core.batch import Batch, Position, StepOutput
from longtail.core.counts import ClassCounts
from longtail.core.precision import at_least_float32
from longtail.core.stage import Sampling, Stage
from longtail.losses import cross_entropy
from longtail.methods.ingredients import (
    MixingOptions,
    SamplingOptions,
    mixed_batch,
    mixing_corrections,
    mixing_streams,
)
from longtail.methods.method import Method, Setting
from longtail.models.heads import LinearHead

SMALLEST = 1e-12  # length of a gradient that is followed


class CCSAMOptions(Options):
    """What can be chosen; defaults are those of CIFAR-100-LT."""

    name: Literal["cc-sam"] = "cc-sam"
    mixing: Annotated[MixingOptions | None, ByName] = MixingOptions()
    share: float = Field(
        0.5, ge=0, le=1, description="share of the loss on moved weights: .5, CIFAR-10 .3"
    )
    noise: float = Field(1e-6, ge=0, description="scale of the moves of stage 1; 0 moves nothing")
    backbone_rate: float = Field(1.0, gt=0, description="factor of the backbone's learning rate")
    second: int = Field(30, ge=1, description="epochs of the second stage")
    second_rate: float = Field(0.01, gt=0, description="learning rate of the second stage")
    second_schedule: Literal["constant", "cosine"] = Field(
        "constant",
        description="schedule of that learning rate: a cosine to zero on data sets other than CIFAR",
    )
    second_bn: Literal["train", "eval"] = Field(
        "train",
        description="train: the BatchNorm statistics of the frozen backbone follow the batches of the "
        "second stage (code)",
    )
    limit: float = Field(
        0.3, ge=0, le=1, description="largest share of the loss on moved features: .3, CIFAR-10 1"
    )
    sampling: Annotated[SamplingOptions, ByName] = Field(
        SamplingOptions(name="class-balanced", draws_per_class=1),
        description="sampling in the second stage",
    )


class CCSAM(Method):
    """See the head of this file."""

    Config = CCSAMOptions
    summary = "each class trained on weights moved uphill for it, then a class-balanced classifier"
    advice = "rare classes are learnt in training but lost at test; costs little more than plain training"
    citation = (
        "Zhou et al., Class-Conditional Sharpness-Aware Minimization for Deep Long-Tailed Recognition, "
        "CVPR 2023"
    )
    several_processes = "mixes the images of its own part and moves weights uphill for them"

    reach: Tensor
    weights: Tensor

    def __init__(self, config: CCSAMOptions, setting: Setting) -> None:
        super().__init__()
        self.config, self.epochs = config, setting.epochs
        counts = setting.class_counts
        self.backbone = setting.build_backbone()
        self.head = LinearHead(self.backbone.num_features, len(counts))
        self.register_buffer("reach", config.noise * reach(counts))
        self.register_buffer("weights", feature_weights(counts))

    def stages(self) -> Sequence[Stage]:
        """Representation, then classifier."""
        config = self.config
        return [
            Stage(
                name="representation",
                epochs=self.epochs,
                samplings=(Sampling(), *mixing_streams(config.mixing)),
                trainable=("backbone", "head"),
                rates=() if config.backbone_rate == 1 else (("backbone", config.backbone_rate),),
            ),
            Stage(
                name="classifier",
                epochs=config.second,
                samplings=(config.sampling.build(config.second),),
                trainable=("head",),
                learning_rate=config.second_rate,
                schedule=config.second_schedule,
                warmup=0,
                update_norm=("backbone",) if config.second_bn == "train" else (),
            ),
        ]

    def training_step(self, batches: Sequence[Batch], at: Position) -> StepOutput:
        """Return the loss where the weights (or features) are, blended with that uphill."""
        if at.stage > 0:
            return self._on_moved_features(batches[0], at)
        batch, mixed = batches[0], mixed_batch(self.config.mixing, batches, at)
        features = self.backbone(mixed.images if mixed else batch.images)
        logits = at_least_float32(self.head(features))
        target = F.one_hot(batch.labels, logits.shape[1]).to(logits.dtype)
        if mixed is None:
            plain = cross_entropy(logits, batch.labels)
        else:
            plain = mixed.loss(lambda labels: cross_entropy(logits, labels))
            partner = F.one_hot(mixed.partners, logits.shape[1]).to(logits.dtype)
            target = mixed.share * target + (1 - mixed.share) * partner
        uphill = moved_logits(
            features, logits, target, batch.labels, self.head.weight, self.head.bias, self.reach
        )
        share = self.config.share
        return StepOutput((1 - share) * plain + share * cross_entropy(uphill, batch.labels))

    def _on_moved_features(self, batch: Batch, at: Position) -> StepOutput:
        labels, weights = batch.labels, self.weights
        features = self.backbone(batch.images).detach()
        logits = self.head(features)
        moved = moved_features(features, logits, labels, self.head.weight, weights)
        uphill = cross_entropy(self.head(moved), labels, class_weights=weights, reduction="mean")
        share = min((at.epoch + 1) / at.epochs, self.config.limit)
        return StepOutput((1 - share) * cross_entropy(logits, labels) + share * uphill)

    def predict(self, images: Tensor) -> Tensor:
        """Return W f(x) + b, of weights and features that were not moved."""
        logits: Tensor = self.head(self.backbone(images))
        return logits

    @classmethod
    def shares_first_stage(cls, own: Options, other: Options) -> bool:
        """Say whether both learn the same representation."""
        if not (isinstance(own, CCSAMOptions) and isinstance(other, CCSAMOptions)):
            return False
        return all(
            getattr(own, key) == getattr(other, key)
            for key in ("mixing", "share", "noise", "backbone_rate")
        )

    def corrections(self) -> tuple[str, ...]:
        """Name what the stages do."""
        named = ["longer moves uphill for rare classes"]
        if (sampling := self.config.sampling.name) != "instance":
            named.append(f"classifier trained with {sampling} sampling")
        return (*named, *mixing_corrections(self.config.mixing))


def reach(counts: ClassCounts) -> Tensor:
    """Return (n_c - 1)^(-1/4), how far the weights are moved for a class, float32 [C]; n_c at least 2."""
    return (counts.tensor(torch.float64) - 1).clamp_min(1).pow(-0.25).float()


def feature_weights(counts: ClassCounts) -> Tensor:
    """Return w_c of stage 2, float32 [C]: .005 for the most frequent class, log(ratio) / 2 for the rarest."""
    n = counts.tensor(torch.float64)
    return ((n.max() / n + 0.01).log() / 2).float()


def moved_logits(
    features: Tensor,
    logits: Tensor,
    target: Tensor,
    labels: Tensor,
    weight: Tensor,
    bias: Tensor,
    reach: Tensor,
) -> Tensor:
    """Return the logits of each image with the classifier moved uphill for its class, [B, C].

    Args:
        features: [B, D].
        logits: W f + b, [B, C].
        target: Of the loss whose gradient is followed, [B, C], rows of sum 1.
        labels: Whose class counts, int64 [B].
        weight: W, [C, D].
        bias: b, [C].
        reach: noise (n_c - 1)^(-1/4), [C].
    """
    with torch.autocast(features.device.type, enabled=False):
        x = at_least_float32(features)
        fixed, slopes = x.detach(), (logits.detach().softmax(dim=1) - target)  # d loss_i / d z_i
        own = (labels[:, None] == labels).to(x.dtype)  # [B, B]
        own = own / own.sum(dim=1, keepdim=True)  # to the mean over the class
        bias_slope = own @ slopes  # g_c of the bias, [B, C]
        pairs = slopes @ slopes.T * (fixed @ fixed.T)
        weight_length = (own @ pairs * own).sum(dim=1).clamp_min(0).sqrt()  # |g_c| of W, [B]
        size = weight.numel() + bias.numel()
        joint = torch.sqrt(weight.detach().square().sum() + bias.detach().square().sum())
        # rho_c sqrt(P) = noise (|w| / 2 |g|)^(1/2) (n_c - 1)^(-1/4) P^(1/4)
        shared = reach[labels] * (joint / 2).sqrt() * size**0.25  # [B]

        def step(length: Tensor) -> Tensor:  # a unit of g_c is as long as 1 / |g_c|
            length = length.clamp_min(SMALLEST)
            scaled: Tensor = shared / length.sqrt() / length
            return scaled[:, None]

        along = (own * (x @ fixed.T)) @ slopes  # g_c f(x_i), with a gradient for x_i alone
        moved: Tensor = (
            logits + step(weight_length) * along + step(bias_slope.norm(dim=1)) * bias_slope
        )
        return moved


def moved_features(
    features: Tensor, logits: Tensor, labels: Tensor, weight: Tensor, weights: Tensor
) -> Tensor:
    """Return features [B, D] moved uphill, the images of a class together by w_c.

    Args:
        features: [B, D].
        logits: [B, C].
        labels: int64 [B].
        weight: W, [C, D].
        weights: w_c, [C].
    """
    with torch.no_grad():
        slopes = at_least_float32(logits).softmax(dim=1)
        slopes = slopes - F.one_hot(labels, logits.shape[1]).to(slopes.dtype)
        uphill = slopes @ weight.to(slopes.dtype)  # G, [B, D]
        own = (labels[:, None] == labels).to(uphill.dtype)
        length = (own @ uphill.square().sum(dim=1)).sqrt().clamp_min(SMALLEST)  # |G_y|, [B]
        moved: Tensor = at_least_float32(features) + (weights[labels] / length)[:, None] * uphill
        return moved
