"""What lies at a path: a file that may be opened, or something that would block or never end."""

from __future__ import annotations

import stat
from pathlib import Path

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def kind_of(path: Path) -> str:
    """Return `a pipe`, `a socket`, `a device`, `a folder`; empty for a regular file. Links are followed.

    Opening a pipe waits for ever, and a device may have no end (`/dev/zero`), so ask before opening.

    Raises:
        OSError: If there is nothing at the path, or it may not be looked at.
    """
    mode = path.stat().st_mode
    if stat.S_ISREG(mode):
        return ""
    return next((name for is_kind, name in _KINDS if is_kind(mode)), "no regular file")
