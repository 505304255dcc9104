"""PaCo: parametric contrastive learning (Cui et al., ICCV 2021, arXiv 2107.12028).

Idea: Supervised contrastive learning compares a picture with others of its class, so it favours classes
of which there are many. Add one learnable centre per class to the comparison: a rare class, which meets
few of its own pictures, always meets its centre. The centres are the classifier.

Symbols:
    x1, x2   two views of a picture          [B, 3, H, W]; x1 strongly, x2 weakly augmented
    f        features of x1                  [B, D]
    z        W f + b, the centres' logits    [B, C]; f and W are not normalised
    q        unit(projection(f))             [B, d], anchors and part of the contrast set
    k        unit(key network(x2))           [B, d], of the momentum copy, constants
    Q, l     queue of past keys and labels   [K, d], [K]
    pi       class prior                     [C]
Losses: eq. 8 in `longtail.losses.paco`, supervised contrast in `longtail.losses.supcon`.

One step: f, z, q from x1; k from x2 by the key network in train mode; loss with the queue as it was
before this batch; SGD; then the keys join the queue and the key network follows. (The released code
moves the key network before the next step's forward pass, which is the same.)

Objectives, as configurations of this file:
    paco                              eq. 8; rebalance=false is PaCo without centre rebalance, and the
                                      balanced setting
    supcon                            supervised contrast alone, then a linear probe on the frozen backbone
    multi-task                        CE(z, y) + weight * supervised contrast
Balanced softmax in the same schedule and views is a recipe of `single-head`.

Where paper and released code disagree, and what we do:
- alpha on CIFAR is .02 in the paper and .01 in the code: .01. temperature divides the samples only.
- The projection has a BatchNorm that MoCo v2 does not have: as the code. Centres have a bias.
- The queue begins with random labels and short rows: `queue_start: published`.
- Contrast sets are local to a process, the queue is global: `contrast: local`, the default.
- SupCon's probe on a long tail is not described: plain cross-entropy, instance-balanced [assumed].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from longtail.core import distributed
from longtail.core.batch import Batch, Position, StepOutput
from longtail.core.panel import Panel
from longtail.core.stage import Stage
from longtail.data.augmentation import find_policy
from longtail.data.options import Options
from longtail.losses import contrast, cross_entropy, paco, supervised_contrastive
from longtail.methods.ingredients import ByName, SamplingOptions
from longtail.methods.method import Facts, FitBatches, Method, Setting
from longtail.models.heads import LinearHead
from longtail.models.momentum import MomentumCopy
from longtail.models.queue import LabelledQueue, Start

MEASURED = ("anchors", "centre probability", "positives", "steps", "gradient norm")


class PaCoOptions(Options):
    """What can be chosen; defaults suit ImageNet-sized pictures, the recipes say the rest."""

    name: Literal["paco"] = "paco"
    objective: Literal["paco", "supcon", "multi-task"] = "paco"
    rebalance: bool = Field(True, description="log pi on the centres; off for balanced data")
    alpha: float = Field(
        0.05, ge=0, description="weight of a positive sample: CIFAR-100-LT .01, ImageNet-LT .05"
    )
    temperature: float = Field(
        0.2, gt=0, description="of the samples: CIFAR .05, ImageNet-LT .2, ResNeXt-50 .07"
    )
    weight: float = Field(0.05, ge=0, description="of the contrast in multi-task")
    projection_width: int = Field(128, ge=2, description="d: CIFAR 32, ImageNet 128")
    queue: int = Field(8192, ge=1, description="K: CIFAR 1,024, ImageNet 8,192")
    queue_start: Start = Field("published", description="what the queue holds before it is full")
    momentum: float = Field(0.999, ge=0, lt=1, description="of the key network")
    views: tuple[str, str] = Field(
        ("default", "sim"), description="augmentation of query and key; default is the data set's"
    )
    contrast: Literal["local", "joint"] = Field(
        "local", description="several processes: compare inside each, or over the joint batch"
    )
    sampling: Annotated[SamplingOptions, ByName] = SamplingOptions()
    train: Literal["all", "last-bottleneck"] = Field(
        "all",
        description="last-bottleneck: other convolutions stay as pretrained, normalisation is "
        "trained everywhere (Places-LT)",
    )
    probe_epochs: int = Field(100, ge=1, description="of the linear probe of supcon")
    probe_rate: float = Field(0.1, gt=0, description="learning rate of the probe, cosine")

    @field_validator("views")
    @classmethod
    def _known(cls, value: tuple[str, str]) -> tuple[str, str]:
        for name in value:
            if name != "default":
                find_policy(name)
        return value

    @model_validator(mode="after")
    def _something_to_learn_from(self) -> PaCoOptions:
        if self.objective == "multi-task" and self.weight == 0:
            raise ValueError("objective multi-task needs a weight above 0")
        return self


class PaCo(Method):
    """See the head of this file."""

    Config = PaCoOptions
    summary = "contrastive learning with one learnable centre per class, two views and a queue"
    advice = "there is time for hundreds of epochs and strong augmentation"
    citation = "Cui et al., Parametric Contrastive Learning, ICCV 2021"

    log_prior: Tensor
    measured: Tensor

    def __init__(self, config: PaCoOptions, setting: Setting) -> None:
        super().__init__()
        self.config, self.epochs = config, setting.epochs
        self.backbone = setting.build_backbone()
        width, num_classes = self.backbone.num_features, len(setting.class_counts)
        self.projection = nn.Sequential(
            nn.Linear(width, width),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Linear(width, config.projection_width),
        )
        self.head = LinearHead(width, num_classes)
        self.key = MomentumCopy(nn.Sequential(self.backbone, self.projection), config.momentum)
        self.queue = LabelledQueue(
            config.queue, config.projection_width, setting.class_counts, config.queue_start
        )
        self.register_buffer("log_prior", setting.class_counts.log_prior())  # [C]
        # sums over the last epoch by class, for the report: [len(MEASURED), C]
        self.register_buffer("measured", torch.zeros(len(MEASURED), num_classes))

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
            update_norm=("key",),
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
        group = f"backbone.{self.backbone.last_block}"
        *_, last = (name for name, _ in self.get_submodule(group).named_children())
        norms = [
            f"backbone.{name}"
            for name, module in self.backbone.named_modules()
            if isinstance(module, nn.BatchNorm2d)
        ]
        return (*norms, f"{group}.{last}")

    # --- steps --------------------------------------------------------------------------------

    def training_step(self, batches: Sequence[Batch], at: Position) -> StepOutput:
        """Return the loss of a batch of two views; in the probe, plain cross-entropy of one."""
        (batch,) = batches
        features = self.backbone(batch.views[0])
        logits, labels = self.head(features), batch.labels
        if at.stage > 0:
            return StepOutput(cross_entropy(logits, labels))
        queries = _unit(self.projection(features))
        keys = _unit(self.key(batch.views[1]))
        others, first = None, 0
        if self.config.contrast == "joint" and distributed.active():
            join = distributed.join
            others = (join(queries), join(keys), join(labels))
            first = distributed.rank() * len(labels)
        pairs = contrast(
            queries, keys, self.queue.features, labels, self.queue.labels,
            self.config.temperature, others=others, first=first,
        )  # fmt: skip
        carry = {"keys": keys, "labels": labels}
        if self.config.objective == "paco":
            prior = self.log_prior if self.config.rebalance else None
            terms = paco(logits, pairs, labels, log_prior=prior, alpha=self.config.alpha)
            carry |= {"centres": terms.centre_probability, "positives": terms.positives}
            return StepOutput(terms.loss.mean(), carry=carry)
        loss = supervised_contrastive(pairs).mean()
        if self.config.objective == "multi-task":
            loss = cross_entropy(logits, labels) + self.config.weight * loss
        return StepOutput(loss, carry=carry)

    @torch.no_grad()
    def after_step(self, out: StepOutput, at: Position) -> None:
        """Let the keys join the queue and the key network follow."""
        if at.stage > 0:
            return
        labels = out.carry["labels"]
        self.queue.append(distributed.join(out.carry["keys"]), distributed.join(labels))
        self.key.follow(nn.Sequential(self.backbone, self.projection))
        if "centres" in out.carry:
            self._measure(labels, out.carry, at)

    def _measure(self, labels: Tensor, carry: Facts, at: Position) -> None:
        if at.step == 0:
            self.measured.zero_()
        ones = torch.ones_like(carry["centres"])
        rows = torch.stack([ones, carry["centres"], carry["positives"]])
        self.measured[:3].index_add_(1, labels, rows.to(self.measured.dtype))
        self.measured[3] += 1
        gradient = self.head.weight.grad
        if gradient is not None:
            self.measured[4] += gradient.norm(dim=1)

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

    def panels(self, batches: FitBatches, lines: Sequence[Facts]) -> Sequence[Panel]:
        """Return what the last epoch measured, class by class from the most frequent one."""
        if not bool((self.measured[3] > 0).all()):
            return ()
        prior = self.log_prior.exp().float()
        order = prior.argsort(descending=True).cpu()
        anchors, centres, positives, steps, gradient = self.measured.cpu()
        found = torch.where(anchors > 0, positives / anchors, torch.nan)
        expected = (self.config.queue * prior + 1).cpu()
        centre = torch.where(anchors > 0, centres / anchors, torch.nan)
        optimum = 1 / (1 + self.config.alpha * found)

        def curve(title: str, text: str, y: str, **series: Tensor) -> Panel:
            return Panel(
                title=title, text=text, x="classes, from the most to the least frequent", y=y,
                places=[float(place) for place in range(len(order))],
                series={name.replace("_", " "): _values(v[order]) for name, v in series.items()},
            )  # fmt: skip

        return (
            curve(
                "Probability of the own centre",
                "Mean over the last epoch, beside the optimum 1 / (1 + alpha K) for the K positives "
                "that were met (remark 2): the rarer a class, the more it learns from its centre.",
                "probability", measured=centre, optimum=optimum,
            ),
            curve(
                "Positives in the contrast set",
                "Mean over the last epoch, beside the queue's size times the class prior plus the own "
                "key.",
                "positives", measured=found, expected=expected,
            ),
            curve(
                "Gradient of the classifier by class",
                "L2 norm of the gradient of each row, mean over the steps of the last epoch (figure 2).",
                "norm", gradient=gradient / steps,
            ),
        )  # fmt: skip


def _unit(features: Tensor) -> Tensor:
    """Return unit rows in float32, also under autocast."""
    return F.normalize(features.float() if features.dtype != torch.float64 else features, dim=1)


def _values(values: Tensor) -> list[float | None]:
    return [None if bool(value.isnan()) else float(value) for value in values]
