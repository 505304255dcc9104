"""Steps that are taken before a training to see how long it will take, and undone."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from longtail.core import distributed
from longtail.core.batch import Position
from longtail.core.rng import derive_seed
from longtail.core.stage import Stage
from longtail.data.sampling.loader import Loader
from longtail.engine.optimisation import build_optimizer, seeded, training_mode
from longtail.engine.options import TrainingConfig
from longtail.engine.step import StepFunction
from longtail.methods.method import Method

WORTH_IT = 100  # steps of a training, from which on they are measured
LEAST, MOST = 1, 8  # steps that are measured, after one that waits for images, kernels and memory
ENOUGH = 2.0  # seconds of them
SLOW_START = 4.0  # steps that the first one may take as long as, on a CPU


def seconds_per_step(
    method: Method,
    stage: Stage,
    loaders: Sequence[Loader],
    step: StepFunction,
    config: TrainingConfig,
    at: Position,
    most: float = math.inf,
) -> float | None:
    """Take a few steps of a stage and undo them: no weight, buffer or random number of the training changes.

    Args:
        method: Prepared for the stage, on the device.
        stage: What is trained.
        loaders: One per stream.
        step: Of the stage.
        config: How to train.
        at: The first step of the training.
        most: Seconds of a step above which it need not be known better.

    Returns:
        Seconds of a step, or None where the epoch is too short to tell.
    """
    foretells = not config.compile and next(method.parameters()).device.type == "cpu"
    training_mode(method, stage)
    optimizer = build_optimizer(method, stage, config)
    taken, seconds, since = 0, 0.0, time.perf_counter()
    last, hopeless = 0.0, False
    with _undone(method), seeded(derive_seed(config.seed, "trial", distributed.rank())):
        for batches in zip(*(loader.epoch(at.epoch) for loader in loaders), strict=True):
            float(step(batches, at, optimizer).loss.detach())  # waits for the device
            now = time.perf_counter()
            last, since = now - since, now
            seconds += last * (taken > 0)
            taken += 1
            # a fast step is cheap to measure, and its first may take twenty times as long
            hopeless = taken == 1 and foretells and last > max(SLOW_START * most, ENOUGH)
            enough = taken > LEAST and (seconds > min(ENOUGH, most * MOST) or taken > MOST)
            if distributed.broadcast(hopeless or enough):  # all processes take the same steps
                break
    optimizer.zero_grad(set_to_none=True)
    if hopeless:
        return last
    return seconds / (taken - 1) if taken > LEAST else None


@contextmanager
def _undone(method: nn.Module) -> Iterator[None]:
    """Put parameters and buffers back, in place: others may refer to them."""
    tensors = [*method.parameters(), *method.buffers()]
    kept = [tensor.detach().to("cpu", copy=True) for tensor in tensors]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, before in zip(tensors, kept, strict=True):
                tensor.copy_(before)
