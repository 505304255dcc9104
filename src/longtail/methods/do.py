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
    E_w      importance, (w dL/dw)^2               running mean over batches of Y_t
    f_t      answer of sub-model t                 [B, C]
    lambda   weights of the mixture                [T] on the simplex

Stages (T = 3):
    t   trains                sampler                     loss               epochs      gamma
    1   everything            as the data are             CE                 given       50 %
    2   what stage 1 left     class weight rho : 1 - rho  CE(z - log a_2)    second      80 %
    3   what is left          class weight 1 / n          CE(z - log R(pi))  second      -
(gamma_2 is 60 % on CIFAR-100-LT at ratio 50 and on iNaturalist.)
Between them, gradual pruning (eq. 4): every step releases a little more along a cubic from one tenth to the
next, ten steps a tenth, then retrains what is left once.

There is no published code. Where the text is ambiguous, an option names the readings. What each of them
does on CIFAR-100-LT is in `docs/notes-on-results.md`; the short of it:
- Sampling: p_t is a ratio of classes, not of pictures; literally, stage 1 would see 96 % many-shot pictures.
- Loss: `compensation`; the literal, scalar reading is void. See `longtail.losses.compensation`.
- Importance: from batches of the stage's preferred classes, in eval mode, averaged over the last steps.
- Normalisation, biases and the classifier are stored per stage; sharing them ruins earlier sub-models.
- gamma: the reported ones, or `release=search` on the val split (on train without one, and said so).
- Mixture: `average` of the probabilities; `instance` is the paper's (lambda per picture from it and its
  mirror image); `without-margins` is ours: the margin of a stage is known, so it is taken off its logits
  before averaging. Group-level weights need all test pictures: `longtail mix`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from longtail.adjust import instance_weights, mix, unbiased
from longtail.core import distributed
from longtail.core.batch import Batch, Position, StepOutput
from longtail.core.groups import GROUP_NAMES, ShotGroups
from longtail.core.panel import Panel, class_accuracy, measured_mean
from longtail.core.stage import Sampling, Stage, epochs_of
from longtail.data.options import Options
from longtail.data.samplers import Preference, group_preferred
from longtail.losses import (
    Reading,
    compensated_cross_entropy,
    cross_entropy,
    preference,
    reversed_prior,
)
from longtail.methods.do_figures import (
    ImportanceMeter,
    densities,
    importance_panel,
    release_curves,
    sub_models_and_weights,
)
from longtail.methods.method import Facts, FitBatches, Method, Setting
from longtail.models.allotment import NORMALISATION, Allotment, SeparateNetworks
from longtail.models.heads import LinearHead
from longtail.models.importance import Criterion, Gradients, importance

SEARCHED = 0.9  # the search releases 0, 10, ..., 90 %
TOLERANCE = 0.015  # accuracy that the rule `tolerance` of the search may give away
MEMORY = 0.9  # of the running mean of the importance
TOP_MEDIUM_ABOVE = 50  # pictures; where four stages divide the medium group


