"""OLTR: dynamic meta-embedding and modulated attention (Liu et al., CVPR 2019, arXiv 1904.05160).

Idea: A rare class has too few images for features of its own, so let an image ask a memory of all classes:
its feature is completed by a mixture of class centroids, as far as it wants them, and is long where it lies
near a known class. Attention on the last map lets classes look at different places.

Symbols:
    x        direct feature: pooled last map, with attention, behind a layer and a ReLU      [B, d]
    M        memory: a centroid of x for each class, the mean of x after stage 1, then learnt [C, d]
    o, e     softmax(W x + b), tanh(S x + t): what is taken from memory, and how much of it   [B, C], [B, d]
    gamma    min_c |x - M_c|, the distance to the nearest centroid                            [B]
    v        (10 / gamma) (x + e * o M), the meta-embedding                                  [B, d]
    z        16 |v| / (1 + |v|) cos(v, w_c)                                                  [B, C]

Stages:
    1   W, b and the backbone, cross-entropy of W x + b; images as they are
    2   M: means over train, without augmentation
    3   everything, class-balanced: CE(z, y) + weight (A + repulsion R), with
            A = mean_i |x_i - M_y|^2 / 2      R = max(0, margin - mean_ic [c != y] |x_i - M_c|^2)
Prediction is z; before stage 3, W x + b.

"cRT and memory" (Decoupling, figure 5) is this without attention and layer, on a backbone that stays as it is
(attention=false layer=none train=added).

Where paper and released code disagree, and what we do:
- The paper's margin loss compares sums of distances. The code has A and R, with the margin on one mean over
  images and classes. We follow the code.
- The code computes the gradient of A for the centroids by hand: the sum over the class of (M_c - x_i) /
  (1 + its images in the batch), divided by B, without the weight. We do the same. As released, cross-entropy
  sends no gradient to the centroids.
- On ImageNet-LT, the layer is new in stage 3 (`layer=second`). On Places-LT, it is trained from the beginning
  (`layer=both`), and the backbone is frozen (`train=added`) with its BatchNorm in train mode.
- Until March 2020, an error in the code kept the attention of Places-LT frozen. Here, it is trained.
- The attention's last convolution begins at zero, so that attention changes nothing at first. The released
  network then draws all of its convolutions anew, and this one with them. Here, it begins at zero.
- The code continues from, and reports, the epoch that is best on val; we use the last one (training.select).
- The attention layer takes 7 x 7 maps. We resize other maps, so that the method runs on small images.
- The paper also rejects images of unknown classes by a threshold. That is not included; the tables do not
  need it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from longtail.config import ByName, Options
from longtail.core import distributed
from longtail.core.batch import Batch, Position, StepOutput
from longtail.core.precision import at_least_float32, unit_rows
from longtail.core.stage import Stage
from longtail.losses import cross_entropy
from longtail.methods.ingredients import SamplingOptions, assumed
from longtail.methods.method import Facts, FitBatches, Method, Setting
from longtail.models.heads import LinearHead
from longtail.models.modulated_attention import ModulatedAttention

REACH = 10.0  # distance at which a direct feature keeps its length
NEAREST = 1e-6  # distance below which a feature grows no longer


class OLTROptions(Options):
    """What can be chosen; defaults are those of ImageNet-LT."""

    name: Literal["oltr"] = "oltr"
    attention: bool = Field(
        True, description="whether stage 3 applies attention to the last feature map"
    )
    layer: Literal["none", "second", "both"] = Field(
        "second",
        description="whether a layer with ReLU follows the features: none, from stage 3 on (second), "
        "or in both stages",
    )
    layer_width: int | None = Field(
        None,
        ge=2,
        description="width d of that layer; the backbone's if not given, other values need layer=both",
    )
    backbone_rate: float = Field(
        1.0,
        gt=0,
        description="factor for the backbone's learning rate in stage 1: .01 on Places-LT",
    )
    train: Literal["all", "added"] = Field(
        "all", description="what stage 3 trains: everything, or all but the backbone (Places-LT)"
    )
    second: int = Field(60, ge=1, description="epochs of stage 3: 30 on Places-LT")
    second_rate: float = Field(
        0.1, gt=0, description="learning rate of the classifier in stage 3: .01 on Places-LT"
    )
    second_schedule: Literal["step", "cosine", "constant"] = Field(
        "step", description="schedule of that learning rate; step lowers it at training.milestones"
    )
    second_backbone_rate: float = Field(
        0.1,
        gt=0,
        description="factor for the backbone's learning rate in stage 3: .01 on Places-LT",
    )
    memory_rate: float = Field(
        0.1, gt=0, description="factor for the centroids' learning rate: 1 on Places-LT"
    )
    weight: float = Field(
        0.01, ge=0, description="weight of A, the distances to the centroids, and of R"
    )
    repulsion: float = Field(
        0.01,
        ge=0,
        description="factor of R, which keeps images away from the centroids of other classes",
    )
    margin: float = Field(
        10.0, ge=0, description="mean squared distance to these centroids from which R is 0"
    )
    scale: float = Field(16.0, gt=0, description="scale of the cosines")
    sampling: Annotated[SamplingOptions, ByName] = Field(
        SamplingOptions(name="class-balanced"), description="sampling in stage 3"
    )

    @model_validator(mode="after")
    def _same_width_in_both_stages(self) -> OLTROptions:
        if self.layer_width is not None and self.layer != "both":
            raise ValueError(
                "layer_width needs layer=both: W is trained in stage 1 on features of the same width"
            )
        return self


class MetaEmbedding(nn.Module):
    """The memory, what is asked of it, and the classifier of the meta-embedding.

    Args:
        width: d.
        num_classes: C.
        scale: Of the cosines.
    """

    used: Tensor

    def __init__(self, width: int, num_classes: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.selector = nn.Linear(width, width)  # S, t
        self.rows = nn.Parameter(torch.empty(num_classes, width).uniform_(-1, 1) * width**-0.5)
        self.centroids = nn.Parameter(torch.zeros(num_classes, width))  # M
        self.register_buffer("used", torch.zeros((), dtype=torch.bool))  # whether it predicts

    def forward(self, direct: Tensor, asked: Tensor) -> Tensor:
        """Map x [B, d] and W x + b [B, C] to z [B, C]."""
        memory = self.centroids.detach()
        selected = self.selector(direct).tanh()
        # in float32 also under autocast: distances and cosines have 8 bits in bf16
        with torch.autocast(direct.device.type, enabled=False):
            x = at_least_float32(direct)
            memory = memory.to(x.dtype)
            gamma = distances(x, memory).amin(dim=1).clamp_min(NEAREST)  # [B]
            recalled = at_least_float32(asked).softmax(dim=1).to(x.dtype) @ memory
            v = (REACH / gamma)[:, None] * (x + at_least_float32(selected).to(x.dtype) * recalled)
            length = v.norm(dim=1, keepdim=True)
            cosines = unit_rows(v) @ unit_rows(self.rows).to(x.dtype).T
            z: Tensor = self.scale * length / (1 + length) * cosines
            return z


class OLTR(Method):
    """See the head of this file."""

    Config = OLTROptions
    summary = "features completed by a memory of class centroids, on class-balanced images, with attention"
    advice = "you need a comparison with OLTR; later methods are more accurate"
    citation = "Liu et al., Large-Scale Long-Tailed Recognition in an Open World, CVPR 2019"

    def __init__(self, config: OLTROptions, setting: Setting) -> None:
        super().__init__()
        self.config, self.epochs, self.counts = config, setting.epochs, setting.class_counts
        self.backbone = setting.build_backbone()
        channels, num_classes = self.backbone.num_features, len(self.counts)
        width = config.layer_width or channels
        self.attention = ModulatedAttention(channels) if config.attention else nn.Identity()
        self.layer = (
            nn.Identity()
            if config.layer == "none"
            else nn.Sequential(nn.Linear(channels, width), nn.ReLU())
        )
        self.head = LinearHead(width, num_classes)  # W, b
        self.memory = MetaEmbedding(width, num_classes, config.scale)

    # --- stages -------------------------------------------------------------------------------

    def stages(self) -> Sequence[Stage]:
        """Representation, memory, and everything with it."""
        config = self.config
        features = ("backbone", "layer") if config.layer == "both" else ("backbone",)
        added = [
            name
            for name, there in (("attention", config.attention), ("layer", config.layer != "none"))
            if there
        ]
        whole = config.train == "all"
        later = (*(("backbone",) if whole else ()), *added)
        slow = config.second_backbone_rate
        return [
            Stage(
                name="representation",
                epochs=self.epochs,
                trainable=(*features, "head"),
                rates=()
                if config.backbone_rate == 1
                else tuple((name, config.backbone_rate) for name in features),
            ),
            Stage(name="memory", epochs=0, kind="fit"),
            Stage(
                name="meta-embedding",
                epochs=config.second,
                samplings=(config.sampling.build(config.second),),
                trainable=(*later, "head", "memory"),
                update_norm=() if whole else ("backbone",),
                learning_rate=config.second_rate,
                schedule=config.second_schedule,
                warmup=0,
                rates=(
                    *((name, slow) for name in later),
                    ("memory.centroids", config.memory_rate),
                ),
            ),
        ]

    @torch.no_grad()
    def fit(self, stage: Stage, batches: FitBatches, split: str) -> Facts:
        """Take the class means of x as centroids."""
        centroids = self.memory.centroids
        sums, seen = torch.zeros_like(centroids), torch.zeros_like(centroids[:, 0])
        for images, labels in batches:
            x = self._direct(images, second=True).to(sums)
            sums.index_add_(0, labels, x)
            seen.index_add_(0, labels, torch.ones_like(labels, dtype=seen.dtype))
        centroids.copy_(sums / seen.clamp_min(1)[:, None])
        return {"length_of_centroids": float(centroids.norm(dim=1).mean())}

    # --- steps --------------------------------------------------------------------------------

    def training_step(self, batches: Sequence[Batch], at: Position) -> StepOutput:
        """Return cross-entropy of W x + b, or of z with the distances to the centroids."""
        (batch,) = batches
        labels, config = batch.labels, self.config
        if at.stage == 0:
            return StepOutput(
                cross_entropy(self.head(self._direct(batch.images, second=False)), labels)
            )
        x = self._direct(batch.images, second=True)
        told = cross_entropy(self.memory(x, self.head(x)), labels)
        near, following, apart = centroid_losses(x, labels, self.memory.centroids, config.margin)
        distance = near + config.repulsion * apart
        loss = told + config.weight * distance + following
        return StepOutput(loss, {"label_loss": told.detach(), "centroid_loss": distance.detach()})

    def after_step(self, out: StepOutput, at: Position) -> None:
        """From the first step of stage 3 on, predict by the meta-embedding."""
        if at.stage > 0:
            self.memory.used.fill_(True)

    def _direct(self, images: Tensor, *, second: bool) -> Tensor:
        maps = self.backbone.feature_map(images)
        pooled = (self.attention(maps) if second else maps).mean(dim=(2, 3))
        if self.config.layer == "second" and not second:
            return pooled
        x: Tensor = self.layer(pooled)
        return x

    # --- prediction ---------------------------------------------------------------------------

    def predict(self, images: Tensor) -> Tensor:
        """Return z; before stage 3, W x + b."""
        maps = self.backbone.feature_map(images)
        plain = maps.mean(dim=(2, 3))
        first = self.head(plain if self.config.layer == "second" else self.layer(plain))
        x = self.layer(self.attention(maps).mean(dim=(2, 3)))
        return torch.where(self.memory.used, self.memory(x, self.head(x)).to(first.dtype), first)

    @classmethod
    def shares_first_stage(cls, own: Options, other: Options) -> bool:
        """Say whether both learn the same representation."""
        if not (isinstance(own, OLTROptions) and isinstance(other, OLTROptions)):
            return False
        layers = [(o.layer, o.layer_width) if o.layer == "both" else None for o in (own, other)]
        return layers[0] == layers[1] and own.backbone_rate == other.backbone_rate

    def corrections(self) -> tuple[str, ...]:
        """Name what stage 3 does."""
        sampling = self.config.sampling.name
        return ("memory of class centroids",) + (
            () if sampling == "instance" else (f"{sampling} sampling",)
        )

    def assumed_prior(self, at: Position) -> Tensor | None:
        """Return the prior of the images that the last stage was trained on."""
        if at.stage == 0:
            return assumed(self.counts, at)
        return assumed(self.counts, at, sampling=self.config.sampling.build(self.config.second))


def distances(x: Tensor, centroids: Tensor) -> Tensor:
    """Return the distances of x [B, d] to centroids [C, d], [B, C]; not by products, which cancel."""
    return torch.cdist(x, centroids, compute_mode="donot_use_mm_for_euclid_dist")


def centroid_losses(
    features: Tensor, labels: Tensor, centroids: Tensor, margin: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return A, what moves centroids, and R, scalars; see the head of this file.

    Args:
        features: x, [B, d].
        labels: int64 [B].
        centroids: M, [C, d].
        margin: Of R.

    Returns:
        A, with a gradient for x alone; a term of value 0 whose gradient moves M as released; R.
    """
    x = at_least_float32(features)
    rows = centroids.to(x.dtype)
    near = (x - rows.detach()[labels]).square().sum(dim=1).mean() / 2
    joint = distributed.join(labels)
    images = torch.ones_like(rows[:, 0]).index_add_(0, joint, torch.ones_like(joint).to(x.dtype))
    pulls = (rows[labels] - x.detach()).square().sum(dim=1) / images[labels]
    following = pulls.mean() / 2
    squares = distances(x, rows).square()
    others = squares.scatter(1, labels[:, None], 0.0).mean()
    return near, following - following.detach(), (margin - others).clamp_min(0)
