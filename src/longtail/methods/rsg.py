"""RSG: rare-class sample generator (Wang et al., CVPR 2021, arXiv 2106.09859).

Idea: Images of frequent classes vary in ways that would do for rare ones. Late in training, take how a
frequent image differs from its class on a lower feature map, turn it by a convolution, and add it to the map
of a rare image: one more rare image. Nothing of the generator is left for prediction.

Symbols:
    F        maps at the input of the last group of layers, without gradient                [B, D, h, w]
    C_yk     centres of class y, k = 1..K                                                      [C, K, D]
    g_k      softmax over k of a_yk . pooled(F) + b_yk: which centre an image belongs to       [B, K]
    delta    F - C_yk of the centre with the largest g, of an image of a frequent class
    T        a 3x3 convolution
    q        a small network that tells from two maps whether they are of one class            [B, 2]

Loss (one stage), with the loss L of labels, and frequent the first share of the classes by images:
    L(z, y) + weight E + transfer V
        E = mean_i sum_k g_k |F_i - C_yk|^2, and before `start` + CE(q of the batch's halves, same class?)
        V from `start` on, a mean over generated maps:
            CE(q(F, T(delta)), 0) + sum | |T(delta)| - |delta| | + sum |unit(F' - C') unit(T(delta)) - 1|
From `start` on, L is also that of the generated maps F' + T(delta), of a rare image F' and its label y'.
Prediction is z.

Where paper and released code disagree, and what we do:
- The code sums V over rows of D values that it cuts out of the maps in memory order, so they are not channel
  vectors, and what the text calls a cosine is the product of each value, minus 1. We follow the code.
- As in the code, the generator's inputs carry no gradient: the layers below learn only from real images, and
  q is no longer trained once maps are generated.
- The code generates n maps: it goes through the smaller of the two kinds of images in a batch as many whole
  times as the larger one has room for. So that the device need not be asked for n, we generate as many maps
  as there are images, and only the first n, the code's, enter the losses. The others pass through BatchNorm
  of the last group, too, which they do not in the code.
- On ImageNet-LT, the code does not reweight classes late in training, but samples them by effective number.
  We do the same.
- The number published for ImageNet-LT is that of a ResNeXt-50.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from longtail.config import ByName, Options
from longtail.core import distributed
from longtail.core.batch import Batch, Position, StepOutput
from longtail.core.counts import ClassCounts
from longtail.core.precision import at_least_float32
from longtail.core.stage import Stage, epochs_of
from longtail.losses import LDAM, CrossEntropy, LabelLoss, cross_entropy
from longtail.methods.ingredients import (
    ClassWeightOptions,
    SamplingOptions,
    assumed,
)
from longtail.methods.method import Method, Setting
from longtail.models.heads import CosineHead, LinearHead
from longtail.models.residual_groups import DividedBackbone, channels_of


class RSGOptions(Options):
    """What can be chosen; defaults are those of CIFAR."""

    name: Literal["rsg"] = "rsg"
    loss: Literal["ldam", "cross-entropy"] = Field(
        "ldam", description="loss L: ldam on cosines, or cross-entropy on a linear classifier"
    )
    max_margin: float = Field(
        0.5, gt=0, le=2, description="for ldam: margin of the rarest class; .3 on ImageNet-LT"
    )
    scale: float = Field(30.0, gt=0, description="for ldam: scale of the cosines")
    class_weights: Annotated[ClassWeightOptions | None, ByName] = ClassWeightOptions(start=0.8)
    sampling: Annotated[SamplingOptions, ByName] = SamplingOptions()
    start: float = Field(
        0.8, ge=0, description="first epoch with generated maps; below 1, a fraction of all epochs"
    )
    frequent: float = Field(
        0.2, gt=0, lt=1, description="share of the classes that maps are taken from"
    )
    centres: int = Field(15, ge=1, description="number K of centres per class")
    hidden: int = Field(256, ge=1, description="channels of the network q that compares two maps")
    weight: float = Field(0.1, ge=0, description="weight of E, which pulls maps to their centres")
    transfer: float = Field(0.01, ge=0, description="weight of V, the loss of the transformation T")


class Generated(NamedTuple):
    """Generated maps [B, D, h, w], their labels [B], and 1.0 for those that enter the losses, else 0 [B]."""

    maps: Tensor
    labels: Tensor
    counted: Tensor


class Generator(nn.Module):
    """Centres of the classes, what tells two maps apart, and what turns one into a change of another.

    Args:
        counts: Classes; which are frequent.
        frequent: Share of them that are.
        channels: D of the maps.
        centres: K.
        hidden: Channels of q.
    """

    is_frequent: Tensor

    def __init__(
        self, counts: ClassCounts, frequent: float, channels: int, centres: int, hidden: int
    ) -> None:
        super().__init__()
        num_classes, by_rank = len(counts), list(counts.ranking())
        drawn = torch.empty(num_classes, channels, centres)
        drawn[by_rank] = torch.randn(num_classes, channels, centres)
        self.directions = nn.Parameter(drawn)  # a
        self.biases = nn.Parameter(torch.ones(num_classes, centres))  # b
        self.centres = nn.Parameter(torch.zeros(num_classes, centres, channels))  # C
        self.turn = nn.Conv2d(channels, channels, 3, padding=1)  # T
        self.pair = nn.ModuleDict(
            {
                "maps": nn.Sequential(
                    nn.Conv2d(2 * channels, hidden, 1),
                    nn.ReLU(),
                    nn.Conv2d(hidden, hidden, 3, padding=1),
                ),
                "told": nn.Linear(hidden, 2),
            }
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                scale = (
                    nn.init.kaiming_normal_ if isinstance(module, nn.Conv2d) else nn.init.normal_
                )
                scale(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        first = torch.zeros(num_classes, dtype=torch.bool)
        first[by_rank[: int(num_classes * frequent)]] = True
        self.register_buffer("is_frequent", first)

    def shares(self, maps: Tensor, labels: Tensor) -> Tensor:
        """Return g of maps [B, D, h, w], [B, K]."""
        pooled = maps.mean(dim=(2, 3))
        directions, biases = self.directions.to(maps.dtype), self.biases.to(maps.dtype)
        told = torch.einsum("bd,bdk->bk", pooled, directions[labels]) + biases[labels]
        return told.softmax(dim=1)

    def spread(self, maps: Tensor, labels: Tensor) -> Tensor:
        """Return the mean over images of sum_k g_k |F - C_yk|^2, scalar."""
        shares, centres = self.shares(maps, labels), self.centres.to(maps.dtype)[labels]
        places = maps.shape[2] * maps.shape[3]
        along = torch.einsum("bdhw,bkd->bk", maps, centres)
        squares = (
            maps.square().sum(dim=(1, 2, 3))[:, None]
            - 2 * along
            + places * centres.square().sum(dim=2)
        )  # [B, K]
        return (shares * squares).sum(dim=1).mean()

    def alike(self, one: Tensor, other: Tensor, weights: Mapping[str, Tensor] | None) -> Tensor:
        """Return q of pairs of maps, [B, 2]; with `weights`, those of q are taken as they are given."""
        both = torch.cat([one, other], dim=1)
        own = dict(self.pair.named_parameters()) if weights is None else weights
        told = {name.removeprefix("maps."): w for name, w in own.items() if "maps." in name}
        maps = torch.func.functional_call(self.pair["maps"], told, (both,))
        last = {name.removeprefix("told."): w for name, w in own.items() if "told." in name}
        found: Tensor = torch.func.functional_call(
            self.pair["told"], last, (maps.mean(dim=(2, 3)),)
        )
        return found

    def same_class(self, maps: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy of q between the halves of a batch, scalar; 0 for one image."""
        half = len(labels) // 2
        if half == 0:
            return maps.new_zeros(())
        told = self.alike(maps[:half], maps[half : 2 * half], None)
        same = labels[:half] == labels[half : 2 * half]
        return cross_entropy(told, same.long())

    def residues(self, maps: Tensor, labels: Tensor) -> Tensor:
        """Return maps less the centre that they belong to most, [B, D, h, w], without gradient."""
        nearest = self.shares(maps, labels).argmax(dim=1)
        return (maps - self.centres.to(maps.dtype)[labels, nearest][:, :, None, None]).detach()

    def forward(
        self, maps: Tensor, labels: Tensor, *, generates: bool
    ) -> tuple[Tensor, Tensor, Generated | None]:
        """Return the spread of maps around their centres and what else the generator learns from.

        Args:
            maps: F, [B, D, h, w], without gradient.
            labels: int64 [B].
            generates: Whether maps are generated.

        Returns:
            The first term of E; its second one and None, or V and what was generated.
        """
        spread = self.spread(maps, labels)
        if not generates:
            return spread, self.same_class(maps, labels), None
        transfer, made = self.generated(maps, labels)
        return spread, transfer, made

    def generated(self, maps: Tensor, labels: Tensor) -> tuple[Tensor, Generated]:
        """Return V, and as many maps of rare classes as there are maps; arguments as of `forward`."""
        frequent, rare, counted = partners(self.is_frequent[labels])
        residues = self.residues(maps, labels)
        delta, seen = residues[frequent], maps[frequent]
        turned = at_least_float32(self.turn(delta)).to(maps.dtype)
        given = {name: weight.detach() for name, weight in self.pair.named_parameters()}
        told = self.alike(seen, turned, given)
        alike = cross_entropy(told, torch.zeros_like(labels), reduction="none")
        size, channels = maps.shape[:2]
        lengths = _rows(turned, channels).norm(dim=1) - _rows(delta, channels).norm(dim=1)
        products = _unit(residues[rare], channels) * _unit(turned, channels) - 1
        apart = lengths.abs().view(size, -1).sum(dim=1) + products.abs().view(size, -1).sum(dim=1)
        transfer = (counted * (alike + apart)).sum() / counted.sum().clamp_min(1)
        both_kinds = counted[0]  # else nothing is generated
        return transfer, Generated(maps[rare] + both_kinds * turned, labels[rare], counted)


