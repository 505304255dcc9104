"""Ranks and gathering. Without a process group every function is the identity."""

from __future__ import annotations

import os
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from longtail.core.errors import ConfigError, TrainingError

HOW_TO_START = "Start several processes with: longtail train ... --processes 2"
LOST = "Another process of this training ended; its own message gives the reason."
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
    """Join the process group that `torchrun` or `srun` describes in the environment, if one does.

    Each process owns its GPU from here on, and Python objects travel over gloo, so that no process touches
    the GPU of another.

    Raises:
        ConfigError: If the description is not complete or makes no sense.
        TrainingError: If the processes do not find each other.
    """
    if active() or not _described():
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    except (RuntimeError, ValueError, OSError) as error:  # torch's own errors are RuntimeErrors
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise TrainingError(
            f"The {os.environ['WORLD_SIZE']} processes could not connect at {place} "
            f"({str(error).splitlines()[0]}). {HOW_TO_START}"
        ) from error


def local_rank() -> int:
    """Return the number of this process on its machine, from 0, as `torchrun` or `srun` says it."""
    own = "LOCAL_RANK" if "WORLD_SIZE" in os.environ else "SLURM_LOCALID"
    return _number(own, "0") if own == "LOCAL_RANK" or _slurm_tasks() > 1 else 0


def _slurm_tasks() -> int:
    """Return the number of copies that `srun` started, 1 without it."""
    return _number("SLURM_STEP_NUM_TASKS", "1")


def _read_slurm() -> None:
    """Write what `srun` says of its copies as `torchrun` would: apart, they would write into one folder.

    Raises:
        ConfigError: If they are on several machines and nothing says where they meet.
    """
    if "WORLD_SIZE" in os.environ or _slurm_tasks() == 1:
        return
    meeting = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(20_000 + _number("SLURM_JOB_ID", "0") % 10_000),
    }
    if missing := [name for name in meeting if not os.environ.get(name)]:
        if _number("SLURM_STEP_NUM_NODES", "1") > 1:
            raise ConfigError(
                f"srun started {_slurm_tasks()} copies on several machines, which cannot meet without "
                f"{' and '.join(missing)}. Put this before srun: export "
                'MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1) MASTER_PORT=29500'
            )
        os.environ.update({name: meeting[name] for name in missing})
    os.environ |= {
        "WORLD_SIZE": str(_slurm_tasks()),
        "RANK": str(_number("SLURM_PROCID")),
        "LOCAL_RANK": str(_number("SLURM_LOCALID", "0")),
    }


def _described() -> bool:
    """Say whether the environment describes several processes.

    Raises:
        ConfigError: If it begins to, and does not.
    """
    _read_slurm()
    size = _number("WORLD_SIZE", "1")
    if size == 1:
        return False
    missing = [n for n in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(n)]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE={size} is set, but not {', '.join(missing)}. {HOW_TO_START} For one "
            "process, unset WORLD_SIZE."
        )
    rank, port = _number("RANK"), _number("MASTER_PORT")
    if size < 1 or not 0 <= rank < size or not 0 < port < 2**16:
        raise ConfigError(
            f"WORLD_SIZE={size}, RANK={rank} and MASTER_PORT={port} are not valid together. {HOW_TO_START}"
        )
    return True


def _number(name: str, default: str = "") -> int:
    text = os.environ.get(name) or default
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"{name}={text} is not a whole number. {HOW_TO_START}") from None


def is_lost(error: BaseException) -> bool:
    """Say whether `error` means that another process of the group ended."""
    text = str(error)
    return active() and (
        isinstance(error, dist.DistError)
        or any(word in text for word in ("gloo", "Connection closed by peer", "NCCL"))
    )


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
