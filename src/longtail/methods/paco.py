"""PaCo: parametric contrastive learning (Cui et al., ICCV 2021, arXiv 2107.12028).

Idea: Supervised contrastive learning compares an image with others of its class, so it favours classes
of which there are many. Add one learnable centre per class to the comparison: a rare class, which meets
few of its own images, always meets its centre. The centres are the classifier.

Symbols:
    x1, x2   two views of an image          [B, 3, H, W]; x1 strongly, x2 weakly augmented
    f        features of x1                  [B, D]
    z        W f + b, the centres' logits    [B, C]; f and W are not normalised
    q        unit(projection(f))             [B, d], anchors and part of the contrast set
    k        unit(key network(x2))           [B, d], of the momentum copy, constants
    Q, l     queue of past keys and labels   [K, d], [K]
    pi       class prior                     [C]
Losses, in `longtail.losses.contrastive`: eq. 8 in `paco`, supervised contrast in `supcon`.

One step: f, z, q from x1; k from x2 by the key network in train mode; loss with the queue as it was
before this batch; SGD; then the keys join the queue and the key network follows. (The released code
moves the key network before the next step's forward pass, which is the same.)

Objectives, as configurations of this file:
    paco                              eq. 8; rebalance=false is PaCo without centre rebalance, and the
                                      balanced setting
    supcon                            supervised contrast alone, then a linear probe on the frozen backbone
    multi-task                        CE(z, y) + weight * supervised contrast
Balanced softmax in the same schedule and views is a recipe of `single-head`.

GPaCo (Cui et al., TPAMI 2023, arXiv 2209.12400) is `keys=own`: no momentum copy, the network itself sees both
views, and both are anchors, each with the other as its key and with gradient to both. Its projection has
three layers and no BatchNorm (`projection=deep`).

Where paper and released code disagree, and what we do:
- alpha on CIFAR is .02 in the paper and .01 in the code; we use .01. The temperature divides only
  the samples.
- As in the code, the projection has a BatchNorm, which MoCo v2 does not have, and the centres have a bias.
- The queue begins with random labels and short rows: `queue_start: published`.
- Contrast sets are local to a process, the queue is global: `contrast: local`, the default.
- With several processes, the code shuffles key images among them, so that BatchNorm sees a key and its
  query among different images. We do not; one process, as on CIFAR, has nothing to shuffle.
- GPaCo's code can smooth the labels of the centres. Its long-tailed scripts do not, so it is not included.
- SupCon's linear probe on long-tailed data is not described; we use plain cross-entropy with
  instance-balanced sampling [assumed].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from longtail.config import ByName, Options
from longtail.core import distributed
from longtail.core.batch import Batch, Position, StepOutput
from longtail.core.figure import FigureData
from longtail.core.precision import unit_rows
from longtail.core.stage import Stage
from longtail.losses import (
    Contrast,
    PaCoTerms,
    contrast,
    cross_entropy,
    paco,
    supervised_contrastive,
)
from longtail.methods.ingredients import SamplingOptions, ViewName, assumed
from longtail.methods.method import Facts, FitBatches, Method, Setting
from longtail.models.heads import Initialisation, LinearHead
from longtail.models.momentum import MomentumCopy
from longtail.models.queue import LabelledQueue, Start


class Measured(NamedTuple):
    """Sums over the steps of the last epoch, for the report; each [C].

    Attributes:
        anchors: Queries of each class.
        own_centre: Probability that they give to the centre of their class.
        positives: Their positive samples in the contrast set.
        steps: Steps, the same for every class.
        gradient_norm: L2 norm of the gradient of each row of the classifier.
    """

    anchors: Tensor
    own_centre: Tensor
    positives: Tensor
    steps: Tensor
    gradient_norm: Tensor


class PaCoOptions(Options):
    """What can be chosen; defaults suit ImageNet-sized images, the recipes say the rest."""

    name: Literal["paco"] = "paco"
    objective: Literal["paco", "supcon", "multi-task"] = Field(
        "paco",
        description="paco, contrastive learning with a linear probe, or cross-entropy plus contrast",
    )
    rebalance: bool = Field(
        True,
        description="whether log pi is added to the logits of the centres; switch it off for balanced data",
    )
    alpha: float = Field(
        0.05,
        ge=0,
        description="weight of a positive sample: .01 on CIFAR-100-LT, .05 on ImageNet-LT",
    )
    temperature: float = Field(
        0.2,
        gt=0,
        description="temperature of the samples: .05 on CIFAR, .2 on ImageNet-LT, .07 with ResNeXt-50",
    )
    centre_temperature: float = Field(
        1.0, gt=0,
        description="temperature of the centres: 1 in the released code; equation 8 has one "
        "temperature for both",
    )  # fmt: skip
    keys: Literal["momentum", "own"] = Field(
        "momentum",
        description="what sees the second view: a momentum copy, or the network itself, whose keys are "
        "anchors too (GPaCo)",
    )
    weight: float = Field(0.05, ge=0, description="of the contrast in multi-task")
    projection: Literal["batchnorm", "deep"] = Field(
        "batchnorm", description="two layers with BatchNorm between, or three without (GPaCo)"
    )
    projection_width: int = Field(128, ge=2, description="d: CIFAR 32, ImageNet 128")
    initialisation: Initialisation = Field(
        "uniform",
        description="initialisation of the last projection layer; kaiming in the released code for CIFAR",
    )
    queue: int = Field(
        8192, ge=1, description="size K of the queue: 1,024 on CIFAR, 8,192 on ImageNet"
    )
    queue_start: Start = Field("published", description="content of the queue before it is full")
    momentum: float = Field(0.999, ge=0, lt=1, description="momentum of the key network")
    views: tuple[ViewName, ViewName] = Field(
        ("default", "sim"),
        description="augmentation of query and key; `default` is that of the data set",
    )
    contrast: Literal["local", "joint"] = Field(
        "local",
        description="with several processes: contrast within each process, or across the joint batch",
    )
    sampling: Annotated[SamplingOptions, ByName] = SamplingOptions()
    train: Literal["all", "last-bottleneck"] = Field(
        "all",
        description="what is trained; last-bottleneck keeps the other convolutions as pretrained and trains "
        "all normalisation layers (Places-LT)",
    )
    probe_epochs: int = Field(100, ge=1, description="epochs of supcon's linear probe")
    probe_rate: float = Field(0.1, gt=0, description="learning rate of the probe, with a cosine")

    @model_validator(mode="after")
    def _something_to_learn_from(self) -> PaCoOptions:
        if self.objective == "multi-task" and self.weight == 0:
            raise ValueError("objective multi-task needs a weight above 0")
        if self.keys == "own" and self.objective != "paco":
            raise ValueError("keys=own is GPaCo, which has the objective paco")
        return self


class PaCo(Method):
    """See the head of this file."""

    Config = PaCoOptions
    summary = "contrastive learning with one learnable centre per class, two views and a queue"
    advice = "you have time for hundreds of epochs and strong augmentation"
    citation = (
        "Cui et al., Parametric Contrastive Learning, ICCV 2021; GPaCo: Cui et al., Generalized Parametric "
        "Contrastive Learning, TPAMI 2023"
    )
    several_processes = "contrasts its own part with itself (not with `method.contrast=joint`)"

    key: MomentumCopy | None
    log_prior: Tensor
    measured: Tensor

    def __init__(self, config: PaCoOptions, setting: Setting) -> None:
        super().__init__()
        self.config, self.epochs, self.counts = config, setting.epochs, setting.class_counts
        self.backbone = setting.build_backbone()
        width, num_classes = self.backbone.num_features, len(setting.class_counts)
        last = nn.Linear(width, config.projection_width)
        first = [nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU()]
        if config.projection == "deep":
            first = [nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
        self.projection = nn.Sequential(*first, last)
        if config.initialisation == "kaiming":
            nn.init.kaiming_normal_(last.weight)
        self.head = LinearHead(width, num_classes)
        self.key = None
        if config.keys == "momentum":
            own = nn.Sequential(self.backbone, self.projection)
            self.key = MomentumCopy(own, config.momentum)
        self.queue = LabelledQueue(
            config.queue, config.projection_width, setting.class_counts, config.queue_start
        )
        self.register_buffer("log_prior", setting.class_counts.log_prior())  # [C]
        self.register_buffer("measured", torch.zeros(len(Measured._fields), num_classes))

    # --- stages -------------------------------------------------------------------------------

    def stages(self) -> Sequence[Stage]:
        """Train on two views; supcon trains its classifier afterwards."""
        config = self.config
        backbone = ("backbone",) if config.train == "all" else self._last_bottleneck()
        classifier = () if config.objective == "supcon" else ("head",)
        first = Stage(
            name="contrast",
            epochs=self.epochs,
            samplings=(config.sampling.build(self.epochs),),
            views=config.views,
            trainable=(*backbone, "projection", *classifier),
            update_norm=() if self.key is None else ("key",),
        )
        if config.objective != "supcon":
            return [first]
        probe = Stage(
            name="linear probe",
            epochs=config.probe_epochs,
            views=config.views[:1],
            trainable=("head",),
            reset=("head",),
            learning_rate=config.probe_rate,
            schedule="cosine",
            warmup=0,
        )
        return [first, probe]

    def _last_bottleneck(self) -> tuple[str, ...]:
        """Name all normalisation layers and the last block of the last group of layers."""
        norms = [
            f"backbone.{name}"
            for name, module in self.backbone.named_modules()
            if isinstance(module, nn.BatchNorm2d)
        ]
        return (*norms, f"backbone.{self.backbone.last_bottleneck}")

    # --- steps --------------------------------------------------------------------------------

    def training_step(self, batches: Sequence[Batch], at: Position) -> StepOutput:
        """Return the loss of a batch of two views; in the probe, plain cross-entropy of one."""
        (batch,) = batches
        features = self.backbone(batch.views[0])
        logits, labels = self.head(features), batch.labels
        if at.stage > 0:
            return StepOutput(cross_entropy(logits, labels))
        queries = unit_rows(self.projection(features))
        if self.key is None:
            others = self.backbone(batch.views[1])
            keys, key_logits = unit_rows(self.projection(others)), self.head(others)
        else:
            keys = unit_rows(self.key(batch.views[1]))
        pairs = self._compared(queries, keys, labels)
        carry = {"keys": keys.detach(), "labels": labels}
        if self.config.objective == "paco":
            terms = self._terms(logits, pairs, labels)
            carry |= {"centres": terms.centre_probability, "positives": terms.positives}
            loss = terms.loss.mean()
            if self.key is None:
                swapped = self._compared(keys, queries, labels)
                loss = (loss + self._terms(key_logits, swapped, labels).loss.mean()) / 2
            return StepOutput(loss, carry=carry)
        loss = supervised_contrastive(pairs).mean()
        if self.config.objective == "multi-task":
            loss = cross_entropy(logits, labels) + self.config.weight * loss
        return StepOutput(loss, carry=carry)

    def _compared(self, queries: Tensor, keys: Tensor, labels: Tensor) -> Contrast:
        """Compare the queries with all queries, all keys and the queue."""
        others, first = None, 0
        if self.config.contrast == "joint" and distributed.active():
            join = distributed.join
            others = (join(queries), join(keys), join(labels))
            first = distributed.rank() * len(labels)
        return contrast(
            queries, keys, self.queue.features, labels, self.queue.labels,
            self.config.temperature, others=others, first=first,
        )  # fmt: skip

    def _terms(self, logits: Tensor, pairs: Contrast, labels: Tensor) -> PaCoTerms:
        """Return eq. 8 of the queries."""
        return paco(
            logits, pairs, labels,
            log_prior=self.log_prior if self.config.rebalance else None,
            alpha=self.config.alpha, centre_temperature=self.config.centre_temperature,
        )  # fmt: skip

    @torch.no_grad()
    def after_step(self, out: StepOutput, at: Position) -> None:
        """Let the keys join the queue and the key network follow."""
        if at.stage > 0:
            return
        labels = out.carry["labels"]
        self.queue.append(distributed.join(out.carry["keys"]), distributed.join(labels))
        if self.key is not None:
            self.key.follow(nn.Sequential(self.backbone, self.projection))
        if "centres" in out.carry:
            self._measure(labels, out.carry, at)

    def _measure(self, labels: Tensor, carry: Facts, at: Position) -> None:
        if at.step == 0:
            self.measured.zero_()
        sums = self._sums()
        sums.anchors.index_add_(0, labels, torch.ones_like(labels, dtype=sums.anchors.dtype))
        sums.own_centre.index_add_(0, labels, carry["centres"].to(sums.own_centre.dtype))
        sums.positives.index_add_(0, labels, carry["positives"].to(sums.positives.dtype))
        sums.steps.add_(1)
        gradient = self.head.weight.grad
        if gradient is not None:
            sums.gradient_norm.add_(gradient.norm(dim=1))

    def _sums(self) -> Measured:
        """Return the rows of `measured` by name; they share its memory."""
        return Measured(*self.measured.unbind())

    # --- prediction ---------------------------------------------------------------------------

    def predict(self, images: Tensor) -> Tensor:
        """Return z, without log pi."""
        logits: Tensor = self.head(self.backbone(images))
        return logits

    def corrections(self) -> tuple[str, ...]:
        """Name the prior on the centres and the sampler."""
        config = self.config
        named = ["balanced centres"] if config.objective == "paco" and config.rebalance else []
        if config.sampling.name != "instance":
            named.append(f"{config.sampling.name} sampling")
        return tuple(named)

    def assumed_prior(self, at: Position) -> Tensor | None:
        """Return the prior of a classifier that cross-entropy trains; centres among samples have none."""
        config = self.config
        if config.objective == "multi-task":
            return assumed(self.counts, at, sampling=config.sampling.build(self.epochs))
        # the probe sees images as they are
        return assumed(self.counts, at) if at.stage == 1 else None

    def figures(self, batches: FitBatches, lines: Sequence[Facts]) -> Sequence[FigureData]:
        """Return what the last epoch measured, class by class from the most frequent one."""
        sums = Measured(*self.measured.cpu().unbind())
        if not bool((sums.steps > 0).all()):
            return ()
        prior = self.log_prior.exp().float()
        order = prior.argsort(descending=True).cpu()
        met = sums.anchors > 0
        positives = torch.where(met, sums.positives / sums.anchors, torch.nan)
        expected = (self.config.queue * prior + 1).cpu()
        own_centre = torch.where(met, sums.own_centre / sums.anchors, torch.nan)
        optimum = 1 / (1 + self.config.alpha * positives)

        def curve(title: str, text: str, y: str, **series: Tensor) -> FigureData:
            return FigureData(
                title=title, text=text, x="classes, from the most to the least frequent", y=y,
                places=[float(place) for place in range(len(order))],
                series={name.replace("_", " "): _values(v[order]) for name, v in series.items()},
            )  # fmt: skip

        return (
            curve(
                "Probability of the image's own class centre",
                "Mean over the last epoch, with the optimum 1 / (1 + alpha K) for the K positives in the "
                "contrast set (remark 2): the rarer a class, the more it learns from its centre.",
                "probability", measured=own_centre, optimum=optimum,
            ),
            curve(
                "Positives in the contrast set",
                "Mean over the last epoch, with the expected number: queue size times class prior, plus "
                "the image's own key.",
                "positives", measured=positives, expected=expected,
            ),
            curve(
                "Gradient of the classifier, by class",
                "L2 norm of the gradient of each row, averaged over the steps of the last epoch (figure 2).",
                "norm", gradient=sums.gradient_norm / sums.steps,
            ),
        )  # fmt: skip


def _values(values: Tensor) -> list[float | None]:
    return [None if bool(value.isnan()) else float(value) for value in values]
