"""The edge between foreign files and our code: whatever a reader stumbles over becomes one sentence."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from longtail.core.errors import DataError, LongtailError
from longtail.core.names import shown

LONGEST = 200  # characters of a foreign message that are shown
LONGEST_NAME = 60


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turn every failure to read a file into a DataError that names it; its readers' warnings are silent.

    Args:
        path: The file. What is no regular file (a pipe or a device may never end) is refused.
        what: What it is read as, for example `a table`.

    Raises:
        DataError: In place of any other exception.
    """
    try:
        if not path.is_file():
            why = "it is not a regular file" if path.exists() else "there is no such file"
            raise DataError(f"{shown(str(path), LONGEST)} cannot be read as {what}: {why}.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except LongtailError:
        raise
    except Exception as error:
        raise DataError(
            f"{shown(str(path), LONGEST)} cannot be read as {what} ({brief(error)})."
        ) from error


def brief(error: BaseException) -> str:
    """Return the beginning of what an exception says, or its name if it says nothing."""
    said = " ".join(str(error).split())
    return shown(said, LONGEST) if said else type(error).__name__


def named(names: Iterable[object], most: int = 5) -> str:
    """Return names from a file as a short list for a message."""
    known = [shown(str(name), LONGEST_NAME) for name in names]
    rest = f" and {len(known) - most:,} more" if len(known) > most else ""
    return ", ".join(known[:most]) + rest
