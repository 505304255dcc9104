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
- Schedule of stage 1: the paper's recipes have its cosine; steps, the default, served better here.
- Sampling: p_t is a ratio of classes, not of pictures; literally, stage 1 would see 96 % many-shot pictures.
- Loss: `compensation`; the literal, scalar reading is void. See `longtail.losses.compensation`.
- Importance: from batches of the stage's preferred classes, in eval mode; a running mean that every step
  of the release follows (`importance_refresh`).
- Normalisation, biases and the classifier are stored per stage; sharing them ruins earlier sub-models. Its
  statistics are those that a release leaves, or taken anew after it (`recalibrate`).
- Retraining while weights are released: as the stage trains; or without what it prefers (`retraining`).
- gamma: the reported ones, or `release=search` on the val split (on train without one, and said so).
- Mixture: `average` of the probabilities; `instance` is the paper's (lambda per picture from it and its
  mirror image); `without-margins` is ours: the margin of a stage is known, so it is taken off its logits
  before averaging; `stacking` (ours) fits a weight per sub-model and group of classes on the val split.
  Group-level weights need all test pictures: `longtail mix`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from longtail.adjust import Stacking, fit_stacking, instance_weights, mix, unbiased
from longtail.core import distributed
from longtail.core.batch import Batch, Position, StepOutput
from longtail.core.panel import Panel, class_accuracy, measured_mean
from longtail.core.stage import Sampling, Stage, epochs_of
from longtail.data.options import Options
from longtail.losses import compensated_cross_entropy, cross_entropy
from longtail.methods.do_figures import (
    ImportanceMeter,
    densities,
    importance_panel,
    release_curves,
    sub_models_and_weights,
)
from longtail.methods.do_importance import importance_of, mean_importance
from longtail.methods.do_options import DOOptions
from longtail.methods.do_stages import (
    SEARCHED,
    Part,
    begins_tenth,
    check_statistics,
    choose_level,
    compensation_of,
    parts_of,
    preferred_groups,
    release_schedule,
    retraining_of,
    sampling_of,
    share_to_release,
    trained_in,
)
from longtail.methods.method import Facts, FitBatches, Method, Setting
from longtail.models.allotment import Allotment, SeparateNetworks, cut, flatten
from longtail.models.heads import LinearHead

MEMORY = 0.9  # of the running mean of the importance
STACKING = "stacking"  # name of a stage


