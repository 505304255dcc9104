"""What lies beside a path that does not exist and has nearly its name."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from pathlib import Path


def similar_paths(path: Path, suffixes: Collection[str] | None = ()) -> list[str]:
    """Return up to two folders, with a slash, or files beside `path` whose names are nearest.

    Args:
        path: As somebody wrote it; nothing needs to lie there.
        suffixes: Endings of files, in lower case; None for any file.
    """
    try:
        beside = list(path.parent.iterdir())
        names = {
            each.name: f"{each}/" if each.is_dir() else str(each)
            for each in beside
            if each.is_dir() or suffixes is None or each.suffix.lower() in suffixes
        }
    except (OSError, ValueError):
        return []
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.75)
    # "My Photos" is short for "My Photos (2024)"
    longer = [n for n in names if path.name and n.lower().startswith(path.name.lower())]
    return [names[name] for name in near or longer[:2]]


def did_you_mean(path: Path, suffixes: Collection[str] | None = ()) -> str:
    """Return ` Did you mean runs/first/?`, or nothing; see `similar_paths`."""
    near = similar_paths(path, suffixes)
    return f" Did you mean {', '.join(near)}?" if near else ""