class RSG(Method):
    """See the head of this file."""

    Config = RSGOptions
    summary = "late in training, feature maps of rare classes made from those of frequent ones"
    advice = "you want a single stage of training and no extra cost in prediction"
    citation = "Wang et al., RSG: A Simple but Effective Module for Learning Imbalanced Datasets, CVPR 2021"
    several_processes = "pairs the images of its own part to generate maps"
    idle_parts = True  # the generator, before `start`

    weights: Tensor | None

    def __init__(self, config: RSGOptions, setting: Setting) -> None:
        super().__init__()
        self.config, self.epochs, self.counts = config, setting.epochs, setting.class_counts
        self.backbone = DividedBackbone(
            setting.build_backbone(), "RSG generates maps between groups"
        )
        num_classes = len(self.counts)
        width, margins = self.backbone.num_features, config.loss == "ldam"
        self.head: nn.Module = (
            CosineHead(width, num_classes, config.scale)
            if margins
            else LinearHead(width, num_classes, initialisation="kaiming")
        )
        self.loss: LabelLoss = (
            LDAM(self.counts, config.max_margin, config.scale) if margins else CrossEntropy()
        )
        weighting = config.class_weights
        self.register_buffer("weights", weighting.build(self.counts) if weighting else None)
        channels = channels_of(self.backbone.below)
        self.generator = Generator(
            self.counts, config.frequent, channels, config.centres, config.hidden
        )

    def stages(self) -> Sequence[Stage]:
        """Train everything in one stage."""
        return [
            Stage(
                name="joint",
                epochs=self.epochs,
                samplings=(self.config.sampling.build(self.epochs),),
            )
        ]

    def training_step(self, batches: Sequence[Batch], at: Position) -> StepOutput:
        """Return the loss of images, from `start` on with generated ones, and the generator's."""
        (batch,) = batches
        labels, config = batch.labels, self.config
        maps = self.backbone(batch.images, part="below")
        spread, other, made = self.generator(
            at_least_float32(maps.detach()),
            labels,
            generates=at.epoch >= epochs_of(config.start, at.epochs),
        )
        scalars = {"spread": spread.detach()}
        if made is None:
            logits = self.head(self.backbone(maps, part="last"))
            own = self.loss(logits, labels, self._weights_at(at))
            return StepOutput(own + config.weight * (spread + other), scalars)
        joined = torch.cat([maps, made.maps.to(maps.dtype)])
        every = torch.cat([labels, made.labels])
        losses = self.loss.per_image(self.head(self.backbone(joined, part="last")), every)
        real = torch.ones_like(losses[: len(labels)])
        counted = torch.cat([real, made.counted.to(losses.dtype)])
        weights = self._weights_at(at)
        if weights is not None:
            counted = counted * weights.to(losses.dtype)[every]
        told = (counted * losses).sum() / distributed.mean(counted.sum())
        scalars["transfer"] = other.detach()
        return StepOutput(told + config.weight * spread + config.transfer * other, scalars)

    def predict(self, images: Tensor) -> Tensor:
        """Return z."""
        logits: Tensor = self.head(self.backbone(images))
        return logits

    def corrections(self) -> tuple[str, ...]:
        """Name the loss, weights and sampler, and what is generated."""
        config = self.config
        named = ["generated maps of rare classes"]
        if config.loss == "ldam":
            named.insert(0, "ldam")
        if config.class_weights:
            named.append(f"{config.class_weights.name} class weights")
        if config.sampling.name != "instance":
            named.append(f"{config.sampling.name} sampling")
        return tuple(named)

    def assumed_prior(self, at: Position) -> Tensor | None:
        """Return the prior of cross-entropy; margins and generated maps assume what is not known."""
        if self.config.loss == "ldam" or at.epoch >= epochs_of(self.config.start, at.epochs):
            return None
        return assumed(
            self.counts, at,
            sampling=self.config.sampling.build(self.epochs), weighting=self.config.class_weights,
        )  # fmt: skip

    def _weights_at(self, at: Position) -> Tensor | None:
        weighting = self.config.class_weights
        return self.weights if weighting and weighting.has_started(at) else None


