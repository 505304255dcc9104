"""Ctrl-C before anything has begun, and during work that can be continued."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
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


class InterruptedWork(KeyboardInterrupt):
    """Ctrl-C during work that is continued in a folder.

    Args:
        folder: Where.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder = folder


@contextmanager
def continued_in(folder: Path) -> Iterator[None]:
    """Let Ctrl-C say in which folder the work of this block is continued."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise InterruptedWork(folder) from error


def folder_to_continue(error: BaseException | None) -> Path | None:
    """Return what `continued_in` named before `error` was raised; None if nothing was."""
    while error is not None:
        if isinstance(error, InterruptedWork):
            return error.folder
        error = error.__cause__ or error.__context__
    return None
