"""Device, precision and a record of what a run was computed on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import time
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from longtail.core.errors import ConfigError

MEMORY_FULL = (
    "The memory is full. Use a smaller batch_size, smaller pictures (image_size) or fewer runs at once "
    "(--at-once); a run that had begun is continued with --resume."
)
RECORDED = ("longtail", "torch", "torchvision", "timm", "numpy", "pandas", "pyarrow")


def find_device(name: str | None) -> torch.device:
    """Return the device called `name`, or the best there is.

    Raises:
        ConfigError: If the name is unknown or the device is not there.
    """
    if name is None:
        if torch.cuda.is_available():
            return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"Device {name!r} cannot be used ({str(error).splitlines()[0]}). "
            "Use --device cpu, or cuda where PyTorch sees a GPU."
        ) from error
    return device


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
    """Return the bytes of a GPU that nobody uses; None where the device does not say."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def is_memory_full(error: BaseException) -> bool:
    """Say whether `error` means that there was no memory left, on the host or the device."""
    full = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, full) or "DefaultCPUAllocator" in str(error)


def remark_on_load(device: torch.device) -> str | None:
    """Say so if other programs hold the cores that this one would compute with.

    The threads of a step wait for each other hundreds of times, so one that is kept from its core makes
    all of them slow.

    Args:
        device: Where the run computes.
    """
    threads, cores = torch.get_num_threads(), os.cpu_count() or 1
    if device.type != "cpu" or threads == 1:
        return None
    others = _running() - 1
    if others < 1 or others + threads <= cores:
        return None
    return (
        f"{others} other threads compute on the {cores} cores of this machine. If the run is slow, start "
        "it with OMP_NUM_THREADS=1."
    )


def _running() -> int:
    """Count the threads that compute now, this one included; 0 where the system does not say."""
    seen = []
    for _ in range(5):  # what comes and goes is no competitor
        try:
            fields = Path("/proc/loadavg").read_text(encoding="utf-8").split()
            seen.append(int(fields[3].partition("/")[0]))
        except (OSError, ValueError, IndexError):
            return 0
        time.sleep(0.01)
    return min(seen)


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
