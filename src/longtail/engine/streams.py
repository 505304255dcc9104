"""Where the batches of a stage come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from longtail.core.stage import Stage
from longtail.data.data_set import DataSet
from longtail.data.sampling.loader import FeatureLoader, Loader, TrainingLoader, evaluation_batches
from longtail.data.sampling.samplers import EpochSampler
from longtail.engine.options import TrainingConfig
from longtail.engine.pace import told_at_times
from longtail.engine.step import uncompiled
from longtail.frozen import frozen_features
from longtail.models.backbones import enlarged_side


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
        steps=stage.steps,
    )


def build_loaders(
    data: DataSet,
    config: TrainingConfig,
    number: int,
    stage: Stage,
    method: nn.Module,
    device: torch.device,
    note: Callable[[str], None],
    *,
    kept: bool = False,
) -> list[Loader]:
    """Build one loader per stream: of images, or of what a frozen part makes of them.

    Args:
        data: The train split.
        config: How to train.
        number: Of the stage, from 0.
        stage: What is drawn, and how it is augmented.
        method: On the device; its part `stage.features` is run once over all images.
        device: Where the batches go.
        note: Told now and then how far a long pass is.
        kept: Whether what the frozen part makes of the images is kept for other runs.
    """
    samplers = [
        build_sampler(data, config, number, stage, stream) for stream in range(len(stage.samplings))
    ]
    if stage.features is not None:
        part = method.get_submodule(stage.features)
        features = features_of(part, data, config, device, note, keep=kept)
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


def everything(
    method: nn.Module,
    stage: Stage,
    data: DataSet,
    config: TrainingConfig,
    device: torch.device,
    note: Callable[[str], None],
    *,
    kept: bool,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield every image of `data` once with its label, or what the frozen part of the stage makes of it.

    Class means of a share of the images would differ by process, so each process sees everything. Nothing is
    computed before the first batch is asked for.
    """
    labels = torch.from_numpy(data.manifest.labels.copy())
    if stage.features is not None:
        part = method.get_submodule(stage.features)
        yield features_of(part, data, config, device, note, keep=kept), labels.to(device)
        return
    for images, rows in evaluation_batches(
        data, device=device, workers=config.workers, everything=True, side=enlarged_side(method)
    ):
        yield images, labels[rows].to(device)


def features_of(
    part: nn.Module,
    data: DataSet,
    config: TrainingConfig,
    device: torch.device,
    note: Callable[[str], None] = lambda text: None,
    *,
    keep: bool,
) -> Tensor:
    """Return what a frozen part makes of every image, float32 [N, D], on the device.

    Args:
        part: Put into eval mode.
        data: One split.
        config: Workers.
        device: Where to compute.
        note: Told how long it will take if that is long, and then how far it is.
        keep: Whether other runs will ask for the same, see `longtail.frozen.frozen_features`.
    """
    progress = told_at_times(note, "computing features", on_cpu=device.type == "cpu")
    with uncompiled(config):
        return frozen_features(
            part, data, device=device, workers=config.workers, keep=keep, note=note, progress=progress
        )  # fmt: skip


def _place(stage: int, stream: int) -> int:
    """Return the number by which the random numbers of a stream are named."""
    return 100 * stage + stream
