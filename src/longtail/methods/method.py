"""The contract of a method: a network, how it is trained, how it predicts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from longtail.config import Options
from longtail.core.batch import Batch, Position, StepOutput
from longtail.core.counts import ClassCounts
from longtail.core.figure import FigureData
from longtail.core.groups import ShotGroups
from longtail.core.stage import Stage
from longtail.models.backbones import Backbone
from longtail.models.experts import Experts, Own
from longtail.models.importance import Network, predicting

FitBatches = Iterable[tuple[Tensor, Tensor]]  # images [B, 3, H, W] and labels [B]
Facts = Mapping[str, Any]  # what a stage found out, as JSON


class ExpertBuilder(Protocol):
    """Makes a network of experts on a shared trunk, narrower than the plain network or as wide."""

    def __call__(self, count: int, *, narrow: bool = True, own: Own = "groups") -> Experts:
        """Build `count` experts, each with the last groups of layers or the last block for itself."""
        ...


@dataclass(frozen=True)
class Setting:
    """What a method is told about its task when it is built.

    Attributes:
        class_counts: Training images per class.
        groups: Many-, medium- and few-shot classes.
        epochs: Epochs of the training configuration, for the method to spend on its stages.
        build_backbone: Makes a new backbone; may be called several times.
        build_experts: Makes a network of several experts on a shared trunk.
        batch_size: Images of one optimiser step, for linear scaling of learning rates.
        learning_rate: Of the training configuration.
    """

    class_counts: ClassCounts
    groups: ShotGroups
    epochs: int
    build_backbone: Callable[[], Backbone]
    build_experts: ExpertBuilder
    batch_size: int = 128
    learning_rate: float = 0.1


class Method(nn.Module):
    """Base of all methods: five hooks and no behaviour.

    The engine promises: a part that is not trained in a stage is frozen and in eval mode unless the
    stage names it in `update_norm`; every hook is told where the training is; what a step hands to
    `after_step` travels in `StepOutput.carry`. The method promises: tensors live in parameters and
    buffers, nowhere else; class order carries no meaning.

    Attributes:
        Config: The options of the method, with units, limits and the paper's values.
        summary: What it does, one line for `longtail methods`.
        advice: When to use it, likewise.
        citation: Paper, for reports.
        begins_with: Modules that a run takes from the first stage of another one; empty means those that its
            first stage trains anything of.
        several_processes: What each process does with its own part of a batch, so that several train
            differently than one even with `training.joint_norm`; empty where they train the same, up to
            rounding.
        idle_parts: Whether some trained weights take no part in the loss of some steps. Several processes
            then look for them in every step, which costs time.
    """

    Config: ClassVar[type[Options]]
    summary: ClassVar[str]
    advice: ClassVar[str]
    citation: ClassVar[str]
    begins_with: ClassVar[tuple[str, ...]] = ()
    several_processes: ClassVar[str] = ""
    idle_parts: ClassVar[bool] = False

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the user: how the method set itself up, what a stage has chosen."""
        return ()

    def stages(self) -> Sequence[Stage]:
        """Say what is trained when, by which sampler, and what is frozen, reset or followed."""
        raise NotImplementedError

    def training_step(self, batches: Sequence[Batch], at: Position) -> StepOutput:
        """Return the loss of one batch per stream of the stage."""
        raise NotImplementedError

    def predict(self, images: Tensor) -> Tensor:
        """Map normalised images [B, 3, H, W] to the logits [B, C] that the user gets."""
        raise NotImplementedError

    def sub_model_logits(self, images: Tensor) -> Tensor:
        """Return the logits of each sub-model, [B, T, C]; a method without any is its own, T = 1."""
        return self.predict(images)[:, None]

    @property
    def mixture_views(self) -> tuple[str, ...]:
        """Augmentation policies of the random views that weigh sub-models; none for most methods."""
        return ()

    @property
    def asks_for_views(self) -> bool:
        """Whether `predict_with_views` is what the user gets, where views can be drawn."""
        return False

    def predict_with_views(self, images: Tensor, views: Sequence[Tensor]) -> Tensor:
        """Map images and their `mixture_views`, each [B, 3, H, W], to logits [B, C]."""
        return self.predict(images)

    def known_bias(self) -> Tensor | None:
        """Return what training put into the logits of each sub-model on purpose, [T, C], if known."""
        return None

    def after_step(self, out: StepOutput, at: Position) -> None:
        """Update momentum copies, queues or projections after the optimiser's step."""

    def fit(self, stage: Stage, batches: FitBatches, split: str) -> Facts:
        """Compute a closed-form or search stage, or prepare an epoch of a stage with `survey`.

        Returns what should be written down about it.

        Args:
            stage: Which one.
            batches: Every image of the split once, not augmented, with its label.
            split: `train`, or `val` for a stage that selects, or surveys val, where there is a val split.
        """
        return {}

    @classmethod
    def shares_first_stage(cls, own: Options, other: Options) -> bool:
        """Say whether a run with options `own` can take its first stage from one with `other`."""
        return False

    def figures(self, batches: FitBatches, lines: Sequence[Facts]) -> Sequence[FigureData]:
        """Return figures about the trained method for the report.

        Args:
            batches: The images and labels of the scored split.
            lines: Of `metrics.jsonl`.
        """
        return ()

    def networks(self, images: Tensor) -> Sequence[Network]:
        """Return the networks whose weights can be asked for their importance: all of it together, or parts.

        Args:
            images: Some images, [B, 3, H, W], to see which weights are used.
        """
        return (predicting(self, self.predict, images),)

    def omitted(self) -> set[str]:
        """Name the state that a checkpoint may leave out once nothing reads it any more."""
        return set()

    def corrections(self) -> tuple[str, ...]:
        """Name the corrections for imbalance that training applies.

        Stored with every model, so that `adjust` can warn before a second correction.
        """
        return ()

    def assumed_prior(self, at: Position) -> Tensor | None:
        """Return the class distribution that the logits of `predict` assume, float64 [C], or None.

        It is known where the logits are those of a likelihood of labels that were drawn with known class
        probabilities (see `longtail.methods.ingredients.assumed`); never guess.

        Args:
            at: Where the training of these weights ended: its stage, and the last epoch in it.
        """
        return None