class DO(Method):
    """See the head of this file."""

    Config = DOOptions
    summary = "weights allotted to many, medium and few shot classes stage by stage, then mixed"
    advice = "research on weights for groups of classes; prediction takes several passes"
    citation = "DO: Decoupled Optimisation for Long-Tailed Visual Recognition, AAAI 2024"
    begins_with = ("allotment.network", "allotment.networks")  # nothing is allotted yet

    preferred: Tensor
    log_alpha: Tensor

    def __init__(self, config: DOOptions, setting: Setting) -> None:
        super().__init__()
        self.config, self.setting = config, setting
        self._searching = config.release == "search" and config.networks == "allotted"
        counts = setting.class_counts
        self._groups, self._remarks = preferred_groups(setting.groups, counts, config.sequence)
        self._samplings = [sampling_of(group, config, counts) for group in self._groups]
        self.count = len(self._groups)  # T
        self._parts = parts_of(self.count, config)
        self.register_buffer("preferred", torch.stack([g.classes for g in self._groups]))
        log_alpha = torch.stack([compensation_of(g, config, counts) for g in self._groups]).log()
        self.register_buffer("log_alpha", log_alpha.float())  # [T, C]
        if config.mixture == "stacking":
            average = Stacking.average(*log_alpha.shape)
            self.register_buffer("stacked_weights", average.weights)  # [T, C]
            self.register_buffer("stacked_offsets", average.offsets)  # [C]
        self.allotment: Allotment | SeparateNetworks
        if config.networks == "separate":
            self.allotment = SeparateNetworks([self._network() for _ in self._groups])
        else:
            whole = () if config.classifier == "allotted" else ("1",)
            self.allotment = Allotment(self._network(), self.count, whole, reuse=config.reuse)
        self.measured = nn.Module()  # what releases go by; all allotted weights in order
        if isinstance(self.allotment, Allotment):
            live = flatten(self._allotted())
            self.measured.register_buffer("importance", torch.zeros_like(live))
            if config.importance_refresh == "tenth":
                self.measured.register_buffer("ranking", torch.zeros_like(live))
            if config.restart == "rewind":
                self.measured.register_buffer("first", live)
            if config.recalibrate:
                check_statistics(self._one.network)
            if self._searching:
                self.register_buffer("searched_on_train", torch.zeros((), dtype=torch.bool))
                snapshots = torch.zeros(round(SEARCHED * 10) + 1, *self._one.snapshot().shape)
                self.measured.register_buffer("snapshots", snapshots)

    @property
    def remarks(self) -> tuple[str, ...]:
        """Say so if an empty shot group changed the stages, or test pictures decide their mixture."""
        found = self._remarks
        if self._searching and bool(self.get_buffer("searched_on_train")):
            found += ("DO: gamma was searched on training pictures: there is no val split.",)
        if self.config.mixture == "instance":
            found += ("Instance-wise: a picture's mixture is found from it and its mirror image.",)
        return found

    # --- stages -------------------------------------------------------------------------------

    def stages(self) -> Sequence[Stage]:
        """Train, release and settle, group by group."""
        found = [self._stage(t, part) for t, part in self._parts]
        if self.config.mixture == "stacking":
            found.append(Stage(name=STACKING, epochs=0, kind="held-out"))
        return found

    def _stage(self, t: int, part: Part) -> Stage:
        sampling = self._samplings[t]
        if self.config.networks == "separate":
            return Stage(
                name=f"network {t + 1}", epochs=self.setting.epochs, schedule="cosine",
                samplings=(sampling,), trainable=(f"allotment.networks.{t}",),
            )  # fmt: skip
        name = f"group {t + 1}" if part == "train" else f"group {t + 1}, {part}"
        if part in ("measure", "choose", "settle"):
            return Stage(name=name, epochs=0, kind="select" if part == "choose" else "fit")
        trainable = trained_in(t, self._one.network, self.config)
        second_rate = self.config.second_rate * self.setting.learning_rate
        if part == "release":
            measured = tuple(self._measured_classes(t).float().tolist())
            return Stage(
                name=name, epochs=self._release_epochs(t),
                samplings=(
                    retraining_of(sampling, self._groups[t], self.config),
                    Sampling(name="weights", weights=measured),
                ),
                trainable=trainable, learning_rate=second_rate, schedule="constant", warmup=0,
                update_norm=("allotment.group", "measured"),  # these follow the batches
                whole=True,
            )  # fmt: skip
        if part == "statistics":
            return Stage(
                name=name, epochs=1, samplings=(sampling,), whole=True,
                trainable=("allotment.network.1",), update_norm=("allotment.network",),
                learning_rate=0.0, schedule="constant", warmup=0,  # nothing is learnt
            )  # fmt: skip
        first, epochs = t == 0, self.setting.epochs
        return Stage(
            name=name, samplings=(sampling,), trainable=trainable,
            epochs=epochs if first else max(1, epochs_of(self.config.second, epochs)),
            learning_rate=None if first else second_rate,
            schedule=self.config.first_schedule if first else self.config.second_schedule,
            warmup=None if first else 0,
        )  # fmt: skip

    def _measured_classes(self, t: int) -> Tensor:
        """Return the classes whose pictures measure the importance after stage t, bool [C]."""
        return self.preferred[t] | (self.config.importance_classes == "all")

    def _release_epochs(self, t: int) -> int:
        """Return epochs that hold at least ten steps for every tenth."""
        tenths = round(share_to_release(t, self.config) * 10)
        return max(1, -(-tenths * self.config.steps_per_tenth // self._steps_per_epoch()))

    def _steps_per_epoch(self) -> int:
        return max(1, self.setting.class_counts.total // self.setting.batch_size)

    # --- steps --------------------------------------------------------------------------------

    def training_step(self, batches: Sequence[Batch], at: Position) -> StepOutput:
        """Return CE(z - log a_t, y); while weights are released, measure and release first."""
        t, part = self._parts[at.stage]
        if isinstance(self.allotment, SeparateNetworks):
            self.allotment.done = t + 1
        if part == "release":
            self._release(batches[1], t, at)
        logits = self.allotment(batches[0].images, t + 1)
        plain = part == "release" and self.config.retraining != "stage"
        return StepOutput(self._loss(logits, batches[0].labels, 0 if plain else t).mean())

    def _loss(self, logits: Tensor, labels: Tensor, t: int) -> Tensor:
        """Return the loss of stage t for each picture, [B]."""
        if t == 0:
            return cross_entropy(logits, labels, reduction="none")
        reading = self.config.compensation
        return compensated_cross_entropy(logits, labels, self.log_alpha[t], reading)

    def _release(self, batch: Batch, t: int, at: Position) -> None:
        """Release weights along eq. 4, by the importance for the preferred classes so far."""
        step, steps = self._step(at), self._steps_per_epoch() * at.epochs
        if step == 0 and self._searching:
            self.measured.get_buffer("snapshots")[0].copy_(self._one.snapshot())
        final, refresh = share_to_release(t, self.config), self.config.importance_refresh
        measured = ranking = self.measured.get_buffer("importance")
        if refresh == "tenth":
            ranking = self.measured.get_buffer("ranking")
            if begins_tenth(step, steps, final, self.config.steps_per_tenth):
                ranking.copy_(measured)
        if refresh != "once":
            self._follow(batch, t, fresh=step == 0 and refresh == "step")
        reached = release_schedule(step, steps, final, self.config.steps_per_tenth)
        self._one.prune(t + 1, cut(ranking, self._allotted()), reached, self.config.scope)

    def _follow(self, batch: Batch, t: int, *, fresh: bool) -> None:
        """Let the importance follow the batch."""
        if self.config.importance == "random" and not fresh:
            return
        found = distributed.mean(self._importance(batch.images, batch.labels, t))
        replaces = fresh or self.config.importance in ("magnitude", "random")
        self.measured.get_buffer("importance").lerp_(found, 1.0 if replaces else 1 - MEMORY)

    def _importance(self, images: Tensor, labels: Tensor, t: int) -> Tensor:
        """Return the importance of all weights on one batch, [P]."""
        loss = partial(self._loss, t=t)
        return importance_of(self._one, t + 1, images, labels, self.config, loss)

    def _step(self, at: Position) -> int:
        return at.epoch * self._steps_per_epoch() + at.step

    def after_step(self, out: StepOutput, at: Position) -> None:
        """While the search for gamma is on, keep what each tenth ends with."""
        if not (self._parts[at.stage][1] == "release" and self._searching):
            return
        steps = self._steps_per_epoch() * at.epochs
        reached = release_schedule(self._step(at), steps, SEARCHED, self.config.steps_per_tenth)
        level = round(reached * 10)
        if abs(reached * 10 - level) < 1e-9:
            self.measured.get_buffer("snapshots")[level].copy_(self._one.snapshot())

    @torch.no_grad()
    def fit(self, stage: Stage, batches: FitBatches, split: str) -> Facts:
        """Settle the weights of a group, and give what was released to the next one."""
        if stage.name == STACKING:
            return self._fit_stacking(batches)
        group, _, part = stage.name.partition(", ")
        t = int(group.removeprefix("group ")) - 1
        if part == "measure":
            measure = partial(self._importance, t=t)
            found = mean_importance(measure, batches, self._measured_classes(t))
            self.measured.get_buffer("importance").copy_(distributed.mean(found))
            return {}
        if part == "choose":
            return self._choose_release(batches, t, split)
        facts: dict[str, Any] = {}
        self._one.settle(t + 1, share_norm=self.config.norm == "shared")
        if t < self.count - 1:
            self._one.begin(t + 2, self._restarted())
        else:
            meter = ImportanceMeter(self._one, self.preferred)
            for images, labels in batches:
                meter.add(images, labels)
            facts["importance"] = meter.result()
        return facts | {"weights_by_group": self._one.sizes()}

    def _fit_stacking(self, batches: FitBatches) -> Facts:
        answered = [(self.answers(x).float(), y) for x, y in batches]
        logits, labels = (torch.cat(parts) for parts in zip(*answered, strict=True))
        found = fit_stacking(logits, labels, self.setting.groups)
        self.get_buffer("stacked_weights").copy_(found.weights)
        self.get_buffer("stacked_offsets").copy_(found.offsets)
        return {"stacking": found.by_group(self.setting.groups)}

    def _restarted(self) -> Mapping[str, Tensor] | None:
        """Return the values that released weights begin the next stage with."""
        live = self._allotted()
        if self.config.restart == "keep":
            return None
        if self.config.restart == "zero":
            return {name: torch.zeros_like(value) for name, value in live.items()}
        if self.config.restart == "rewind":
            return cut(self.measured.get_buffer("first"), live)
        drawn = dict(self._network().to(self.preferred.device).named_parameters())
        return {name: drawn[name].detach() for name in live}

    def _choose_release(self, batches: FitBatches, t: int, split: str) -> dict[str, Any]:
        """Score the network at 0, 10, ..., 90 %, and go back to the best share by the rule."""
        metric = self.preferred[t].cpu() if self.config.search_metric == "group" else slice(None)
        snapshots = self.measured.get_buffer("snapshots")

        def answered(images: Tensor) -> Tensor:
            found = []
            for snapshot in snapshots:
                self._one.restore(snapshot)
                found.append(self.allotment(images, t + 1).argmax(dim=1))
            return torch.stack(found)

        accuracy = class_accuracy(((answered(x), y) for x, y in batches), self.preferred.shape[1])
        curve = [measured_mean(each[metric]) or 0.0 for each in accuracy]
        level = choose_level(curve, self.config.search_rule)
        self._one.restore(snapshots[level])
        self.get_buffer("searched_on_train").fill_(split == "train")
        return {"release_split": split, "release_curve": curve, "release": level / 10}

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
        """Return the logarithm of the mixed probabilities, the mean of the logits or stacked scores."""
        answers = self.answers(images).float()
        if self.config.mixture == "average-logits":
            return answers.mean(dim=1)
        if self.config.mixture == "stacking":
            weights = self.get_buffer("stacked_weights")[: answers.shape[1]]
            return Stacking(weights, self.get_buffer("stacked_offsets"))(answers)
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
        mixed = partial(
            sub_models_and_weights, self.answers, self.predict, preferred=self.preferred,
            mixture=self.config.mixture,
        )  # fmt: skip
        if isinstance(self.allotment, SeparateNetworks):
            return list(mixed(batches))
        meter = ImportanceMeter(self.allotment, self.preferred)

        def measured() -> Iterator[tuple[Tensor, Tensor]]:
            for images, labels in batches:
                meter.add(images, labels)
                yield images, labels

        shown = [*mixed(measured()), densities(self.allotment)]
        trained = [line["importance"] for line in lines if "importance" in line]
        rows = {"shown split": meter.result()} | ({"train": trained[-1]} if trained else {})
        return [*shown, *release_curves(lines), importance_panel(rows)]

    @classmethod
    def shares_first_stage(cls, own: Options, other: Options) -> bool:
        """Say whether both have the same stage 1: only its schedule is an option."""
        if not (isinstance(own, DOOptions) and isinstance(other, DOOptions)):
            return False
        networks = {own.networks, other.networks}
        return networks == {"allotted"} and own.first_schedule == other.first_schedule

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
