"""DO: decoupled optimisation for long-tailed visual recognition (AAAI 2024): the schedule.

Idea: Let many-, medium- and few-shot classes have weights of their own inside one network. Each stage trains
what is free with a sampler and a loss that prefer its group of classes (CPO), keeps the weights that matter
most to the group, freezes them for ever, and gives the rest to the next stage (TPD). Sub-model t is the
weights of stages 1..t; at test time the sub-models are mixed, image by image.

Symbols:
    Y_t      classes that stage t prefers          many, medium, few
    owner    stage that each weight belongs to     1..T, 0 while it is free
    p_t      probability of a class, eq. 1         [C]
    alpha_t  compensation, eq. 2 and 3             [C]
    E_w      importance of a weight, (w g)^2       mean over the classes of Y_t
    gamma_t  share of stage t's weights that is released after it
    f_t      output of sub-model t                 [B, C]
    lambda   weights of the mixture, eq. 5         [T] on the simplex

Schedule (T = 3, the paper's numbers on CIFAR-100-LT at ratio 100):
    t   CPO trains          p_t                          alpha_t    epochs, rate           TPD releases
    1   everything          as the data are              1          100, .05 by a cosine   50 %
    2   what stage 1 left   class weight rho : 1 - rho   as p_t     50, .005               80 %
    3   what is left        class weight 1 / n           R(pi)      50, .005               -
(gamma_2 is 60 % on CIFAR-100-LT at ratio 50 and on iNaturalist.)

There is no published code. `cpo`, `tpd` and `inference` state our reading of every ambiguous place in the
text. Where another reading is of interest, there is an option; `docs/results/do.md` shows their effect on
CIFAR-100-LT. In detail:
- theta: as in the text, `partition=everything` divides all parameters among the stages (including the
  classifier and the scales and shifts of normalisation). Running statistics are not parameters; each stage
  has its own. With `per-stage`, each stage trains its own copy of classifier and normalisation, which
  worked better.
- Released weights are re-initialised, scales to 1 and shifts to 0.
- The learning rate of stages 2..T is constant. Each stage has its own optimiser.
- If views cannot be sampled (`longtail predict`, exports), the image and its mirror image are the two views.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from longtail.config import Options
from longtail.core import distributed
from longtail.core.batch import Batch, Position, StepOutput
from longtail.core.figure import FigureData, class_accuracy, measured_mean
from longtail.core.stage import Stage, epochs_of
from longtail.losses import cross_entropy
from longtail.methods.do.cpo import alpha_of, class_groups, sampling_of, stage_loss
from longtail.methods.do.figures import (
    densities,
    release_curves,
    settled_network,
    sub_models_and_weights,
)
from longtail.methods.do.inference import average_mixture, instance_mixture
from longtail.methods.do.options import DOOptions
from longtail.methods.do.tpd import (
    choose_share,
    gamma_after,
    gamma_of,
    importance,
    retraining_of,
    tenths_of,
)
from longtail.methods.method import Facts, FitBatches, Method, Setting
from longtail.models.allotment import Allotment, cut, flatten, layer_weights
from longtail.models.heads import LinearHead
from longtail.models.importance import Network

LEVELS = 10  # of a search: 0, 10, ..., 90 % released


@dataclass(frozen=True)
class Part:
    """What one stage of the engine does for stage t of the paper."""

    t: int
    does: Literal["CPO", "TPD", "choose gamma", "freeze"]


class DO(Method):
    """See the head of this file."""

    Config = DOOptions
    summary = (
        "the weights of one network divided among many-, medium- and few-shot classes in stages; "
        "sub-models are mixed"
    )
    advice = "you do research on weights for groups of classes; prediction takes several passes"
    citation = "DO: Decoupled Optimisation for Long-Tailed Visual Recognition, AAAI 2024"
    begins_with = ("allotment.network",)  # nothing is allotted yet

    preferred: Tensor
    log_alpha: Tensor

    def __init__(self, config: DOOptions, setting: Setting) -> None:
        super().__init__()
        self.config, self.setting = config, setting
        counts = setting.class_counts
        self._groups, self._notes = class_groups(setting.groups, counts, config.sequence)
        self.count = len(self._groups)  # T
        self._samplings = {t: sampling_of(y, config) for t, y in self._groups.items()}
        preferred = [group.classes for group in self._groups.values()]
        self.register_buffer("preferred", torch.stack(preferred))  # Y_1..Y_T, bool [T, C]
        alpha = torch.stack([alpha_of(y, config, counts) for y in self._groups.values()])
        self.register_buffer("log_alpha", alpha.log().float())  # [T, C]
        network = self._network()
        theta = [name for name, _ in network.named_parameters()]
        convolutions = [name for name in layer_weights(network) if not name.startswith("1.")]
        divided = theta if config.partition == "everything" else convolutions
        self.allotment = Allotment(network, self.count, divided)
        self.measured = nn.Module()  # what TPD goes by, of all allotted weights in their order
        self.measured.register_buffer("importance", torch.zeros_like(flatten(self._allotted())))
        if config.release == "search":
            self.register_buffer("searched_on_train", torch.zeros((), dtype=torch.bool))
            snapshots = torch.zeros(LEVELS, *self.allotment.snapshot().shape)
            self.measured.register_buffer("snapshots", snapshots)
        self._plan = {self._stage(part): part for part in self._parts()}
        self._does = list(self._plan.values())  # by `Position.stage`

    # --- schedule -----------------------------------------------------------------------------

    def _parts(self) -> Iterator[Part]:
        """Yield the parts of stages 1..T in order."""
        for t in range(1, self.count + 1):
            yield Part(t, "CPO")
            if t < self.count:
                yield Part(t, "TPD")
                if self.config.release == "search":
                    yield Part(t, "choose gamma")
            yield Part(t, "freeze")

    def stages(self) -> Sequence[Stage]:
        """Return the schedule."""
        return list(self._plan)

    def _stage(self, part: Part) -> Stage:
        name, t, trains = f"stage {part.t}: {part.does}", part.t, ("allotment.network",)
        later_rate = self.config.later_rate * self.setting.learning_rate
        if part.does == "CPO":
            epochs = self.setting.epochs
            if t == 1:
                return Stage(name=name, epochs=epochs, trainable=trains)
            return Stage(
                name=name, epochs=max(1, epochs_of(self.config.later_epochs, epochs)),
                samplings=(self._samplings[t],), trainable=trains,
                learning_rate=later_rate, schedule="constant", warmup=0,
            )  # fmt: skip
        if part.does == "TPD":
            classes = len(self.setting.class_counts)
            return Stage(
                name=name, epochs=tenths_of(gamma_of(t, self.config)),
                steps=self.config.retraining_steps, survey="train", whole=True,
                samplings=(retraining_of(self._samplings[t], t, classes, self.config),),
                trainable=trains, learning_rate=later_rate, schedule="constant", warmup=0,
                update_norm=("allotment.owner", "measured"),  # these follow, too
            )  # fmt: skip
        return Stage(name=name, epochs=0, kind="select" if part.does == "choose gamma" else "fit")

    # --- CPO, and the retraining of TPD -------------------------------------------------------

    def training_step(self, batches: Sequence[Batch], at: Position) -> StepOutput:
        """Return the loss of stage t (eq. 2); in TPD, release first."""
        part, batch = self._does[at.stage], batches[0]
        if part.does == "TPD":
            self._release(part.t, at)
        logits = self.allotment(batch.images, part.t)
        if part.does == "TPD" and self.config.retraining == "uniform":
            return StepOutput(cross_entropy(logits, batch.labels))
        log_alpha = self.log_alpha[part.t - 1]
        return StepOutput(stage_loss(logits, batch.labels, part.t, log_alpha, self.config).mean())

    # --- TPD ----------------------------------------------------------------------------------

    def _release(self, t: int, at: Position) -> None:
        """Release weights up to the share of eq. 4; the epoch is the tenth, the step its iteration."""
        if at.epoch == at.step == 0:
            self._keep_snapshot(0)
        ranking = cut(self.measured.get_buffer("importance"), self._allotted())
        gamma, steps = gamma_of(t, self.config), self.config.retraining_steps
        share = gamma_after(at.epoch + 1, at.step + 1, gamma, steps)
        self.allotment.release(t, ranking, share)

    def after_step(self, out: StepOutput, at: Position) -> None:
        """In a search for gamma, keep what each tenth ends with."""
        last = at.step + 1 == self.config.retraining_steps
        if self._does[at.stage].does == "TPD" and last:
            self._keep_snapshot(at.epoch + 1)

    def _keep_snapshot(self, level: int) -> None:
        if self.config.release == "search":
            self.measured.get_buffer("snapshots")[level].copy_(self.allotment.snapshot())

    @torch.no_grad()
    def fit(self, stage: Stage, batches: FitBatches, split: str) -> Facts:
        """Measure the importance, choose gamma, or freeze the weights of a stage."""
        part = self._plan[stage]
        if part.does == "TPD":
            return self._measure(part.t, batches)
        if part.does == "choose gamma":
            return self._choose_gamma(part.t, batches, split)
        self.allotment.settle(part.t)
        if part.t < self.count:
            drawn = dict(self._network().to(self.preferred.device).named_parameters())
            self.allotment.begin(
                part.t + 1, {name: drawn[name].detach() for name in self._allotted()}
            )
        return {"weights_by_stage": self.allotment.sizes()}

    def _measure(self, t: int, batches: FitBatches) -> Facts:
        """Take the importance anew, before each tenth."""
        found = importance(self.allotment, t, self.preferred[t - 1], batches, self.config)
        self.measured.get_buffer("importance").copy_(distributed.mean(found))
        return {}

    def _choose_gamma(self, t: int, batches: FitBatches, split: str) -> Facts:
        """Score the network at 0, 10, ..., 90 %, and go back to the best share by the rule."""
        snapshots = self.measured.get_buffer("snapshots")

        def predicted(images: Tensor) -> Tensor:
            found = []
            for snapshot in snapshots:
                self.allotment.restore(snapshot)
                found.append(self.allotment(images, t).argmax(dim=1))
            return torch.stack(found)

        accuracy = class_accuracy(((predicted(x), y) for x, y in batches), self.preferred.shape[1])
        curve = [measured_mean(each) or 0.0 for each in accuracy]
        level = choose_share(curve, self.config.search_rule)
        self.allotment.restore(snapshots[level])
        self.get_buffer("searched_on_train").fill_(split == "train")
        return {"t": t, "release_split": split, "release_curve": curve, "release": level / 10}

    # --- inference ----------------------------------------------------------------------------

    def sub_model_logits(self, images: Tensor) -> Tensor:
        """Return the logits of the sub-models, [B, T, C]; in training, of those that exist so far."""
        done = self.allotment.done
        found = [self.allotment.sub_model(images, t) for t in range(1, done + 1)]
        if done < self.count:  # the one that is being trained
            found.append(self.allotment(images, done + 1))
        return torch.stack(found, dim=1)

    def predict(self, images: Tensor) -> Tensor:
        """Return the logarithm of the mixed probabilities; of views, the mirror image is at hand."""
        clean = self.sub_model_logits(images)
        if self.config.mixture == "average":
            return average_mixture(clean)
        return instance_mixture(clean, clean, self.sub_model_logits(images.flip(3)))

    @property
    def mixture_views(self) -> tuple[str, ...]:
        """The two views of eq. 5."""
        return (self.config.test_views, self.config.test_views)

    def predict_with_views(self, images: Tensor, views: Sequence[Tensor]) -> Tensor:
        """Return the logarithm of the mixed probabilities, with lambda from two views (eq. 5)."""
        if self.config.mixture == "average":
            return self.predict(images)
        return instance_mixture(
            self.sub_model_logits(images), *(self.sub_model_logits(view) for view in views)
        )

    @property
    def asks_for_views(self) -> bool:
        """Whether test-time learning is on."""
        return self.config.mixture == "instance"

    # --- what is said and shown ---------------------------------------------------------------

    @property
    def notes(self) -> tuple[str, ...]:
        """Say so if an empty shot group changed the stages, or a test image decides its mixture."""
        found = self._notes
        if self.config.release == "search" and bool(self.get_buffer("searched_on_train")):
            found += ("DO: gamma was searched on training images, because there is no val split.",)
        if self.config.mixture == "instance":
            found += ("Instance-wise: the mixture for an image depends on two views of it.",)
        return found

    def known_bias(self) -> Tensor:
        """Return what alpha puts into the logits, log alpha_t where it is a vector, [T, C]."""
        vector = self.config.compensation == "vector"
        return self.log_alpha if vector else torch.zeros_like(self.log_alpha)

    def figures(self, batches: FitBatches, lines: Sequence[Facts]) -> Sequence[FigureData]:
        """Show sub-models, lambda, densities and the search, see `longtail.methods.do.figures`."""
        mixed = partial(
            sub_models_and_weights, self.sub_model_logits, self.predict, preferred=self.preferred,
            mixture=self.config.mixture,
        )  # fmt: skip
        return [*mixed(batches), densities(self.allotment), *release_curves(lines)]

    def networks(self, images: Tensor) -> Sequence[Network]:
        """Return every sub-model with the weights that it consists of (figure 1b)."""
        return [settled_network(self.allotment, t) for t in range(1, self.count + 1)]

    @classmethod
    def shares_first_stage(cls, own: Options, other: Options) -> bool:
        """Say whether both have the same stage 1: no option touches it."""
        return isinstance(own, DOOptions) and isinstance(other, DOOptions)

    def corrections(self) -> tuple[str, ...]:
        """Name the stages."""
        return ("stages that prefer rare classes",)

    # --- state --------------------------------------------------------------------------------

    def omitted(self) -> set[str]:
        """Name what is written only while stages are being trained."""
        own = {f"measured.{name}" for name, _ in self.measured.named_buffers()}
        return own | {f"allotment.{name}" for name in self.allotment.omitted()}

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

    def _network(self) -> nn.Module:
        backbone = self.setting.build_backbone()
        head = LinearHead(backbone.num_features, len(self.setting.class_counts))
        return nn.Sequential(backbone, head)

    def _allotted(self) -> Mapping[str, Tensor]:
        """Return the live values of the allotted weights, by name."""
        live = dict(self.allotment.network.named_parameters())
        return {name: live[name].detach() for name in self.allotment.names}
