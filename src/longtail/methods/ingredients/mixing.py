"""Options of pair mixing, and a batch that is mixed as they say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from longtail.config import Options
from longtail.core.batch import Batch, Position
from longtail.core.rng import numpy_generator
from longtail.core.stage import Sampling, epochs_of
from longtail.methods.ingredients.mixup_cutmix import Mixed, cutmix, mixup


class MixingOptions(Options):
    """Pair mixing of the training batch."""

    name: Literal["mixup", "cutmix"] = "mixup"
    alpha: float = Field(
        1.0, gt=0, description="the mixing ratio lambda follows Beta(alpha, alpha)"
    )
    probability: float = Field(1.0, ge=0, le=1, description="probability that a batch is mixed")
    partners: Literal["batch", "class-balanced"] = Field(
        "batch",
        description="what images are mixed with: images of the same batch, or of a second, class-balanced "
        "stream (CMO)",
    )
    start: float = Field(
        0.0, ge=0, description="first epoch with mixing; below 1, a fraction of all epochs"
    )
    rest: float = Field(
        0.0, ge=0, description="last epochs without mixing; below 1, a fraction of all epochs"
    )

    def mixes(self, at: Position) -> bool:
        """Say whether batches of this epoch may be mixed."""
        last = at.epochs - epochs_of(self.rest, at.epochs)
        return epochs_of(self.start, at.epochs) <= at.epoch < last


def mixed_batch(
    options: MixingOptions | None, batches: Sequence[Batch], at: Position
) -> Mixed | None:
    """Mix the images of a step as `options` say, or return None if this step is not mixed.

    Args:
        options: Of the mixing, or None for none.
        batches: The images, and those of the streams that `options` ask for.
        at: Where the training is.
    """
    if options is None or not options.mixes(at):
        return None
    generator = numpy_generator(at.seed, "mixing", at.stage, at.epoch, at.step)
    if generator.random() >= options.probability:
        return None
    mix = mixup if options.name == "mixup" else cutmix
    batch, *others = batches
    partners = (others[0].images, others[0].labels) if others else None
    return mix(batch.images, batch.labels, options.alpha, generator, partners)


def mixing_streams(options: MixingOptions | None) -> tuple[Sampling, ...]:
    """Return the further streams of images that a stage needs to mix."""
    if options is None or options.partners == "batch":
        return ()
    return (Sampling(name="class-balanced", form="multinomial"),)


def mixing_corrections(options: MixingOptions | None) -> tuple[str, ...]:
    """Name what mixing corrects for the class prior."""
    return ("mixing with class-balanced partners",) if mixing_streams(options) else ()
