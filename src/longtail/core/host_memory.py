"""Memory of the host that one step frees is kept for the next one.

glibc returns large blocks to the system as soon as they are free, and the system clears each of their pages
when the next step asks for them again. On a CPU a training step of ResNet-32 meets 27,000 new pages that way.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

# parameters of mallopt, as <malloc.h> numbers them
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
NEVER = -1  # trim
MAPPED = 1 << 30  # bytes from which a block goes back to the system at once
MAPPED_AT_MOST = 32 << 20  # in glibc before 2.35


@contextmanager
def keeping_freed_memory(device: torch.device) -> Iterator[None]:
    """Keep freed memory inside the block, and return it to the system behind it.

    Only on a CPU with glibc; blocks of 1 GB and more are returned at once. Whoever has set the allocator by
    the environment (`MALLOC_*`, `GLIBC_TUNABLES`, `LD_PRELOAD`) keeps it. Blocks may be nested.

    Args:
        device: That the block computes on.
    """
    libc = _glibc() if device.type == "cpu" and not _is_set(os.environ) else None
    if libc is None:
        yield
        return
    libc.mallopt(M_TRIM_THRESHOLD, NEVER)
    if not libc.mallopt(M_MMAP_THRESHOLD, MAPPED):
        libc.mallopt(M_MMAP_THRESHOLD, MAPPED_AT_MOST)
    try:
        yield
    finally:
        libc.malloc_trim(0)


def _is_set(environment: Mapping[str, str]) -> bool:
    """Say whether the user has chosen an allocator, or set it."""
    preloaded = environment.get("LD_PRELOAD", "")
    own = any(name.startswith("MALLOC_") for name in environment)
    return own or "malloc" in environment.get("GLIBC_TUNABLES", "") or "malloc" in preloaded


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None
