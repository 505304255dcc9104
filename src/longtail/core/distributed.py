"""Ranks and gathering. Without a process group every function is the identity."""

from __future__ import annotations

import os
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from longtail.core.errors import ConfigError

T = TypeVar("T")


def active() -> bool:
    """Say whether a process group exists."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Return this process's number, 0 without a process group."""
    return dist.get_rank() if active() else 0


def world_size() -> int:
    """Return the number of processes, 1 without a process group."""
    return dist.get_world_size() if active() else 1


def is_main() -> bool:
    """Say whether this process writes files and talks to the user."""
    return rank() == 0


def barrier() -> None:
    """Wait for all processes."""
    if active():
        dist.barrier()


def start(device: torch.device) -> None:
    """Join the process group that `torchrun` describes in the environment, if it does."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not active():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")


def stop() -> None:
    """Leave the process group, if there is one."""
    if active():
        dist.destroy_process_group()


def mean(value: Tensor) -> Tensor:
    """Return the mean of `value` over the processes, without gradient."""
    if not active():
        return value.detach()
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


def total(value: Tensor) -> Tensor:
    """Return the sum of `value` over the processes, without gradient."""
    return mean(value) * world_size() if active() else value.detach()


def join(value: Tensor) -> Tensor:
    """Return the rows of all processes [P B, ...], in order of rank, with gradient to the own rows."""
    if not active():
        return value
    joined: Tensor = _Join.apply(value)
    return joined


class _Join(torch.autograd.Function):
    """All-gather whose backward pass sums over the processes, on any backend."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:  # noqa: ANN401 - autograd's context
        ctx.rows = len(value)
        parts = [torch.empty_like(value) for _ in range(world_size())]
        dist.all_gather(parts, value.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ANN401
        summed = gradient.contiguous().clone()
        dist.all_reduce(summed)
        return summed[rank() * ctx.rows : (rank() + 1) * ctx.rows]


def gather(value: T) -> list[T]:
    """Return the values of all processes, in order of rank, on every process."""
    if not active():
        return [value]
    values: list[T | None] = [None] * world_size()
    dist.all_gather_object(values, value)
    return cast(list[T], values)


def broadcast(value: T) -> T:
    """Return the main process's value on every process."""
    if not active():
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def share(size: int, what: str) -> int:
    """Return this process's share of `size`.

    Raises:
        ConfigError: If `size` is not divisible by the number of processes.
    """
    if size % world_size():
        raise ConfigError(
            f"{what} must be divisible by the number of processes, but {size} is not divisible by "
            f"{world_size()}."
        )
    return size // world_size()
