"""One optimiser step: forward, backward, update."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from longtail.core import distributed
from longtail.core.batch import Batch, Position, StepOutput
from longtail.core.errors import ConfigError
from longtail.engine.hardware import autocast, resolve_precision
from longtail.engine.optimisation import current_devices
from longtail.engine.options import TrainingConfig
from longtail.engine.sharpness import batch_norms, climb, go_back, statistics_at_rest
from longtail.methods.method import Method
from longtail.models.joint_norm import join_statistics
from longtail.models.low_rank import constant_weights


class StepFunction:
    """Takes optimiser steps with one method in one stage.

    Args:
        method: What gives the loss; its trained parameters are the optimiser's.
        config: Precision, parts of a batch, clipping, compilation.
        device: Where to compute.

    Attributes:
        compile_seconds: What the first step took, if parts are compiled and a step was taken.
    """

    def __init__(self, method: Method, config: TrainingConfig, device: torch.device) -> None:
        self._method, self._config, self._device = method, config, device
        self._precision = resolve_precision(config.precision, device)
        self._norms = batch_norms(method)
        self.compile_seconds: float | None = None
        if config.compile:
            # part by part: the step itself depends on the position, which changes every time.
            # On a GPU with CUDA graphs: small kernels are shorter than their launches
            mode = "reduce-overhead" if device.type == "cuda" else "default"
            for part in method.children():
                part.compile(mode=mode)
        self._forward: nn.Module = _Forward(method)
        if config.joint_norm:
            join_statistics(method)
        if distributed.active():
            # buffers are sent to all processes before every step; those that never change need not be
            nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(  # type: ignore[no-untyped-call]
                self._forward, constant_weights(self._forward)
            )
            if method.idle_parts:  # PyTorch warns in the steps in which none of them is idle
                warnings.filterwarnings(
                    "ignore", message="find_unused_parameters=True was specified"
                )
            self._forward = nn.parallel.DistributedDataParallel(
                self._forward,
                device_ids=[device.index] if device.type == "cuda" else None,
                find_unused_parameters=method.idle_parts,
            )

    def __call__(
        self, batches: Sequence[Batch], at: Position, optimizer: torch.optim.Optimizer
    ) -> StepOutput:
        """Take one step; the returned loss is the mean over the parts of the batch.

        Raises:
            ConfigError: If parts are to be compiled and cannot be.
        """
        with _compiler_explained():
            return self._step(batches, at, optimizer)

    def _step(
        self, batches: Sequence[Batch], at: Position, optimizer: torch.optim.Optimizer
    ) -> StepOutput:
        begin = time.perf_counter()
        if self._config.compile:
            # results of the step before may go
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        optimizer.zero_grad(set_to_none=True)
        backward = self._uphill if self._config.optimizer == "sam" else self._gradients
        out = backward(batches, at)
        if self._config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._method.parameters(), self._config.clip_norm)
        optimizer.step()
        if self._config.compile and self.compile_seconds is None:
            self.compile_seconds = time.perf_counter() - begin
        return out

    def _gradients(self, batches: Sequence[Batch], at: Position) -> StepOutput:
        """Add the gradient of the loss to what the parameters have."""
        parts, carried = self._config.accumulate, []
        total = torch.zeros((), device=self._device)
        for out in self._parts(batches, at):
            torch.autograd.backward(out.loss / parts)
            total += out.loss.detach() / parts
            carried.append(out.carry)
        return StepOutput(total, out.scalars, _joined(carried))

    def _uphill(self, batches: Sequence[Batch], at: Position) -> StepOutput:
        """Add the gradient of S uphill, and of the rest of the loss where the weights are.

        See `longtail.engine.sharpness`.
        """
        parts, carried = self._config.accumulate, []
        total = torch.zeros((), device=self._device)
        weights = [p for p in self._method.parameters() if p.requires_grad]
        rest: list[Tensor | None] = [None] * len(weights)
        with torch.random.fork_rng(devices=current_devices()):  # to draw the same once more
            for out in self._parts(batches, at):
                if out.sharp is not None:
                    apart = torch.autograd.grad(
                        (out.loss - out.sharp) / parts,
                        weights,
                        retain_graph=True,
                        allow_unused=True,
                    )
                    rest = [_sum(old, new) for old, new in zip(rest, apart, strict=True)]
                climbed = _sharp(out) if out.ascent is None else out.ascent
                torch.autograd.backward(climbed / parts)
                total += out.loss.detach() / parts
                carried.append(out.carry)
        climbing = [w for w in weights if w.grad is not None]
        kept = climb(climbing, [w.grad for w in climbing if w.grad is not None], self._config.rho)
        for weight, gradient in zip(weights, rest, strict=True):
            # laid out as the weight is, to be added to; several processes exchange it with that of S
            weight.grad = None if gradient is None else torch.empty_like(weight).copy_(gradient)
        with statistics_at_rest(self._norms):
            for uphill in self._parts(batches, at):
                torch.autograd.backward(_sharp(uphill) / parts)
        go_back(climbing, kept)
        return StepOutput(total, out.scalars, _joined(carried))

    def _parts(self, batches: Sequence[Batch], at: Position) -> Iterator[StepOutput]:
        """Yield what the method returns for each part of a batch."""
        parts = self._config.accumulate
        pieces = [list(batch.split(parts)) for batch in batches]
        for part in range(parts):
            last = part == parts - 1
            # gradients are exchanged between processes once, with the last part
            quiet = nullcontext() if last else getattr(self._forward, "no_sync", nullcontext)()
            with quiet:
                with autocast(self._precision, self._device):
                    out: StepOutput = self._forward([piece[part] for piece in pieces], at)
                yield out


def check_compiler(device: torch.device) -> None:
    """Compile one operation, so that a missing compiler is found before a run begins.

    Args:
        device: Where to compute.

    Raises:
        ConfigError: If `torch.compile` does not work for this device.
    """
    with _compiler_explained():
        torch.compile(torch.neg)(torch.ones(1, device=device))


@contextmanager
def _compiler_explained() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"The network cannot be compiled here ({reason}). torch.compile needs a C++ compiler such as "
            "g++, and Triton on a GPU. Train with compile=false."
        ) from error


def uncompiled(config: TrainingConfig) -> AbstractContextManager[Any]:
    """Run compiled modules as they are: graphs are for steps, and overwrite what they returned."""
    if not config.compile:
        return nullcontext()  # the compiler takes seconds to import
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


def _sharp(out: StepOutput) -> Tensor:
    return out.loss if out.sharp is None else out.sharp


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None:
        return other if one is None else one
    return one + other


def _joined(carried: Sequence[Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
    """Join what the parts of a batch carry: rows of images one after the other, else the last."""
    if len(carried) == 1:
        return carried[0]
    return {
        name: torch.cat([part[name] for part in carried]) if value.ndim else value
        for name, value in carried[-1].items()
    }


class _Forward(nn.Module):
    """Calls `training_step` as a forward pass, which is what DistributedDataParallel wraps."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, batches: Sequence[Batch], at: Position) -> StepOutput:
        return self.method.training_step(batches, at)
