"""DO: decoupled optimisation for long-tailed visual recognition (AAAI 2024).

Idea: Let many-, medium- and few-shot classes have weights of their own inside one network. Each stage trains
what is free with a sampler and a loss that prefer its group of classes, keeps the weights that matter most to
the group (Taylor importance), freezes them for ever, and gives the rest to the next stage. Sub-model t is the
weights of groups 1..t; at test time the sub-models are mixed, evenly or picture by picture.

Symbols:
    Y_t      classes that stage t prefers          many, medium, few
    g        group of each weight                  1..T, 0 while it is free
    a_t      compensation of stage t               [C]
    gamma_t  share of stage t's weights that is released after it
    E_w      importance, (w dL/dw)^2               mean over batches of Y_t
    f_t      answer of sub-model t                 [B, C]
    lambda   weights of the mixture                [T] on the simplex

Stages (T = 3):
    t   trains                sampler                     loss               epochs      gamma
    1   everything            as the data are             CE                 given       50 %
    2   what stage 1 left     class weight rho : 1 - rho  CE(z - log a_2)    second      80 %
    3   what is left          class weight 1 / n          CE(z - log R(pi))  second      -
(gamma_2 is 60 % on CIFAR-100-LT at ratio 50 and on iNaturalist.)
Between them, one epoch of gradual pruning (eq. 4): every step releases a little more along a cubic from one
tenth to the next, then retrains what is left once.

There is no published code. Where the text is ambiguous, an option names the readings; defaults follow what a
trial on CIFAR-100-LT found (one seed):
- Sampling: p_t is a ratio of classes, not of pictures; literally, stage 1 would see 96 % many-shot pictures.
- Loss: `compensation`; the literal, scalar reading is void. See `longtail.losses.compensation`.
- Importance: from batches of the stage's preferred classes, in eval mode, averaged over the last steps;
  `importance=magnitude` is |w|, `random` a control.
- Normalisation and biases are stored per stage; sharing them ruins earlier sub-models. The classifier is per
  stage as well (`classifier=allotted` makes its weights part of the groups; the trial saw no difference).
- Released weights are drawn anew (`restart=fresh`) or start from zero.
- Mixture: `average` of the probabilities is the default, because the trial found no gain of the paper's
  instance-level weights over averaging at equal cost; `instance` is the paper's.
Not here yet: the search for gamma, stage sequences of two or four, per-sample importance, Fisher.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from longtail.adjust import instance_weights, mix
from longtail.core import distributed
from longtail.core.batch import Batch, Position, StepOutput
from longtail.core.groups import GROUP_NAMES, ShotGroups
from longtail.core.panel import Panel, class_accuracy, measured_mean
from longtail.core.stage import Sampling, Stage, epochs_of
from longtail.data.options import Options
from longtail.data.samplers import group_preferred
from longtail.losses import (
    Reading,
    compensated_cross_entropy,
    cross_entropy,
    preference,
    reversed_prior,
)
from longtail.methods.method import Facts, FitBatches, Method, Setting
from longtail.models.allotment import Allotment
from longtail.models.heads import LinearHead

STEPS_PER_TENTH = 10  # Delta t of eq. 4
MEMORY = 0.9  # of the running mean of the importance


class DOOptions(Options):
    """What can be chosen."""

    name: Literal["do"] = "do"
    second: float = Field(
        0.5, gt=0, description="epochs of stages 2 and 3; below 1 a share of the first stage's"
    )
    second_rate: float = Field(0.1, gt=0, description="their learning rate, a share of the first")
    rho: float = Field(
        0.7, gt=0, lt=1, description="preference of stage 2: .7 on CIFAR, .8 elsewhere"
    )
    release: tuple[float, float] = Field(
        (0.5, 0.8),
        description="gamma: (.5, .8); (.5, .6) on CIFAR-100-LT at ratio 50 and iNaturalist",
    )
    compensation: Reading = "vector"
    sampling: Literal["enhanced", "uniform"] = Field(
        "enhanced", description="of stage 2: prefer its classes, or draw classes alike"
    )
    importance: Literal["taylor", "magnitude", "random"] = "taylor"
    restart: Literal["fresh", "zero"] = Field("fresh", description="values of released weights")
    classifier: Literal["per-stage", "allotted"] = "per-stage"
    mixture: Literal["average", "average-logits", "instance"] = "average"
    objective: Literal["cosine", "dot"] = Field("cosine", description="of the instance mixture")


class DO(Method):
    """See the head of this file."""

    Config = DOOptions
    summary = "weights allotted to many, medium and few shot classes stage by stage, then mixed"
    citation = "DO: Decoupled Optimisation for Long-Tailed Visual Recognition, AAAI 2024"

    preferred: Tensor
    log_alpha: Tensor

    def __init__(self, config: DOOptions, setting: Setting) -> None:
        super().__init__()
        self.config, self.setting = config, setting
        groups, self._remarks = _groups(setting)
        self.stages_of_classes = len(groups)  # T
        counts = setting.class_counts
        self.register_buffer("preferred", torch.stack(groups))  # bool [T, C]
        alphas = [torch.ones(len(counts), dtype=torch.float64)]
        others = 1.0 if config.compensation == "vector-one" else None
        alphas += [preference(group, config.rho, others=others) for group in groups[1:-1]]
        alphas += [reversed_prior(counts)] if len(groups) > 1 else []
        self.register_buffer("log_alpha", torch.stack(alphas).log().float())  # [T, C]
        backbone = setting.build_backbone()
        network = nn.Sequential(backbone, LinearHead(backbone.num_features, len(counts)))
        whole = ("1",) if config.classifier == "per-stage" else ()
        self.allotment = Allotment(network, len(groups), whole)
        size = sum(self._live()[name].numel() for name in self.allotment.names)
        self.measured = nn.Module()  # running mean over the stage, all weights in order
        self.measured.register_buffer("importance", torch.zeros(size))
        # sub-models that are settled, and the stage that is being trained; all after loading
        self._settled, self._training = self.stages_of_classes, 0

    @property
    def remarks(self) -> tuple[str, ...]:
        """Say so if an empty shot group changed the stages, or test pictures decide their mixture."""
        if self.config.mixture != "instance":
            return self._remarks
        instance = "Instance-wise: the mixture of a picture is found from it and its mirror image."
        return (*self._remarks, instance)

    # --- stages -------------------------------------------------------------------------------

    def stages(self) -> Sequence[Stage]:
        """Train, release and settle, group by group."""
        stages: list[Stage] = []
        for t in range(self.stages_of_classes):
            first, last = t == 0, t == self.stages_of_classes - 1
            sampling = self._sampling(t)
            epochs = self.setting.epochs
            if not first:
                epochs = max(1, epochs_of(self.config.second, self.setting.epochs))
            trainable = ("allotment.network",)
            name = f"group {t + 1}"
            stages.append(
                Stage(
                    name=name, epochs=epochs, samplings=(sampling,), trainable=trainable,
                    learning_rate=None if first else self._second_rate(),
                    schedule="cosine" if first else "constant",
                    warmup=None if first else 0,
                )
            )  # fmt: skip
            if not last:
                chosen = tuple(float(p) for p in self.preferred[t])
                stages.append(
                    Stage(
                        name=f"{name}, release", epochs=1, trainable=trainable,
                        samplings=(sampling, Sampling(name="weights", weights=chosen)),
                        learning_rate=self._second_rate(), schedule="constant", warmup=0,
                        update_norm=("allotment.group", "measured"),  # these follow the batches
                    )
                )  # fmt: skip
            stages.append(Stage(name=f"{name}, settle", epochs=0, kind="fit"))
        return stages

    def _sampling(self, t: int) -> Sampling:
        if t == 0:
            return Sampling()
        if t == self.stages_of_classes - 1:
            return Sampling(name="reversed")
        if self.config.sampling == "uniform":
            return Sampling(name="weights", weights=(1.0,) * self.preferred.shape[1])
        weights = group_preferred(self.preferred[t].cpu().numpy(), self.config.rho)
        return Sampling(name="weights", weights=tuple(weights.tolist()))

    def _second_rate(self) -> float:
        return self.config.second_rate * self.setting.learning_rate

    def _place(self, stage: int) -> tuple[int, bool]:
        """Return the group 0..T-1 of an engine stage, and whether it releases weights."""
        return stage // 3, stage % 3 == 1 and stage // 3 < self.stages_of_classes - 1

    # --- steps --------------------------------------------------------------------------------

    def training_step(self, batches: Sequence[Batch], at: Position) -> StepOutput:
        """Return CE(z - log a_t, y); while weights are released, measure and release first."""
        t, releasing = self._place(at.stage)
        self._settled, self._training = t, t + 1
        if releasing:
            self._release(batches[1], t, at)
        logits = self.allotment(batches[0].images, t + 1)
        labels = batches[0].labels
        if t == 0:
            return StepOutput(cross_entropy(logits, labels))
        reading = self.config.compensation
        return StepOutput(
            compensated_cross_entropy(logits, labels, self.log_alpha[t], reading).mean()
        )

    def _release(self, batch: Batch, t: int, at: Position) -> None:
        """Release weights along eq. 4, by the importance for the preferred classes so far."""
        self._measure(batch, t, at)
        share = release_schedule(at.step, self._steps_per_epoch(), self.config.release[min(t, 1)])
        self.allotment.prune(t + 1, self._by_name(self._importance), share)

    def _measure(self, batch: Batch, t: int, at: Position) -> None:
        kind = self.config.importance
        if kind == "random" and at.step > 0:
            return
        live = self._live()
        if kind == "magnitude":
            found = torch.cat(
                [live[name].detach().abs().flatten() for name in self.allotment.names]
            )
        elif kind == "random":
            found = torch.rand_like(self._importance)
        else:
            training = self.allotment.network.training
            self.allotment.network.eval()  # batches of one group have other statistics
            names = self.allotment.names
            with torch.enable_grad():
                loss = cross_entropy(self.allotment(batch.images, t + 1), batch.labels)
                gradients = torch.autograd.grad(loss, [live[name] for name in names])
            self.allotment.network.train(training)
            products = [
                (live[name].detach() * gradient).square().flatten()
                for name, gradient in zip(names, gradients, strict=True)
            ]
            found = torch.cat(products).float()
        found = distributed.mean(found)
        share = 1 - MEMORY if at.step > 0 and kind == "taylor" else 1.0
        self._importance.lerp_(found, share)

    @property
    def _importance(self) -> Tensor:
        found = self.measured.importance
        assert isinstance(found, Tensor)
        return found

    def _steps_per_epoch(self) -> int:
        return max(1, self.setting.class_counts.total // self.setting.batch_size)

    @torch.no_grad()
    def fit(self, stage: Stage, batches: FitBatches, split: str) -> Facts:
        """Settle the weights of a group, and give what was released to the next one."""
        t = int(stage.name.split(",")[0].removeprefix("group ")) - 1
        self.allotment.settle(t + 1)
        self._settled, self._training = t + 1, 0
        if t < self.stages_of_classes - 1:
            fresh = None
            if self.config.restart == "fresh":
                backbone = self.setting.build_backbone()
                classes = len(self.setting.class_counts)
                network = nn.Sequential(backbone, LinearHead(backbone.num_features, classes))
                device = self._importance.device
                drawn = dict(network.to(device).named_parameters())
                fresh = {name: drawn[name].detach() for name in self.allotment.names}
            self.allotment.begin(t + 2, fresh)
        return {"weights_by_group": self.allotment.sizes()}

    # --- prediction ---------------------------------------------------------------------------

    def answers(self, images: Tensor) -> Tensor:
        """Return the logits of the sub-models, [B, T, C]; in training, of those that exist."""
        found = [self.allotment.sub_model(images, t + 1) for t in range(self._settled)]
        if self._training:
            found.append(self.allotment(images, self._training))
        return torch.stack(found, dim=1)

    def predict(self, images: Tensor) -> Tensor:
        """Return the logarithm of the mixed probabilities, or the mean of the logits."""
        answers = self.answers(images).float()
        if self.config.mixture == "average-logits":
            return answers.mean(dim=1)
        probabilities = answers.softmax(dim=2)
        if self.config.mixture == "average":
            return probabilities.mean(dim=1).clamp_min(1e-30).log()
        mirrored = self.answers(images.flip(3)).float().softmax(dim=2)
        weights = instance_weights(probabilities, mirrored, objective=self.config.objective)
        return mix(probabilities, weights).clamp_min(1e-30).log()

    def panels(self, batches: FitBatches, lines: Sequence[Facts]) -> Sequence[Panel]:
        """Return the accuracy of every sub-model and of the mixture, by preferred group."""
        count, classes = self.preferred.shape

        def answers(images: Tensor) -> Tensor:
            mixed = self.predict(images).argmax(dim=1)
            return torch.cat([self.answers(images).argmax(dim=2).T, mixed[None]])

        accuracy = class_accuracy(((answers(x), y) for x, y in batches), classes)
        groups = self.preferred.cpu()
        names = [*(f"sub-model {t + 1}" for t in range(count)), self.config.mixture]
        panel = Panel(
            title="Sub-models alone and mixed",
            text="Class-averaged accuracy by the groups that the stages prefer (table 7 of the paper). "
            "Choosing for each group its best sub-model would need the labels.",
            x="classes", y="accuracy", kind="bars", percent=True,
            places=["all", *(f"group {t + 1}" for t in range(count))],
            series={
                name: [measured_mean(row), *(measured_mean(row[mask]) for mask in groups)]
                for name, row in zip(names, accuracy, strict=True)
            },
        )  # fmt: skip
        return (panel,)

    def corrections(self) -> tuple[str, ...]:
        """Name the stages."""
        return ("stages that prefer rare classes",)

    def _live(self) -> dict[str, nn.Parameter]:
        return dict(self.allotment.network.named_parameters())

    def _by_name(self, flat: Tensor) -> dict[str, Tensor]:
        """Cut a vector over all allotted weights into tensors by name."""
        cut, start = {}, 0
        for name in self.allotment.names:
            size = self.allotment.groups_of(name)
            cut[name] = flat[start : start + size.numel()].view_as(size)
            start += size.numel()
        return cut


def release_schedule(step: int, steps: int, final: float) -> float:
    """Return the share of a stage's weights that is released after `step` (from 0) of `steps`.

    Eq. 4, tenth by tenth: gamma_j + (gamma_i - gamma_j) (1 - k / 10)^3, k = 1..10, from 0 to `final`. With
    fewer steps than that, several of its steps are taken at once; the last reaches `final` exactly.
    """
    tenths = round(final / 0.1)
    taken = min(tenths * STEPS_PER_TENTH, -(-(step + 1) * tenths * STEPS_PER_TENTH // steps))
    whole, part = divmod(taken, STEPS_PER_TENTH)
    reached = whole + (1 - (1 - part / STEPS_PER_TENTH) ** 3)
    return final * reached / tenths


def _groups(setting: Setting) -> tuple[list[Tensor], tuple[str, ...]]:
    """Return bool [C] of each group that holds a class, most frequent first, and remarks."""
    groups = setting.groups
    remarks: tuple[str, ...] = ()
    if empty := groups.empty_groups():
        groups = ShotGroups.from_counts(setting.class_counts, "index")
        remarks = (
            f"DO: no class is {' or '.join(empty)} shot, so its stages go by rank of the training count.",
        )
    masks = [groups.mask(name) for name in GROUP_NAMES]
    return [mask for mask in masks if bool(mask.any())], remarks
