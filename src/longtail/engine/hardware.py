"""Device, precision and a record of what a run was computed on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from longtail.core import distributed
from longtail.core.errors import ConfigError

MEMORY_FULL = (
    "Out of memory. Use a smaller batch_size, smaller images (image_size) or fewer parallel "
    "runs (--parallel). To continue a run that had already started, use --resume."
)
RECORDED = ("longtail", "torch", "torchvision", "timm", "numpy", "pandas", "pyarrow")


def find_device(name: str | None) -> torch.device:
    """Return the device called `name`, or the best there is; `cuda` is the GPU of this process.

    Raises:
        ConfigError: If the name is unknown or the device is not there.
    """
    if name is None and not torch.cuda.is_available():
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if name is not None and name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(
            f"Device {name!r} cannot be used: PyTorch sees no GPU here. Leave out --device."
        )
    own = name in (None, "cuda") and torch.cuda.is_available()
    try:
        device = torch.device("cuda", own_gpu()) if own else torch.device(str(name))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"Device {name!r} cannot be used ({str(error).splitlines()[0]}). "
            "Use --device cpu, or cuda where PyTorch sees a GPU."
        ) from error
    return device


def own_gpu() -> int:
    """Return the index of the GPU of this process: several processes of a machine have one each.

    Raises:
        ConfigError: If the machine has fewer GPUs than processes.
    """
    index, gpus = distributed.local_rank(), torch.cuda.device_count()
    if 0 < gpus <= index:
        raise ConfigError(
            f"Process {index} of this machine has no GPU of its own: there {'is' if gpus == 1 else 'are'} "
            f"{gpus}. Start as many processes as GPUs, or train with --device cpu."
        )
    return index


@lru_cache
def computes_in_bf16(kind: str) -> bool:
    """Say whether devices of `kind` multiply matrices in bfloat16 natively."""
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if kind == "cpu":
        try:
            flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        except OSError:
            return False
        return "avx512_bf16" in flags or "amx_bf16" in flags
    return False


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return `bf16` or `fp32` for a configured precision."""
    if precision != "auto":
        return precision
    return "bf16" if computes_in_bf16(device.type) else "fp32"


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Return the context in which a step is computed."""
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def free_memory(device: torch.device) -> int | None:
    """Return the bytes of a GPU, or of the host of a CPU, that nobody uses; None where none says."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        found = next(line for line in lines if line.startswith("MemAvailable:"))
        return int(found.split()[1]) * 1024
    except (OSError, StopIteration, ValueError):
        return None


def is_memory_full(error: BaseException) -> bool:
    """Say whether `error` means that there was no memory left, on the host or the device."""
    full = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, full) or "DefaultCPUAllocator" in str(error)


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Return versions, hardware and commit, for `environment.json` and every record."""
    versions = {}
    for name in RECORDED:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "versions": versions,
        "hardware": _hardware(device),
        "commit": _commit(),
    }


def _hardware(device: torch.device) -> dict[str, Any]:
    found: dict[str, Any] = {
        "device": str(device),
        "cpu": _cpu_name(),
        "cpu_cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "auto_precision": resolve_precision("auto", device),  # what `precision: auto` means here
    }
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _commit() -> str | None:
    """Return the commit of the checkout that this package runs from, if it runs from one."""
    package = Path(__file__).parent.parent
    if "site-packages" in package.parts:
        return None
    try:
        git = ["git", "-C", str(package)]
        head = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--", "."], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + (" with uncommitted changes" if changed.stdout.strip() else "")