class DOOptions(Options):
    """What can be chosen: each is a place where the paper is silent or ambiguous."""

    name: Literal["do"] = "do"
    sequence: Literal["many-medium-few", "many-few-medium", "many-few", "four"] = Field(
        "many-medium-few", description="groups of the stages; `four` halves medium at 50 pictures"
    )
    second: float = Field(
        0.5, gt=0, description="epochs of later stages; below 1 a share of the first stage's"
    )
    second_rate: float = Field(0.1, gt=0, description="their learning rate, a share of the first")
    second_schedule: Literal["constant", "cosine"] = "constant"
    rho: float = Field(
        0.7, gt=0, lt=1, description="preference of medium stages: .7 on CIFAR, .8 elsewhere"
    )
    sampling: Preference | Literal["uniform", "natural"] = Field(
        "class-ratio",
        description="of medium stages: what rho is a share of; or classes alike; or as is",
    )
    rare_sampling: Literal["reversed", "class-balanced", "instance"] = Field(
        "reversed", description="of the stage of the rare classes: 1 / n per class, or per picture"
    )
    compensation: Reading = Field("vector", description="how log a_t enters the loss")
    reverse: Literal["rank", "index"] = Field(
        "rank", description="R of stage 3: by rank of the count, or by class number"
    )
    release: tuple[float, ...] | Literal["search"] = Field(
        (0.5, 0.8, 0.6),
        description="gamma after each stage but the last: .5, .8; .5, .6 on CIFAR-100-LT at ratio 50 and "
        "iNaturalist; the third, of four stages, is ours",
    )
    release_of: Literal["free", "total"] = Field(
        "free", description="gamma is a share of the stage's weights, or leaves 1 - gamma of all"
    )
    steps_per_tenth: int = Field(
        10, ge=1, description="Delta t of eq. 4; the paper tried 10 to 100"
    )
    search_rule: Literal["tolerance", "at-drop", "before-drop"] = Field(
        "tolerance",
        description="largest gamma that costs at most 1.5 points; or at the largest drop",
    )
    search_metric: Literal["all", "group"] = Field(
        "all", description="accuracy of all classes or of the stage's"
    )
    importance: Criterion = Field("taylor", description="by which weights are kept")
    gradients: Gradients = Field("batch", description="whose gradient the importance is made of")
    importance_classes: Literal["group", "all"] = Field(
        "group", description="whose pictures measure it"
    )
    importance_loss: Literal["cross-entropy", "stage", "probability"] = Field(
        "cross-entropy",
        description="of the importance; or the stage's own, or the label's probability",
    )
    scope: Literal["global", "layer"] = Field("global", description="rank all weights together")
    restart: Literal["fresh", "zero", "rewind", "keep"] = Field(
        "fresh",
        description="values of released weights: drawn anew (pretrained ones as they came), 0, the first "
        "ones, as they are",
    )
    norm: Literal["per-stage", "frozen", "shared"] = Field(
        "per-stage",
        description="normalisation: a copy per stage, stage 1's, the last one's (ruinous)",
    )
    classifier: Literal["per-stage", "allotted", "frozen"] = Field(
        "per-stage", description="its weights: a copy per stage, part of the groups, stage 1's"
    )
    reuse: bool = Field(True, description="sub-model t holds groups 1..t, or t alone (a control)")
    networks: Literal["allotted", "separate"] = Field(
        "allotted", description="one network, or a whole one per stage (a control)"
    )
    mixture: Literal["average", "average-logits", "without-margins", "instance"] = Field(
        "average",
        description="of the sub-models; without-margins takes log a_t off their logits first",
    )
    objective: Literal["cosine", "dot"] = Field("cosine", description="of the instance mixture")

    @model_validator(mode="after")
    def _releases_fit_the_stages(self) -> DOOptions:
        if self.release == "search":
            return self
        needed = {"many-few": 1, "four": 3}.get(self.sequence, 2)
        if len(self.release) < needed or not all(0 < share < 1 for share in self.release):
            raise ValueError(f"release needs {needed} shares between 0 and 1, or `search`")
        return self


@dataclass(frozen=True)
class _Group:
    """What a stage prefers.

    Attributes:
        classes: Y_t, bool [C].
        kind: `first` is trained as the data are, `rare` by the reversed frequencies.
    """

    classes: Tensor
    kind: Literal["first", "middle", "rare"]


