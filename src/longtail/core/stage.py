"""Stage: what is trained when, from which images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from longtail.core.errors import ConfigError

SamplerName = Literal[
    "instance", "class-balanced", "square-root", "progressive", "reversed", "effective-number"
]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the images of an epoch are drawn: a class probability and a form of drawing.

    Attributes:
        name: The class probability, see `longtail.data.sampling.samplers.class_probability`.
        form: `published` draws as the released codes do (shuffled epochs for `instance`, cycles
            for `class-balanced` and `progressive`); `multinomial` draws class and image
            independently with replacement.
        draws_per_class: Consecutive draws of a class in the published class-balanced cycle.
        beta: Of effective-number sampling, in [0, 1).
        weights: Of the classes, for the name `weights`: any class probability up to a factor.
        switch_epoch: If set, epochs before it are drawn instance-balanced (deferred re-sampling).
    """

    name: SamplerName | Literal["weights"] = "instance"
    form: Literal["published", "multinomial"] = "published"
    draws_per_class: int = 4
    beta: float = 0.9999
    switch_epoch: int | None = None
    weights: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a method.

    Attributes:
        name: For logs and checkpoints.
        epochs: Number of epochs; 0 for a stage that calls `fit`.
        samplings: One stream of images per entry; the step gets one batch per stream.
        views: Augmentation policy of each view; `default` is the data set's own.
        features: Name of a frozen submodule whose outputs [B, D] the step gets in place of the images.
            Images are not augmented then, and the submodule sees each of them once.
        trainable: Names of the submodules (or parameters) that are trained; empty means all.
        reset: Names of submodules that are initialised anew before the stage.
        update_norm: Frozen submodules whose normalisation statistics still follow the data. Any
            other frozen part is in eval mode.
        no_weight_decay: Names of parameters that are exempt from weight decay.
        learning_rate: Replaces the training configuration's value if set.
        weight_decay: Likewise.
        schedule: Likewise (`step`, `cosine` or `constant`).
        warmup: Likewise, a duration.
        warmup_start: Likewise, a share of the rate.
        milestones: Likewise, durations.
        ahead: Epochs by which the schedule is ahead of the training: codes that step it before an epoch begin
            with the rate of the second one and end with that of none.
        nesterov: Likewise.
        rates: Names of submodules and the factor of their learning rate, 1 for all others.
        steps: Steps of an epoch in place of floor(N / batch).
        survey: Before each epoch, call `Method.fit` with every image of train, class by class, or of val (of
            train if there is none).
        whole: Run all epochs and end with the last one, whatever val says of earlier ones.
        averaged: Whether an average of the weights (EMA, SWA) may predict.
        kind: `train` runs steps; `fit` calls `Method.fit` once with the train split; `select` calls
            it with the val split, or with train if there is none.
    """

    name: str
    epochs: int
    samplings: tuple[Sampling, ...] = (Sampling(),)
    views: tuple[str, ...] = ("default",)
    features: str | None = None
    trainable: tuple[str, ...] = ()
    reset: tuple[str, ...] = ()
    update_norm: tuple[str, ...] = ()
    no_weight_decay: tuple[str, ...] = ()
    learning_rate: float | None = None
    weight_decay: float | None = None
    schedule: Literal["step", "cosine", "constant"] | None = None
    warmup: float | None = None
    warmup_start: float | None = None
    milestones: tuple[float, ...] | None = None
    ahead: int = 0
    nesterov: bool | None = None
    rates: tuple[tuple[str, float], ...] = ()
    steps: int | None = None
    survey: Literal["train", "val"] | None = None
    whole: bool = False
    averaged: bool = True
    kind: Literal["train", "fit", "select"] = "train"

    def __post_init__(self) -> None:
        if self.kind == "train" and self.epochs < 1:
            raise ConfigError(
                f"Stage {self.name!r} must have at least one epoch, got {self.epochs}."
            )
        if not self.samplings or not self.views:
            raise ConfigError(f"Stage {self.name!r} must have at least one sampling and one view.")
        if self.features is not None and self.views != ("none",):
            raise ConfigError(
                f"Stage {self.name!r} computes features only once, so its only view must be 'none'."
            )


def seen_as_published(stages: Sequence[Stage], number: int) -> bool:
    """Say whether the features of stage `number` are those of weights that no stage before it trained."""
    before = stages[:number]
    return all(stage.features == stages[number].features for stage in before)


def constant_part(stages: Sequence[Stage]) -> str | None:
    """Return the part whose features every stage computes once: no stage trains it. None without one."""
    named = {stage.features for stage in stages}
    return named.pop() if len(named) == 1 else None


def epochs_of(duration: float, epochs: int) -> int:
    """Return a duration in epochs: below 1 it is a share of `epochs` (rounded), else epochs.

    Recipes say `0.8` where the papers say epoch 160 of 200, so that a shorter run keeps its shape.
    """
    return round(duration * epochs) if duration < 1 else round(duration)
