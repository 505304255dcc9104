"""Averages of the weights of a stage, which predict in place of the weights themselves.

    EMA   after every step                          a <- d a + (1 - d) w
    SWA   after every epoch from epoch S on         a <- a + (w - a) / (n + 1), n epochs averaged before

SWA is stochastic weight averaging (Izmailov et al., UAI 2018, arXiv 1803.05407): the learning rate stays
large from S on (`longtail.engine.schedule`), so that the weights of the epochs lie apart. No batch was ever
normalised with their mean, so the statistics of its BatchNorms are computed anew before it predicts: those of
each batch of the epoch that was trained last, the same images augmented in the same way, are averaged with
equal weight. Only BatchNorms change whose statistics the stage changes too, and dropout is off. Several
processes average the statistics of their parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from longtail.core import distributed
from longtail.core.rng import derive_seed
from longtail.core.stage import Stage
from longtail.data.sampling.loader import Loader
from longtail.engine.hardware import autocast, resolve_precision
from longtail.engine.optimisation import seeded, training_mode
from longtail.engine.options import TrainingConfig
from longtail.engine.sharpness import batch_norms
from longtail.engine.step import uncompiled
from longtail.methods.method import Method
from longtail.models.joint_norm import join_statistics


class Averaging:
    """Follows the weights of one stage, if the training configuration asks for an average.

    Args:
        method: On the device, as the stage begins.
        stage: What is trained; it may refuse an average.
        config: Which average.
        number: Of the stage, from 0.
    """

    def __init__(self, method: Method, stage: Stage, config: TrainingConfig, number: int) -> None:
        self._method, self._stage, self._config, self._number = method, stage, config, number
        self._start = config.averaged_from(stage.epochs) if stage.averaged else None
        self._model: AveragedModel | None = None
        if config.ema is not None and stage.averaged:
            average = get_ema_multi_avg_fn(config.ema)  # type: ignore[no-untyped-call]
            self._model = AveragedModel(method, multi_avg_fn=average)
        elif self._start is not None:
            self._model = AveragedModel(method)
            if config.joint_norm:
                join_statistics(self._model.module)

    def after_step(self) -> None:
        """Follow the weights of a step."""
        if self._model is not None and self._start is None:
            self._model.update_parameters(self._method)

    def after_epoch(self, epoch: int) -> None:
        """Follow the weights of an epoch, from 0."""
        if self._model is not None and self._start is not None and epoch >= self._start:
            self._model.update_parameters(self._method)

    def predictor(self, epoch: int) -> Method:
        """Return what predicts after `epoch`: the average, or the method where there is none yet."""
        if self._model is None or (self._start is not None and epoch < self._start):
            return self._method
        return cast(Method, self._model.module)

    def measure(self, epoch: int, loader: Loader) -> None:
        """Compute the statistics of the averaged network's BatchNorms anew, if it needs new ones.

        Args:
            epoch: Which was trained last.
            loader: Of the first stream of the stage.
        """
        averaged = self.predictor(epoch)
        if self._start is None or averaged is self._method:
            return
        training_mode(averaged, self._stage)
        moving = [
            norm for norm in batch_norms(averaged) if norm.training and norm.track_running_stats
        ]
        averaged.eval()
        if not moving:
            return
        kept = [_begin(norm) for norm in moving]
        seed = derive_seed(self._config.seed, "averaged", self._number, epoch, distributed.rank())
        with seeded(seed), uncompiled(self._config), torch.no_grad():
            self._pass(averaged, epoch, loader)
        for norm, before in zip(moving, kept, strict=True):
            _end(norm, before)
        averaged.eval()

    def _pass(self, averaged: Method, epoch: int, loader: Loader) -> None:
        """Let the averaged network predict the images of an epoch."""
        frozen, device = self._stage.features, next(averaged.parameters()).device
        if frozen is not None:  # the images of a batch are its features
            part = averaged.get_submodule(frozen)
            averaged.set_submodule(frozen, nn.Identity())
        try:
            with autocast(resolve_precision(self._config.precision, device), device):
                for batch in loader.epoch(epoch):
                    for piece in batch.split(self._config.accumulate):
                        averaged.predict(piece.images)
        finally:
            if frozen is not None:
                averaged.set_submodule(frozen, part)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of it; empty without an average."""
        return {} if self._model is None else {"average": self._model.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue as a checkpoint says, see `state`."""
        if self._model is not None:
            self._model.load_state_dict(state["average"])


def _begin(norm: _BatchNorm) -> tuple[float | None, list[Tensor]]:
    """Let a BatchNorm average what it sees from now on, and return what it had."""
    before = norm.momentum, [buffer.clone() for buffer in norm.buffers()]
    norm.reset_running_stats()
    norm.momentum = None  # PyTorch's word for equal weights
    norm.train()
    return before


def _end(norm: _BatchNorm, before: tuple[float | None, list[Tensor]]) -> None:
    """Take the mean over the processes; a BatchNorm that prediction does not use keeps what it had."""
    norm.momentum = before[0]
    seen = norm.num_batches_tracked
    assert seen is not None, "it tracks statistics"
    for buffer, old in zip(norm.buffers(), before[1], strict=True):
        found = distributed.mean(buffer) if buffer.is_floating_point() else buffer
        buffer.copy_(torch.where(seen > 0, found, old))
