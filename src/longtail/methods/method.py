"""The contract of a method: a network, how it is trained, how it predicts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from longtail.core.batch import Batch, Position, StepOutput
from longtail.core.counts import ClassCounts
from longtail.core.groups import ShotGroups
from longtail.core.panel import Panel
from longtail.core.stage import Stage
from longtail.data.options import Options
from longtail.models.backbones import Backbone
from longtail.models.experts import Experts, Own

FitBatches = Iterable[tuple[Tensor, Tensor]]  # pictures [B, 3, H, W] and labels [B]
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
        class_counts: Training pictures per class.
        groups: Many-, medium- and few-shot classes.
        epochs: Epochs of the training configuration, for the method to spend on its stages.
        build_backbone: Makes a new backbone; may be called several times.
        build_experts: Makes a network of several experts on a shared trunk.
        batch_size: Pictures of one optimiser step, for linear scaling of learning rates.
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
    """

    Config: ClassVar[type[Options]]
    summary: ClassVar[str]
    advice: ClassVar[str]
    citation: ClassVar[str]
    begins_with: ClassVar[tuple[str, ...]] = ()

    @property
    def remarks(self) -> tuple[str, ...]:
        """Sentences for the user: how the method set itself up, what a stage has chosen."""
        return ()

    def stages(self) -> Sequence[Stage]:
        """Say what is trained when, by which sampler, and what is frozen, reset or followed."""
        raise NotImplementedError

    def training_step(self, batches: Sequence[Batch], at: Position) -> StepOutput:
        """Return the loss of one batch per stream of the stage."""
        raise NotImplementedError

    def predict(self, images: Tensor) -> Tensor:
        """Map normalised pictures [B, 3, H, W] to the logits [B, C] that the user gets."""
        raise NotImplementedError

    def answers(self, images: Tensor) -> Tensor:
        """Return the logits of each sub-model, [B, T, C]; a method without any is its own, T = 1."""
        return self.predict(images)[:, None]

    def known_bias(self) -> Tensor | None:
        """Return what training put into the logits of each sub-model on purpose, [T, C], if known."""
        return None

    def after_step(self, out: StepOutput, at: Position) -> None:
        """Update momentum copies, queues or projections after the optimiser's step."""

    def fit(self, stage: Stage, batches: FitBatches, split: str) -> Facts:
        """Compute a closed-form or search stage; return what should be written down about it.

        Args:
            stage: Which one.
            batches: Every picture of the split once, not augmented, with its label.
            split: `train`, or `val` for a stage that selects where there is a val split.
        """
        return {}

    @classmethod
    def shares_first_stage(cls, own: Options, other: Options) -> bool:
        """Say whether a run with options `own` can take its first stage from one with `other`."""
        return False

    def panels(self, batches: FitBatches, lines: Sequence[Facts]) -> Sequence[Panel]:
        """Return figures about the trained method for the report.

        Args:
            batches: The pictures and labels of the scored split.
            lines: Of `metrics.jsonl`.
        """
        return ()

    def omitted(self) -> set[str]:
        """Name the state that a checkpoint may leave out once nothing reads it any more."""
        return set()

    def corrections(self) -> tuple[str, ...]:
        """Name the corrections for imbalance that training applies.

        Stored with every model, so that `adjust` can warn before a second correction.
        """
        return ()