class DO(Method):
    """See the head of this file."""

    Config = DOOptions
    summary = "weights allotted to many, medium and few shot classes stage by stage, then mixed"
    advice = "research on weights for groups of classes; prediction takes several passes"
    citation = "DO: Decoupled Optimisation for Long-Tailed Visual Recognition, AAAI 2024"

    preferred: Tensor
    log_alpha: Tensor

    def __init__(self, config: DOOptions, setting: Setting) -> None:
        super().__init__()
        self.config, self.setting = config, setting
        self._groups, self._remarks = _sequence(setting, config.sequence)
        self.count = len(self._groups)  # T
        self.register_buffer("preferred", torch.stack([g.classes for g in self._groups]))
        log_alpha = torch.stack([self._compensation(g) for g in self._groups]).log()
        self.register_buffer("log_alpha", log_alpha.float())  # [T, C]
        self.allotment: Allotment | SeparateNetworks
        if config.networks == "separate":
            self.allotment = SeparateNetworks([self._network() for _ in self._groups])
        else:
            whole = () if config.classifier == "allotted" else ("1",)
            self.allotment = Allotment(self._network(), self.count, whole, reuse=config.reuse)
        self.measured = nn.Module()  # what releases go by; all allotted weights in order
        if isinstance(self.allotment, Allotment):
            live = self._flat(self._allotted())
            self.measured.register_buffer("importance", torch.zeros_like(live))
            if config.restart == "rewind":
                self.measured.register_buffer("first", live)
            if self._searches:
                snapshots = torch.zeros(round(SEARCHED * 10) + 1, *self._snapshot().shape)
                self.measured.register_buffer("snapshots", snapshots)

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
        if self.config.networks == "separate":
            return [
                Stage(
                    name=f"network {t + 1}", epochs=self.setting.epochs, schedule="cosine",
                    samplings=(self._sampling(t),), trainable=(f"allotment.networks.{t}",),
                )
                for t in range(self.count)
            ]  # fmt: skip
        stages: list[Stage] = []
        for t in range(self.count):
            first, last = t == 0, t == self.count - 1
            sampling, name = self._sampling(t), f"group {t + 1}"
            epochs = self.setting.epochs
            if not first:
                epochs = max(1, epochs_of(self.config.second, self.setting.epochs))
            stages.append(
                Stage(
                    name=name, epochs=epochs, samplings=(sampling,), trainable=self._trainable(t),
                    learning_rate=None if first else self._second_rate(),
                    schedule="cosine" if first else self.config.second_schedule,
                    warmup=None if first else 0,
                )
            )  # fmt: skip
            if not last:
                everyone = torch.ones_like(self.preferred[t])
                group = self.config.importance_classes == "group"
                measured = tuple((self.preferred[t] if group else everyone).float().tolist())
                stages.append(
                    Stage(
                        name=f"{name}, release", epochs=self._release_epochs(t),
                        samplings=(sampling, Sampling(name="weights", weights=measured)),
                        trainable=self._trainable(t),
                        learning_rate=self._second_rate(), schedule="constant", warmup=0,
                        update_norm=("allotment.group", "measured"),  # these follow the batches
                    )
                )  # fmt: skip
            searches = self._searches and not last
            stages.append(
                Stage(name=f"{name}, settle", epochs=0, kind="select" if searches else "fit")
            )
        return stages

    def _place(self, stage: int) -> tuple[int, bool]:
        """Return the group 0..T-1 of an engine stage, and whether it releases weights."""
        if self.config.networks == "separate":
            return stage, False
        return stage // 3, stage % 3 == 1 and stage // 3 < self.count - 1

    def _sampling(self, t: int) -> Sampling:
        """Return p_t."""
        group, reading = self._groups[t], self.config.sampling
        if group.kind == "first" or (group.kind == "middle" and reading == "natural"):
            return Sampling()
        if group.kind == "rare":
            return Sampling(name=self.config.rare_sampling)
        if reading == "uniform" or reading == "natural":
            return Sampling(name="weights", weights=(1.0,) * len(group.classes))
        counts = self.setting.class_counts
        weights = group_preferred(group.classes.cpu().numpy(), self.config.rho, counts, reading)
        return Sampling(name="weights", weights=tuple(weights.tolist()))

    def _compensation(self, group: _Group) -> Tensor:
        """Return a_t, float64 [C]."""
        counts = self.setting.class_counts
        if group.kind == "first":
            return torch.ones(len(counts), dtype=torch.float64)
        if group.kind == "rare":
            by_number = counts.prior(torch.float64).flip(0)
            return reversed_prior(counts) if self.config.reverse == "rank" else by_number
        others = 1.0 if self.config.compensation == "vector-one" else None
        return preference(group.classes, self.config.rho, others=others)

    def _second_rate(self) -> float:
        return self.config.second_rate * self.setting.learning_rate

    def _trainable(self, t: int) -> tuple[str, ...]:
        """Name what stage t trains of the live network."""
        network = "allotment.network"
        if t == 0 or (self.config.norm != "frozen" and self.config.classifier != "frozen"):
            return (network,)
        frozen = [
            f"{place}." for place, module in self._one.network.named_modules()
            if (self.config.norm == "frozen" and isinstance(module, NORMALISATION))
            or (self.config.classifier == "frozen" and place == "1")
        ]  # fmt: skip
        return tuple(
            f"{network}.{name}"
            for name, _ in self._one.network.named_parameters()
            if not name.startswith(tuple(frozen))
        )

    def _release_epochs(self, t: int) -> int:
        """Return epochs that hold at least ten steps for every tenth."""
        tenths = round((SEARCHED if self._searches else self._share(t)) * 10)
        return max(1, -(-tenths * self.config.steps_per_tenth // self._steps_per_epoch()))

    def _steps_per_epoch(self) -> int:
        return max(1, self.setting.class_counts.total // self.setting.batch_size)

    @property
    def _searches(self) -> bool:
        return self.config.release == "search" and self.config.networks == "allotted"

    # --- steps --------------------------------------------------------------------------------

    def training_step(self, batches: Sequence[Batch], at: Position) -> StepOutput:
        """Return CE(z - log a_t, y); while weights are released, measure and release first."""
        t, releasing = self._place(at.stage)
        if isinstance(self.allotment, SeparateNetworks):
            self.allotment.done = t + 1
        if releasing:
            self._release(batches[1], t, at)
        logits = self.allotment(batches[0].images, t + 1)
        return StepOutput(self._loss(logits, batches[0].labels, t).mean())

    def _loss(self, logits: Tensor, labels: Tensor, t: int) -> Tensor:
        """Return the loss of stage t for each picture, [B]."""
        if t == 0:
            return cross_entropy(logits, labels, reduction="none")
        reading = self.config.compensation
        return compensated_cross_entropy(logits, labels, self.log_alpha[t], reading)

    def _release(self, batch: Batch, t: int, at: Position) -> None:
        """Release weights along eq. 4, by the importance for the preferred classes so far."""
        step, steps = self._step(at), self._steps_per_epoch() * at.epochs
        if step == 0 and self._searches:
            self.measured.get_buffer("snapshots")[0].copy_(self._snapshot())
        self._measure(batch, t, fresh=step == 0)
        final = SEARCHED if self._searches else self._share(t)
        reached = release_schedule(step, steps, final, self.config.steps_per_tenth)
        by_name = self._cut(self.measured.get_buffer("importance"), self._allotted())
        self._one.prune(t + 1, by_name, reached, self.config.scope)

    def _measure(self, batch: Batch, t: int, *, fresh: bool) -> None:
        """Let the importance follow the batch."""
        options = self.config
        if options.importance == "random" and not fresh:
            return
        modes = [(module, module.training) for module in self._one.network.modules()]
        self._one.network.eval()  # batches of one group have other statistics

        def loss(logits: Tensor, labels: Tensor) -> Tensor:
            if options.importance_loss == "stage":
                return self._loss(logits, labels, t)
            if options.importance_loss == "probability":
                return -logits.softmax(dim=1).gather(1, labels[:, None])[:, 0]
            return cross_entropy(logits, labels, reduction="none")

        found = importance(
            self._one.live_weights(t + 1), self._one.answer, loss, batch.images, batch.labels,
            criterion=options.importance, gradients=options.gradients,
        )  # fmt: skip
        for module, mode in modes:
            module.training = mode
        flat = distributed.mean(self._flat(found))
        remembers = options.importance not in ("magnitude", "random") and not fresh
        self.measured.get_buffer("importance").lerp_(flat, 1 - MEMORY if remembers else 1.0)

    def _step(self, at: Position) -> int:
        return at.epoch * self._steps_per_epoch() + at.step

    def _share(self, t: int) -> float:
        """Return the share of the weights of stage t that is released after it."""
        gamma = self.config.release[t]
        assert isinstance(gamma, float)
        if self.config.release_of == "free":
            return gamma
        free = 1.0
        for earlier in range(t):
            free *= self._share(earlier)
        return max(0.0, 1 - (1 - gamma) / free)

    def after_step(self, out: StepOutput, at: Position) -> None:
        """While the search for gamma is on, keep what each tenth ends with."""
        _, releasing = self._place(at.stage)
        if not (releasing and self._searches):
            return
        steps = self._steps_per_epoch() * at.epochs
        reached = release_schedule(self._step(at), steps, SEARCHED, self.config.steps_per_tenth)
        level = round(reached * 10)
        if abs(reached * 10 - level) < 1e-9:
            self.measured.get_buffer("snapshots")[level].copy_(self._snapshot())

    @torch.no_grad()
    def fit(self, stage: Stage, batches: FitBatches, split: str) -> Facts:
        """Settle the weights of a group, and give what was released to the next one."""
        t = int(stage.name.split(",")[0].removeprefix("group ")) - 1
        facts: dict[str, Any] = {}
        if stage.kind == "select":
            facts = self._choose_release(batches, t, split)
        self._one.settle(t + 1, share_norm=self.config.norm == "shared")
        if t < self.count - 1:
            self._one.begin(t + 2, self._restarted())
        else:
            meter = ImportanceMeter(self._one, self.preferred)
            for images, labels in batches:
                meter.add(images, labels)
            facts["importance"] = meter.result()
        return facts | {"weights_by_group": self._one.sizes()}

    def _restarted(self) -> Mapping[str, Tensor] | None:
        """Return the values that released weights begin the next stage with."""
        live = self._allotted()
        if self.config.restart == "keep":
            return None
        if self.config.restart == "zero":
            return {name: torch.zeros_like(value) for name, value in live.items()}
        if self.config.restart == "rewind":
            return self._cut(self.measured.get_buffer("first"), live)
        drawn = dict(
            self._network().to(self.measured.get_buffer("importance").device).named_parameters()
        )
        return {name: drawn[name].detach() for name in live}

    def _choose_release(self, batches: FitBatches, t: int, split: str) -> dict[str, Any]:
        """Score the network at 0, 10, ..., 90 %, and go back to the best share by the rule."""
        metric = self.preferred[t].cpu() if self.config.search_metric == "group" else slice(None)
        snapshots = self.measured.get_buffer("snapshots")

        def answered(images: Tensor) -> Tensor:
            found = []
            for snapshot in snapshots:
                self._restore(snapshot)
                found.append(self.allotment(images, t + 1).argmax(dim=1))
            return torch.stack(found)

        accuracy = class_accuracy(((answered(x), y) for x, y in batches), self.preferred.shape[1])
        curve = [measured_mean(each[metric]) or 0.0 for each in accuracy]
        level = choose_level(curve, self.config.search_rule)
        self._restore(snapshots[level])
        if split == "train":
            self._remarks += (
                "DO: gamma was searched on training pictures: there is no val split.",
            )
        return {"release_split": split, "release_curve": curve, "release": level / 10}

    def _snapshot(self) -> Tensor:
        """Return everything live and its groups as one vector."""
        live = self._one.network.state_dict()
        groups = [self._one.groups_of(name) for name in self._one.names]
        return torch.cat([value.detach().flatten().float() for value in [*live.values(), *groups]])

    def _restore(self, snapshot: Tensor) -> None:
        live = self._one.network.state_dict()
        groups = {name: self._one.groups_of(name) for name in self._one.names}
        own = {f"live.{n}": v for n, v in live.items()} | {
            f"group.{n}": v for n, v in groups.items()
        }
        for name, value in self._cut(snapshot, own).items():
            own[name].copy_(value)

    # --- prediction ---------------------------------------------------------------------------

    def answers(self, images: Tensor) -> Tensor:
        """Return the logits of the sub-models, [B, T, C]; in training, of those that exist so far."""
        done = self.allotment.done
        found = [self.allotment.sub_model(images, t + 1) for t in range(done)]
        if done < self.count:  # the one that is being trained
            found.append(self.allotment(images, done + 1))
        return torch.stack(found, dim=1)

    def known_bias(self) -> Tensor:
        """Return what the margins put into the logits, log a_t where they are vectors, [T, C]."""
        vector = self.config.compensation in ("vector", "vector-one")
        return self.log_alpha if vector else torch.zeros_like(self.log_alpha)

    def predict(self, images: Tensor) -> Tensor:
        """Return the logarithm of the mixed probabilities, or the mean of the logits."""
        answers = self.answers(images).float()
        if self.config.mixture == "average-logits":
            return answers.mean(dim=1)
        if self.config.mixture == "without-margins":
            probabilities = unbiased(answers, self.known_bias()[: answers.shape[1]])
        else:
            probabilities = answers.softmax(dim=2)
        if self.config.mixture in ("average", "without-margins"):
            return probabilities.mean(dim=1).clamp_min(1e-30).log()
        mirrored = self.answers(images.flip(3)).float().softmax(dim=2)
        weights = instance_weights(probabilities, mirrored, objective=self.config.objective)
        return mix(probabilities, weights).clamp_min(1e-30).log()

    def panels(self, batches: FitBatches, lines: Sequence[Facts]) -> Sequence[Panel]:
        """Show sub-models, weights, densities and importance, see `longtail.methods.do_figures`."""
        if isinstance(self.allotment, SeparateNetworks):
            return self._mixture_panels(batches)
        meter = ImportanceMeter(self.allotment, self.preferred)

        def measured() -> Iterator[tuple[Tensor, Tensor]]:
            for images, labels in batches:
                meter.add(images, labels)
                yield images, labels

        shown = [*self._mixture_panels(measured()), densities(self.allotment)]
        rows = {"shown split": meter.result()}
        for line in lines:
            if "importance" in line:
                rows["train"] = line["importance"]
        return [*shown, *release_curves(lines), importance_panel(rows)]

    def _mixture_panels(self, batches: FitBatches) -> list[Panel]:
        mixture = self.config.mixture
        found = sub_models_and_weights(self.answers, self.predict, batches, self.preferred, mixture)
        return list(found)

    def corrections(self) -> tuple[str, ...]:
        """Name the stages."""
        return ("stages that prefer rare classes",)

    # --- state --------------------------------------------------------------------------------

    def omitted(self) -> set[str]:
        """Name what is written only while groups are being trained."""
        own = {f"measured.{name}" for name, _ in self.measured.named_buffers()}
        if isinstance(self.allotment, SeparateNetworks):
            return own
        return own | {f"allotment.{name}" for name in self._one.omitted()}

    def state_dict(  # type: ignore[override]
        self,
        *,
        destination: Any = None,  # noqa: ANN401
        prefix: str = "",
        keep_vars: bool = False,
    ) -> dict[str, Any]:
        """Return the weights; without what only training needs once it has ended."""
        found: dict[str, Any] = super().state_dict(
            destination=destination, prefix=prefix, keep_vars=keep_vars
        )
        if self.allotment.done == self.count:
            for name, _ in self.measured.named_buffers():
                del found[f"{prefix}measured.{name}"]
        return found

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *rest: object
    ) -> None:
        for name, value in self.measured.named_buffers():
            state_dict.setdefault(f"{prefix}measured.{name}", torch.zeros_like(value))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    @property
    def _one(self) -> Allotment:
        """The allotment, where stages share a network."""
        assert isinstance(self.allotment, Allotment)
        return self.allotment

    def _network(self) -> nn.Module:
        backbone = self.setting.build_backbone()
        head = LinearHead(backbone.num_features, len(self.setting.class_counts))
        return nn.Sequential(backbone, head)

    def _allotted(self) -> dict[str, Tensor]:
        """Return the live values of the allotted weights, by name."""
        live = dict(self._one.network.named_parameters())
        return {name: live[name].detach() for name in self._one.names}

    @staticmethod
    def _flat(tensors: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([value.flatten().float() for value in tensors.values()])

    @staticmethod
    def _cut(flat: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Undo `_flat`."""
        parts = torch.split(flat, [value.numel() for value in like.values()])
        return {
            name: part.view_as(value)
            for part, (name, value) in zip(parts, like.items(), strict=True)
        }


def release_schedule(step: int, steps: int, final: float, per_tenth: int = 10) -> float:
    """Return the share of a stage's weights that is released after `step` (from 0) of `steps`.

    Eq. 4, tenth by tenth: gamma_j + (gamma_i - gamma_j) (1 - k / D)^3, k = 1..D, D = `per_tenth`, from 0 to
    `final`. With other than D steps for every tenth, steps stand still or take several of its steps at once;
    the last reaches `final` exactly.
    """
    tenths = max(1, round(final / 0.1))
    taken = min(tenths * per_tenth, -(-(step + 1) * tenths * per_tenth // steps))
    whole, part = divmod(taken, per_tenth)
    reached = whole + (1 - (1 - part / per_tenth) ** 3)
    return final * reached / tenths


def choose_level(curve: Sequence[float], rule: str) -> int:
    """Return the place of the chosen share in a curve of accuracies at 0, 10, ... % released.

    "Highest variation" of the paper is `at-drop`: where the largest fall between neighbours ends, or
    `before-drop`, where it begins. `tolerance` is the largest share that costs at most 1.5 points.
    """
    if rule == "tolerance":
        return max(i for i, value in enumerate(curve) if value >= curve[0] - TOLERANCE)
    falls = [before - after for before, after in pairwise(curve)]
    steepest = falls.index(max(falls))
    return steepest if rule == "before-drop" else steepest + 1


def _sequence(setting: Setting, sequence: str) -> tuple[list[_Group], tuple[str, ...]]:
    """Return the groups of the stages that hold a class, and remarks."""
    groups, counts = setting.groups, setting.class_counts
    remarks: tuple[str, ...] = ()
    if empty := groups.empty_groups():
        groups = ShotGroups.from_counts(counts, "index")
        remarks = (
            f"DO: no class is {' or '.join(empty)} shot, so its stages go by rank of the training count.",
        )
    many, medium, few = (groups.mask(name) for name in GROUP_NAMES)
    upper = medium & (torch.tensor(counts.values) > TOP_MEDIUM_ABOVE)
    by_frequency = {
        "many-few": [many, few],
        "four": [many, upper, medium & ~upper, few],
    }.get(sequence, [many, medium, few])
    by_frequency = [mask for mask in by_frequency if bool(mask.any())]
    kinds: list[Literal["first", "middle", "rare"]] = ["middle"] * len(by_frequency)
    kinds[-1] = "rare"
    kinds[0] = "first"
    found = [_Group(mask, kind) for mask, kind in zip(by_frequency, kinds, strict=True)]
    if sequence == "many-few-medium":
        found[1:] = found[:0:-1]
    return found, remarks
