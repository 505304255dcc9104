"""Where the batches of a stage come from."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from longtail.core.stage import Stage
from longtail.data.loader import FeatureLoader, Loader, TrainingLoader, evaluation_batches
from longtail.data.pictures import DataSet
from longtail.data.samplers import EpochSampler
from longtail.engine.config import TrainingConfig
from longtail.engine.hardware import autocast, resolve_precision
from longtail.engine.step import uncompiled

SECONDS_BETWEEN_NOTES = 30


def build_sampler(
    data: DataSet, config: TrainingConfig, number: int, stage: Stage, stream: int
) -> EpochSampler:
    """Build the sampler of one stream of stage `number`.

    Raises:
        ConfigError: If the batch does not fit the training set.
    """
    return EpochSampler(
        data.manifest.labels,
        data.manifest.class_counts(),
        stage.samplings[stream],
        batch_size=config.batch_size,
        epochs=stage.epochs,
        seed=config.seed,
        stage=_place(number, stream),
    )


def build_loaders(
    data: DataSet,
    config: TrainingConfig,
    number: int,
    stage: Stage,
    method: nn.Module,
    device: torch.device,
    note: Callable[[str], None],
) -> list[Loader]:
    """Build one loader per stream: of pictures, or of what a frozen part makes of them.

    Args:
        data: The train split.
        config: How to train.
        number: Of the stage, from 0.
        stage: What is drawn, and how it is augmented.
        method: On the device; its part `stage.features` is run once over all pictures.
        device: Where the batches go.
        note: Told now and then how far a long pass is.
    """
    samplers = [
        build_sampler(data, config, number, stage, stream) for stream in range(len(stage.samplings))
    ]
    if stage.features is not None:
        features = _features(method.get_submodule(stage.features), data, config, device, note)
        return [FeatureLoader(features, data, sampler, device=device) for sampler in samplers]
    return [
        TrainingLoader(
            data,
            sampler,
            stage.views,
            device=device,
            seed=config.seed,
            stage=_place(number, stream),
            workers=config.workers,
            channels_last=config.channels_last,
        )
        for stream, sampler in enumerate(samplers)
    ]


@torch.no_grad()
def _features(
    part: nn.Module,
    data: DataSet,
    config: TrainingConfig,
    device: torch.device,
    note: Callable[[str], None],
) -> Tensor:
    """Return what a frozen part makes of every picture, float [N, D], on the device."""
    part.eval()
    precision = resolve_precision(config.precision, device)
    found: list[Tensor] = []
    done, told = 0, time.monotonic()
    with uncompiled(config), autocast(precision, device):
        for images, _ in evaluation_batches(
            data, device=device, workers=config.workers, everything=True
        ):  # in the order of the rows
            found.append(part(images).float())
            done += len(images)
            if time.monotonic() - told > SECONDS_BETWEEN_NOTES:
                note(f"{done:,} of {len(data.manifest):,} pictures")
                told = time.monotonic()
    return torch.cat(found)


def _place(stage: int, stream: int) -> int:
    """Return the number by which the random numbers of a stream are named."""
    return 100 * stage + stream
