"""Experts on one trunk, each told another truth about the classes: RIDE, SADE and BalPoE.

Idea: Networks that share their first layers and differ in the last ones err in different places, so their
mean is better than each. They are kept apart by a term that rewards disagreement (RIDE), or by losses for
other class distributions: as it is, uniform, reversed (SADE), or any row of them (BalPoE).

Symbols:
    z_e      logits of expert e, cosines times s     [B, C], e = 1..E
    z        mean of z_e, what the user gets         [B, C]
    pi       class frequencies n_c / N               [C]; R(pi): in reverse order
    tau_e    strength of the adjustment of expert e
    T        temperatures of RIDE's divergence       [C]
    t        mean logits of a teacher                [B, C]
    m_e      mean of z_1, ..., z_e                   [B, C]
    r_e      what the router says after expert e     [B], e < E

Loss:
    RIDE    sum_e [ LDAM(z_e, y) - lam mean(T)^2 KL( softmax(z / T) || softmax(z_e / T) ) ], with class
            weights in LDAM and T below 1 for rare classes from 80 % of the epochs on
    SADE    CE(z_1, y) + CE(z_2 + log pi, y) + CE(z_3 + log pi - tau log R(pi), y)
    BalPoE  mean_e CE(z_e + tau_e log pi, y), with mixup; the mean z is a product of experts, unbiased where
            the mean of tau_e is 1

Stages of RIDE (`distillation` and `router`; without them there is the second one alone):
    teacher  the same loss for a network of more experts
    joint    E [ loss + 1.5^2 KL( softmax(t / 1.5) || softmax(z / 1.5) ) ]
    router   mean_e BCE(r_e, [m_e is wrong and a later one right]), weight 100 where it is; all else stays
Prediction with a router: m_e of the first e with r_e <= 0, so that expert e + 1 is not computed.

Papers: RIDE, Wang et al., ICLR 2021, arXiv 2010.01809; SADE (TADE), Zhang et al., NeurIPS 2022, arXiv
2107.09249; BalPoE, Sanchez Aimar et al., CVPR 2023, arXiv 2206.05260.

Where papers and released codes disagree, and what we do:
    divergence   RIDE's text: between all pairs; code: of each expert from the mean. We follow the code.
    T            text: shifted by 1 - max; code: divided by the max. Both are at most 1. We follow the code.
    distillation text: of each expert; code: of the mean, and both losses once for every expert, which weighs
                 them by E. The code never puts the teacher into eval mode (`distillation.bn=train`).
    router       code: batches of 512; here, the rate is that of 512 scaled to the batch. The code draws a
                 class, then goes through its images in turn; here, the image is drawn, too. On CIFAR, its
                 layers begin with Kaiming's normal; here, everywhere as its code has them on large sets.
    BalPoE       the theory requires a mean tau of 1; the ImageNet-LT recipe has 1.25, which favours rare
                 classes by log pi / 4. Our recipe is as published.
SADE's weights of the experts from all test images (transductive) are in `longtail ensemble RUN`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import cycle, islice
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from longtail.config import ByName, Options
from longtail.core.batch import Batch, Position, StepOutput
from longtail.core.figure import FigureData
from longtail.core.stage import Sampling, Stage
from longtail.ensembles.alone_and_together import alone_and_together
from longtail.losses import distillation, diversity, diversity_temperature
from longtail.methods.ingredients import (
    BalancedSoftmaxOptions,
    ClassWeightOptions,
    CrossEntropyOptions,
    HeadOptions,
    InverseSoftmaxOptions,
    LossOptions,
    MixingOptions,
    assumed,
    losses_that_correct,
    mixed_batch,
    mixing_corrections,
    mixing_streams,
    refuse_without_cosines,
)
from longtail.methods.method import Facts, FitBatches, Method, Setting
from longtail.models.experts import Experts
from longtail.models.router import ExpertRouter, would_help

SCALE_BATCH, ROUTER_RATE = 512, 0.01  # of RIDE's router


class DistillationOptions(Options):
    """A teacher of more experts, which is trained first (RIDE)."""

    experts: int = Field(6, ge=1, le=16, description="experts of the teacher")
    temperature: float = Field(1.5, gt=0, description="softens both probabilities")
    weight: float = Field(1.0, ge=0, description="weight of the distillation")
    warmup: float | None = Field(
        None,
        ge=0,
        description="warm-up of what learns from the teacher, a duration; as the teacher's if not given. "
        "20 epochs on CIFAR",
    )
    bn: Literal["train", "eval"] = Field(
        "train",
        description="whether the teacher normalises by each batch, as in the released code",
    )


class RouterOptions(Options):
    """Who asks for one more expert, trained last (RIDE's expert assignment)."""

    top: int = Field(
        30, ge=1, description="largest logits that it looks at: 30 on CIFAR, 50 on large data sets"
    )
    help_weight: float = Field(
        100.0, gt=0, description="weight of images that another expert would help"
    )
    epochs: int = Field(5, ge=1, description="epochs of the router, after those of the experts")
    learning_rate: float | None = Field(
        None, gt=0, description="learning rate, with a cosine to zero; 0.01 B / 512 if not given"
    )
    weight_decay: float = Field(5e-4, ge=0, description="weight decay of the router")


class ExpertsOptions(Options):
    """What can be chosen; defaults are SADE's on CIFAR-100-LT."""

    name: Literal["experts"] = "experts"
    losses: tuple[LossOptions, ...] = Field(
        (CrossEntropyOptions(), BalancedSoftmaxOptions(), InverseSoftmaxOptions()),
        description="one loss of method=single-head per expert; their number is the number of experts",
    )  # fmt: skip
    total: Literal["sum", "mean"] = Field(
        "sum", description="how the losses of the experts are combined; mean in BalPoE"
    )
    narrow: bool = Field(
        True,
        description="whether the experts' own layers are 3/4 as wide as the network's; false in BalPoE, and "
        "with pretrained weights",
    )
    head: Annotated[HeadOptions, ByName] = HeadOptions(name="cosine")
    class_weights: Annotated[ClassWeightOptions | None, ByName] = None
    diversity: float = Field(
        0.0,
        ge=0,
        le=1,
        description="weight lambda of RIDE's diversity term: .45 on CIFAR, .2 on large data sets, 0 to "
        "switch it off",
    )
    tilt: float = Field(
        0.05, ge=0, lt=1,
        description="g of RIDE's temperatures, if there are class weights: .05 on CIFAR, .02 on ImageNet-LT, "
        ".015 on iNaturalist",
    )  # fmt: skip
    mixing: Annotated[MixingOptions | None, ByName] = None
    backbone_rate: float = Field(
        1.0, gt=0, description="factor for the learning rate of everything but the heads"
    )

    distillation: DistillationOptions | None = None
    router: RouterOptions | None = None

    @field_validator("losses")
    @classmethod
    def _at_least_one(cls, value: tuple[LossOptions, ...]) -> tuple[LossOptions, ...]:
        if not value:
            raise ValueError("needs at least one loss, one per expert")
        return value

    @model_validator(mode="after")
    def _cosines_where_needed(self) -> ExpertsOptions:
        refuse_without_cosines(self.losses, self.head)
        return self

    @model_validator(mode="after")
    def _somebody_to_route_to(self) -> ExpertsOptions:
        if self.router is not None and len(self.losses) == 1:
            raise ValueError("a router needs at least two experts, so at least two losses")
        return self


class Teacher(nn.Module):
    """A network of experts that others learn from."""

    def __init__(self, backbone: Experts, heads: Iterable[nn.Module]) -> None:
        super().__init__()
        self.backbone, self.heads = backbone, nn.ModuleList(heads)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, 3, H, W] to the logits of its experts, [B, E, C]."""
        return _logits(self.heads, _pooled(self.backbone(images)))


class MultiExpert(Method):
    """See the head of this file."""

    Config = ExpertsOptions
    summary = "experts with different losses on a shared trunk, averaged: RIDE, SADE, BalPoE"
    advice = "accuracy is worth twice the cost: BalPoE for all classes, SADE for few-shot classes"
    citation = "RIDE, ICLR 2021; SADE, NeurIPS 2022; BalPoE, CVPR 2023; see the recipe"

    weights: Tensor | None
    temperature: Tensor
    teacher: Teacher | None
    router: ExpertRouter | None

    def __init__(self, config: ExpertsOptions, setting: Setting) -> None:
        super().__init__()
        self.config, self.epochs, self.groups = config, setting.epochs, setting.groups
        self.batch_size = setting.batch_size
        self.counts = counts = setting.class_counts
        self.backbone = setting.build_experts(len(config.losses), narrow=config.narrow)
        width = self.backbone.num_features

        def heads(number: int) -> list[nn.Module]:
            of = islice(cycle(config.losses), number)
            return [config.head.build(width, len(counts), loss) for loss in of]

        self.heads = nn.ModuleList(heads(len(config.losses)))
        scale = config.head.scale
        self.losses = nn.ModuleList(loss.build(counts, scale) for loss in config.losses)
        weighting = config.class_weights
        self.register_buffer("weights", weighting.build(counts) if weighting else None)
        self.register_buffer("temperature", diversity_temperature(counts, config.tilt))
        self.teacher, self.router = None, None
        if config.distillation:
            number = config.distillation.experts
            built = setting.build_experts(number, narrow=config.narrow)
            self.teacher = Teacher(built, heads(number))
        if config.router:
            top = min(config.router.top, len(counts))
            self.router = ExpertRouter(width, len(config.losses), top)

    # --- stages -------------------------------------------------------------------------------

    def stages(self) -> Sequence[Stage]:
        """Train everything in one stage; a teacher before it, a router after it."""
        config = self.config
        rate, own = config.backbone_rate, ("backbone", "heads", "losses")
        samplings = (Sampling(), *mixing_streams(config.mixing))
        learned, router = config.distillation, config.router
        stages = [
            Stage(
                name="joint",
                epochs=self.epochs,
                samplings=samplings,
                trainable=own if learned or router else (),
                rates=() if rate == 1 else (("backbone", rate),),
                warmup=learned.warmup if learned else None,
                update_norm=("teacher",) if learned and learned.bn == "train" else (),
            )
        ]
        if learned:
            teacher = Stage(
                name="teacher",
                epochs=self.epochs,
                samplings=samplings,
                trainable=("teacher", "losses"),
                whole=True,  # what predicts is not trained yet
                rates=() if rate == 1 else (("teacher.backbone", rate),),
            )
            stages.insert(0, teacher)
        if router:
            scaled = ROUTER_RATE * self.batch_size / SCALE_BATCH
            last = Stage(
                name="router",
                epochs=router.epochs,
                samplings=(Sampling(name="class-balanced", form="multinomial"),),
                trainable=("router",),
                learning_rate=router.learning_rate or scaled,
                weight_decay=router.weight_decay,
                schedule="cosine",
                warmup=0,
            )
            stages.append(last)
        return stages

    # --- steps --------------------------------------------------------------------------------

    def training_step(self, batches: Sequence[Batch], at: Position) -> StepOutput:
        """Return the loss of the stage, and its parts for the log."""
        batch, stage = batches[0], self.stages()[at.stage].name
        if stage == "router":
            return self._router_step(batch)
        mixed = mixed_batch(self.config.mixing, batches, at)
        images = mixed.images if mixed else batch.images
        student = self.teacher is None or stage != "teacher"
        logits = self.sub_model_logits(images) if student else self._taught(images)  # [B, E, C]
        weighting = self.config.class_weights
        weighted = weighting is not None and weighting.has_started(at)

        def label_loss(labels: Tensor) -> Tensor:
            weights = self.weights if weighted else None
            pairs = zip(cycle(self.losses), logits.unbind(dim=1), strict=False)
            return torch.stack([loss(z, labels, weights) for loss, z in pairs])  # [E]

        each = mixed.loss(label_loss) if mixed else label_loss(batch.labels)
        loss = each.sum()
        if self.config.diversity:
            temperature = self.temperature if weighted else torch.ones_like(self.temperature)
            loss = loss - self.config.diversity * diversity(logits, temperature)
        if self.config.total == "mean":
            loss = loss / len(each)
        apart = {f"expert_{e + 1}_loss": value for e, value in enumerate(each.detach().unbind())}
        if self.config.distillation and student:
            learned = self._distilled(logits.mean(dim=1), images)
            apart["distillation"] = learned.detach()
            loss = len(each) * (loss + learned)
        return StepOutput(loss, apart)

    def _taught(self, images: Tensor) -> Tensor:
        assert self.teacher is not None
        logits: Tensor = self.teacher(images)
        return logits

    def _distilled(self, mean: Tensor, images: Tensor) -> Tensor:
        """Return how far the mean of the experts is from that of the teacher's."""
        given = self.config.distillation
        assert given is not None
        with torch.no_grad():
            teacher = self._taught(images).mean(dim=1)
        apart = distillation(mean, teacher, given.temperature).mean()
        return given.weight * given.temperature**2 * apart

    def _router_step(self, batch: Batch) -> StepOutput:
        """Return how badly the router foresees where a later expert helps."""
        router, given = self.router, self.config.router
        assert router is not None
        assert given is not None
        features, means = self._means(batch.images)
        helped = would_help(means, batch.labels)
        wanted = self._wanted(features, means)
        weights = torch.where(helped, given.help_weight, 1.0)
        loss = F.binary_cross_entropy_with_logits(wanted, helped.float(), weights)
        asked = 1 + (wanted > 0).cumprod(dim=1).sum(dim=1).float()
        return StepOutput(loss, {"helped": helped.float().mean(), "experts_asked": asked.mean()})

    def after_step(self, out: StepOutput, at: Position) -> None:
        """From the first step of the router on, predict with it."""
        if self.router is not None and at.stage == len(self.stages()) - 1:
            self.router.trained.fill_(True)

    # --- prediction ---------------------------------------------------------------------------

    def predict(self, images: Tensor) -> Tensor:
        """Return z; with a trained router, the mean of the experts that it asks."""
        if self.router is None:
            return self.sub_model_logits(images).mean(dim=1)
        if torch.compiler.is_compiling():  # a graph computes all experts
            features, means = self._means(images)
            going = (self._wanted(features, means) > 0).cumprod(dim=1)
            last = torch.where(self.router.trained, going.sum(dim=1), len(self.heads) - 1)
            return means.gather(1, last[:, None, None].expand(-1, 1, means.shape[2]))[:, 0]
        if not self.router.trained:
            return self.sub_model_logits(images).mean(dim=1)
        return self._routed(self.router, images)

    def _routed(self, router: ExpertRouter, images: Tensor) -> Tensor:
        """Ask one expert after the other, each for the images alone that still want it."""
        shared = self.backbone.trunk(images)
        going = torch.arange(len(images), device=images.device)
        asked = torch.ones_like(going)
        total = torch.zeros(len(images), len(self.counts), device=images.device)
        for place, (tail, head) in enumerate(zip(self.backbone.tails, self.heads, strict=True)):
            (features,) = _pooled([tail(shared[going])])
            total = total.index_add(0, going, head(features).to(total.dtype))
            asked[going] = place + 1
            if place < len(self.heads) - 1:
                going = going[router(features, total[going] / (place + 1), place) > 0]
            if not len(going):
                break
        return total / asked[:, None]

    def sub_model_logits(self, images: Tensor) -> Tensor:
        """Return z_e, [B, E, C]."""
        return _logits(self.heads, _pooled(self.backbone(images)))

    def _means(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the features of each expert, E times [B, D], and m_e, [B, E, C]."""
        features = _pooled(self.backbone(images))
        total = _logits(self.heads, features).float().cumsum(dim=1)
        number = torch.arange(1, len(features) + 1, device=total.device)
        return features, total / number[:, None]

    def _wanted(self, features: Sequence[Tensor], means: Tensor) -> Tensor:
        """Return r_e, [B, E - 1]."""
        assert self.router is not None
        seen = zip(features[:-1], means.unbind(dim=1), strict=False)
        return torch.stack([self.router(f, m, place) for place, (f, m) in enumerate(seen)], dim=1)

    @classmethod
    def shares_first_stage(cls, own: Options, other: Options) -> bool:
        """Say whether both begin with the same teacher, or without one with the same experts."""
        if not (isinstance(own, ExpertsOptions) and isinstance(other, ExpertsOptions)):
            return False
        if own.router is None and own.distillation is None:
            return False  # there is one stage only
        first, second = (_of_first_stage(options) for options in (own, other))
        return first == second

    def figures(self, batches: FitBatches, lines: Sequence[Facts]) -> Sequence[FigureData]:
        """Return the accuracy of each expert alone beside their mean."""
        names = [f"expert {e + 1}, {loss.name}" for e, loss in enumerate(self.config.losses)]
        return (alone_and_together(self.sub_model_logits, "experts", names, batches, self.groups),)

    def corrections(self) -> tuple[str, ...]:
        """Name the losses and weights that correct for the prior."""
        named = losses_that_correct(self.config.losses)
        if self.config.class_weights:
            named += (f"{self.config.class_weights.name} class weights",)
        return named + mixing_corrections(self.config.mixing)

    def assumed_prior(self, at: Position) -> Tensor | None:
        """Return the geometric mean of what the experts assume; what RIDE adds is no likelihood."""
        config = self.config
        if config.diversity or config.distillation or self.stages()[at.stage].name == "router":
            return None
        return assumed(
            self.counts, at, losses=config.losses, weighting=config.class_weights,
            mixing=config.mixing,
        )  # fmt: skip


def _pooled(maps: Sequence[Tensor]) -> list[Tensor]:
    """Return features, E times [B, D], of maps [B, D, h, w]."""
    return [m.mean(dim=(2, 3)) for m in maps]


def _logits(heads: nn.ModuleList, features: Sequence[Tensor]) -> Tensor:
    return torch.stack([head(f) for head, f in zip(heads, features, strict=True)], dim=1)


def _of_first_stage(options: ExpertsOptions) -> dict[str, object]:
    """Return what the first stage depends on."""
    values = options.model_dump(exclude={"router", "distillation"})
    return values | {"teacher": options.distillation and options.distillation.experts}
