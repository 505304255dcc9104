"""SURE: a survey of recipes for reliable and robust networks (Li et al., CVPR 2024, arXiv 2403.00543).

Idea: Several known parts add up: mixed images beside plain ones, a cosine classifier, sharpness-aware
minimisation and the mean of the weights of many epochs (`training.optimizer=sam`, `training.swa`). For long
tails, the network is then trained on with the images that it is unsure of, which are mostly rare.

Symbols:
    z       s cos(w_c, f(x)), logits                                             [B, C]
    x'      lam x + (1 - lam) x_j, x_j of the same batch, lam from Beta(a, a), one of a step
    q_i     largest probability that the network has for image i at the end of stage 1, the image as it is
    u_i     exp(-t q_i), divided by its mean over the batch, at most 1

Stages:
    joint        CE(z(x), y) + m (lam CE(z(x'), y) + (1 - lam) CE(z(x'), y_j))
    confidence   a copy of the network is kept, for q_i
    reweighting  mean_i u_i CE(z(x_i), y_i); gains and offsets of BatchNorm stay, its statistics follow

Where paper and released code disagree, and what we do:
- In the code, only the first pass of SAM has the weights u_i: they say where uphill is, and the second pass
  takes the gradient of the plain loss there. `reweighted=ascent` does the same, and needs SAM; with
  `reweighted=loss`, both passes have them.
- The code computes q_i once, of one random crop and flip of each image, and leaves out the last, partial
  batch of that pass: q_i of its images is 0. Here, q_i is of the image as it is.
- In the second stage of the code, mixed images pass the network as well, with weight 0, and each batch passes
  once more with SAM. BatchNorm's statistics follow all of them; here, only the first pass of plain images.
- The code draws new partners and shares of the mixed images for SAM's second pass. Here, both passes have the
  same ones.
- The second stage begins with the weights that scored best on test in the first. Here, with the last ones.
- The code leaves the convolutions as PyTorch draws them (its call of Kaiming's is commented out), 2.4 times
  smaller than ours, and the rows of its cosine classifier begin with a length of 0.58. Here, with 1.
- The ranking loss of the paper has weight 0 in all commands for long tails, and is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from longtail.config import Options
from longtail.core import distributed
from longtail.core.batch import Batch, Position, StepOutput
from longtail.core.stage import Stage
from longtail.losses import adjusted_cross_entropy, cross_entropy
from longtail.methods.ingredients import MixingOptions, assumed, mixed_batch
from longtail.methods.method import Facts, FitBatches, Method, Setting
from longtail.models.heads import CosineHead


class SUREOptions(Options):
    """What can be chosen; defaults are those of CIFAR-100-LT."""

    name: Literal["sure"] = "sure"
    scale: float = Field(8.0, gt=0, description="s of the cosine classifier")
    alpha: float = Field(10.0, gt=0, description="a: the mixing ratio lambda follows Beta(a, a)")
    mixed: float = Field(
        1.0,
        ge=0,
        description="m, weight of the loss of mixed images relative to that of plain ones",
    )
    second: int = Field(
        50, ge=0, description="epochs of the second stage, which weights images; 0 leaves it out"
    )
    second_rate: float = Field(
        0.005, gt=0, description="learning rate of the second stage, constant"
    )
    temperature: float = Field(
        1.0, gt=0, description="t: the larger, the less images count that the network is sure of"
    )
    reweighted: Literal["loss", "ascent"] = Field(
        "loss",
        description="what the weights of images apply to: the loss, or only SAM's step uphill as in the "
        "released code (needs optimizer=sam)",
    )


class SURE(Method):
    """See the head of this file."""

    Config = SUREOptions
    summary = "mixed images beside plain ones and a cosine classifier, then images weighted by uncertainty"
    advice = (
        "you can afford two passes a step, or four with optimizer=sam, as published; add swa=0.6"
    )
    citation = (
        "Li et al., SURE: SUrvey REcipes for building reliable and robust deep networks, CVPR 2024"
    )
    begins_with = ("backbone", "head")
    several_processes = "mixes the images of its own part"

    def __init__(self, config: SUREOptions, setting: Setting) -> None:
        super().__init__()
        self.config, self.epochs, self.counts = config, setting.epochs, setting.class_counts
        self.backbone, self.head = self._network(setting)
        self.first = nn.Sequential(*self._network(setting)) if config.second else None

    def _network(self, setting: Setting) -> tuple[nn.Module, nn.Module]:
        backbone = setting.build_backbone()
        return backbone, CosineHead(backbone.num_features, len(self.counts), self.config.scale)

    def stages(self) -> Sequence[Stage]:
        """Train everything; then keep a copy and train on with weighted images."""
        joint = Stage(name="joint", epochs=self.epochs, trainable=("backbone", "head"))
        if not self.config.second:
            return [joint]
        return [
            joint,
            Stage(name="confidence", epochs=0, kind="fit"),
            Stage(
                name="reweighting",
                epochs=self.config.second,
                views=("default", "none"),
                trainable=(*self._without_norms(), "head"),
                update_norm=("backbone",),
                learning_rate=self.config.second_rate,
                schedule="constant",
                warmup=0,
                averaged=False,
            ),
        ]

    def _without_norms(self) -> tuple[str, ...]:
        """Name the parameters of the backbone but for the gains and offsets of its BatchNorms."""
        norms = [module for module in self.backbone.modules() if isinstance(module, _BatchNorm)]
        small = {id(parameter) for norm in norms for parameter in norm.parameters()}
        named = self.backbone.named_parameters(prefix="backbone")
        return tuple(name for name, parameter in named if id(parameter) not in small)

    @torch.no_grad()
    def fit(self, stage: Stage, batches: FitBatches, split: str) -> Facts:
        """Keep the network as it is."""
        assert self.first is not None, "only with a second stage"
        self.first.load_state_dict(nn.Sequential(self.backbone, self.head).state_dict())
        return {}

    def training_step(self, batches: Sequence[Batch], at: Position) -> StepOutput:
        """Return the loss of plain and mixed images, then that of weighted ones."""
        (batch,) = batches
        losses = adjusted_cross_entropy(self.predict(batch.images), batch.labels)
        if at.stage == 0:
            mixed = mixed_batch(MixingOptions(alpha=self.config.alpha), batches, at)
            assert mixed is not None, "every batch is mixed"
            logits = self.predict(mixed.images)
            other = mixed.loss(lambda labels: cross_entropy(logits, labels))
            scalars = {"mixed_loss": other.detach()}
            return StepOutput(losses.mean() + self.config.mixed * other, scalars)
        weights = self._weights(batch.views[1])
        weighted = (weights * losses).mean()
        scalars = {"image_weight": weights.mean()}
        if self.config.reweighted == "ascent":
            return StepOutput(losses.mean(), scalars, ascent=weighted)
        return StepOutput(weighted, scalars)

    @torch.no_grad()
    def _weights(self, images: Tensor) -> Tensor:
        """Return u_i of images as they are, [B]."""
        assert self.first is not None, "only with a second stage"
        confidence = self.first(images).float().softmax(dim=1).amax(dim=1)
        weights = torch.exp(-self.config.temperature * confidence)
        return (weights / distributed.mean(weights.mean())).clamp(max=1)

    def predict(self, images: Tensor) -> Tensor:
        """Return z."""
        logits: Tensor = self.head(self.backbone(images))
        return logits

    @classmethod
    def shares_first_stage(cls, own: Options, other: Options) -> bool:
        """Say whether both train the same network in the first stage."""
        if not (isinstance(own, SUREOptions) and isinstance(other, SUREOptions)):
            return False
        return all(getattr(own, key) == getattr(other, key) for key in ("scale", "alpha", "mixed"))

    def corrections(self) -> tuple[str, ...]:
        """Name the weights of the second stage."""
        return ("images weighted by uncertainty",) if self.config.second else ()

    def assumed_prior(self, at: Position) -> Tensor | None:
        """Return the training prior after stage 1; weights of images leave what is not known."""
        return assumed(self.counts, at) if at.stage == 0 else None
