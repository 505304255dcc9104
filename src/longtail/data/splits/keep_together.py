"""Which images stay in one split: those of one burst, animal, patient or camera."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from longtail.core.errors import DataError
from longtail.core.manifest import Manifest
from longtail.core.names import printable, shown
from longtail.data.sources.table_files import open_table


def together_by_pattern(manifest: Manifest, pattern: str) -> NDArray[np.int64]:
    """Return a number for every image, int64 [N]: equal where `pattern` finds the same in the path.

    Args:
        manifest: With paths.
        pattern: Regular expression; what its first group matches counts, without a group the whole match.
            Images in which nothing is found stand alone.

    Raises:
        DataError: If nothing is found in any path.
    """
    found = [re.search(pattern, path) for path in manifest.paths]
    names = [match and (match[1] if match.re.groups else match[0]) for match in found]
    if not any(names):
        raise DataError(
            f"data.keep_together={pattern!r} matches nothing in any path, for example "
            f"{shown(manifest.paths[0])!r}."
        )
    return numbered(names)


def together_by_column(manifest: Manifest, table: Path, column: str) -> NDArray[np.int64]:
    """Return a number for every image, int64 [N]: equal where a column of the table holds the same.

    Args:
        manifest: Of `read_table(table)`, or a part of it.
        table: CSV or Parquet.
        column: Its name. Images whose cell is empty stand alone.

    Raises:
        DataError: If there is no such column, or it is empty.
    """
    content = open_table(table)
    place, paths = content.find(column), content.find("path")
    if place is None or paths is None:
        raise DataError(
            f"data.keep_together={column!r} is not a column of {table}. It has: {content.columns()}."
        )
    value = dict(zip(map(_as_written, content.column(paths)), content.column(place), strict=True))
    names = [value[_as_written(path)] for path in manifest.paths]
    if not any(names):
        raise DataError(f"{table}: every cell of the column {column} is empty.")
    return numbered(names)


def _as_written(path: str) -> str:
    """Return a key of a path in a table that its path on the disk has too, see `find_listed`."""
    return unicodedata.normalize("NFC", printable(path))


def require_whole(manifest: Manifest, together: NDArray[np.int64]) -> None:
    """Refuse a split that was given and parts images that must stay together.

    Raises:
        DataError: With an example.
    """
    order = np.lexsort((manifest.splits, together))
    units, splits = together[order], manifest.splits[order]
    (parted,) = np.nonzero((units[1:] == units[:-1]) & (splits[1:] != splits[:-1]))
    if parted.size:
        one, other = (manifest.paths[order[row]] for row in (parted[0], parted[0] + 1))
        raise DataError(
            f"data.keep_together is set, but the existing split of {manifest.name} divides "
            f"{len(np.unique(units[parted]))} of the units, for example {shown(one)} and "
            f"{shown(other)}. Correct the split, or remove it to have one drawn."
        )


def describe_together(together: NDArray[np.int64]) -> str:
    """Return a sentence for people, by which they see whether what they asked for was found."""
    _, sizes = np.unique(together, return_counts=True)
    return (
        f"Images that stay together: {len(sizes):,} units of {len(together):,} images; the largest "
        f"has {sizes.max():,}, and {int((sizes == 1).sum()):,} have only one."
    )


def cells_as_text(column: pd.Series[Any]) -> list[str]:
    """Return the cells of a column of any type as text without spaces around it; empty where none is."""
    return column.astype(object).where(column.notna(), "").astype(str).str.strip().tolist()


def numbered(names: Sequence[str | None]) -> NDArray[np.int64]:
    """Return a number for every name, int64 [N]; what has none (or an empty one) gets a number of its own."""
    # a key of two parts, so that no name can be that of an image that stands alone
    keys = [("", name) if name else (str(row), "") for row, name in enumerate(names)]
    number: dict[tuple[str, str], int] = {key: n for n, key in enumerate(sorted(set(keys)))}
    return np.array([number[key] for key in keys], dtype=np.int64)
