"""`--processes`: this command line once more in several processes, under PyTorch's own launcher."""

from __future__ import annotations

import os
import sys

import torch

from longtail.core.errors import ConfigError

OPTION = "--processes"


def start_processes(number: str, device: str | None) -> None:
    """Replace this process by PyTorch's launcher, which starts the processes and ends them together.

    Returns at once in a process that it has started, and where one process is all.

    Args:
        number: How many; `auto` for one per GPU.
        device: As given.

    Raises:
        ConfigError: If the number is none.
    """
    if "WORLD_SIZE" in os.environ:
        return  # one of them
    on_gpus = device in (None, "cuda") and torch.cuda.is_available()
    if number == "auto":
        count = torch.cuda.device_count() if on_gpus else 1
    elif number.isdecimal() and int(number) >= 1:
        count = int(number)
    else:
        raise ConfigError(f"{OPTION} wants a number from 1 on, or auto, not {number!r}.")
    if on_gpus and count > torch.cuda.device_count():
        raise ConfigError(
            f"{OPTION} {count} needs {count} GPUs, but this machine has {torch.cuda.device_count()}."
        )
    if count == 1:
        return
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    sys.stdout.flush()
    os.execv(
        sys.executable,
        [
            *launcher,
            "--nproc-per-node",
            str(count),
            "-m",
            "longtail",
            *_without_option(sys.argv[1:]),
        ],
    )


def _without_option(arguments: list[str]) -> list[str]:
    """Drop `--processes N`, so that the command in the records is the same however it was started."""
    kept: list[str] = []
    following = iter(arguments)
    for argument in following:
        if argument == OPTION:
            next(following, None)
        elif not argument.startswith(f"{OPTION}="):
            kept.append(argument)
    return kept
