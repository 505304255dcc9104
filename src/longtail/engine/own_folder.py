"""Folders that are written into: only those that are new, empty, or of the kind that is written."""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatchcase
from pathlib import Path

from longtail.core.errors import ConfigError
from longtail.core.names import shown
from longtail.data.images.decode import IMAGE_SUFFIXES

NAMED = 3  # of what lies there, in a sentence
LOGS = ("*.log", "*.out", "*.err", "*.txt")  # a shell or a cluster opens them before we begin


def require_own_folder(folder: Path, own: Collection[str], what: str) -> None:
    """Refuse a folder that holds other files: a slip must not mix ours with somebody's images.

    Hidden files and logs may lie there.

    Args:
        folder: Missing, empty, or with earlier files of the same kind.
        own: Names of these files, as patterns of a shell.
        what: Is to be written, in the plural: `Runs`.

    Raises:
        ConfigError: In words, if it holds anything else or cannot be looked into.
    """
    try:
        content = sorted(folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise ConfigError(f"{folder} cannot be read ({error.strerror or error}).") from error
    patterns = (".*", *LOGS, *own)
    others = [e.name for e in content if not any(fnmatchcase(e.name, p) for p in patterns)]
    if not others:
        return
    named = ", ".join(map(shown, others[:NAMED]))
    more = f" and {len(others) - NAMED:,} more" if len(others) > NAMED else ""
    raise ConfigError(
        f"{shown(str(folder))} already contains other files or folders: {named}{more}. {what} are written "
        "only into a new or empty folder: choose another with --out."
    )


def why_no_run(path: Path) -> str:
    """Say what lies where a run was expected, and what to name instead.

    Args:
        path: A file, or a folder without `config.yaml`.
    """
    if not path.is_dir():
        return "it is a file."
    runs = sorted(file.parent for file in path.glob("*/config.yaml"))
    if runs:
        return f"it contains several; name one, for example {shown(str(runs[0]))}."
    if any(file.suffix.lower() in IMAGE_SUFFIXES for file in path.glob("*/*")):
        return "it contains images. Run folders are written by longtail train."
    return "it has no config.yaml."