def partners(frequent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the rows of frequent and of rare images that are paired, going through both in turn.

    Args:
        frequent: Which images of a batch are frequent, bool [B].

    Returns:
        Rows int64 [B] of frequent and of rare images (all rows once, where there is one kind alone), and 1.0
        for the first floor(larger / smaller) smaller pairs, by the numbers of both kinds, 0 for the others,
        float [B]. The device is not asked how many there are.
    """
    size = len(frequent)
    order = frequent.long().argsort(stable=True)  # rare ones first
    place = torch.arange(size, device=frequent.device)
    number = frequent.sum()
    rare = order[place % (size - number).clamp_min(1)]
    first = order[((size - number) + place % number.clamp_min(1)).clamp_max(size - 1)]
    both = (number > 0) & (number < size)
    smaller, larger = torch.minimum(number, size - number), torch.maximum(number, size - number)
    whole = larger - larger % smaller.clamp_min(1)
    counted = both & (place < whole)
    return torch.where(both, first, place), torch.where(both, rare, place), counted.float()


def _rows(maps: Tensor, channels: int) -> Tensor:
    """Cut maps [B, D, h, w] into rows of D values as they lie in memory, [B h w, D]."""
    return maps.contiguous(memory_format=torch.contiguous_format).view(-1, channels)


def _unit(maps: Tensor, channels: int) -> Tensor:
    return F.normalize(_rows(maps, channels), dim=1)
