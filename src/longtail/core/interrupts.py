"""Ctrl-C before anything has begun."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def ending_quietly() -> Iterator[None]:
    """Let Ctrl-C end the process with one sentence: for imports, of which PyTorch's takes seconds."""
    before = signal.signal(signal.SIGINT, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _leave(signum: int, frame: FrameType | None) -> None:
    # nothing has begun; half-imported modules would turn the exception into one of their own
    os.write(2, b"interrupted before anything began\n")
    os._exit(128 + signum)
