"""Paths as people write them."""

import os
from pathlib import Path

from longtail.core.errors import ConfigError
from longtail.core.names import printable


def expanded(path: Path | str) -> Path:
    """Return a path with its `~` put in full.

    Raises:
        ConfigError: If it begins with `~` and that home directory is not known (a user without one).
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(f"{path}: the home directory is unknown; write the full path") from None


def set_name(root: Path) -> str:
    """Return what a folder is called: its name, or that of the repository in the cache of the hub."""
    folder = root.resolve()
    if folder.parent.name == "snapshots" and "--" in folder.parent.parent.name:
        return printable(folder.parent.parent.name.rpartition("--")[2])  # datasets--owner--name
    return printable(folder.name)


def data_root() -> Path:
    """Return the folder of benchmark data: `$LONGTAIL_DATA`, else `data` in the working folder.

    Raises:
        ConfigError: If it begins with `~` and there is no home directory.
    """
    return expanded(os.environ.get("LONGTAIL_DATA") or "data")


def cache_folder() -> Path | None:
    """Return the folder for what only saves time: `$LONGTAIL_CACHE`, else `longtail` in the user's cache.

    None where `LONGTAIL_CACHE=off`, or where the home directory is not known.
    """
    named = os.environ.get("LONGTAIL_CACHE")
    if named == "off":
        return None
    try:
        if named:
            return Path(named).expanduser()
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "longtail"
    except RuntimeError:
        return None
