"""Files below one folder, by their names in a manifest."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from longtail.core.names import from_printable

# what a Path would change: an absolute path, an empty or a dotted part, a written-out byte, Windows
UNUSUAL = re.compile(r"(^|/)\.?(/|$)|\\|:")


@dataclass(frozen=True)
class FilesBelow(Sequence[Path]):
    """The files of some names, each path made when it is asked for: it takes five times its text.

    Attributes:
        root: A folder.
        names: Relative to it, see `longtail.core.names.printable`.
    """

    root: Path
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, row: int) -> Path: ...
    @overload
    def __getitem__(self, row: slice) -> FilesBelow: ...
    def __getitem__(self, row: int | slice) -> Path | FilesBelow:
        if isinstance(row, slice):
            return FilesBelow(self.root, self.names[row])
        return located(self.root, self.names[row])

    def texts(self) -> Iterator[str]:
        """Yield the absolute paths as text, of plain names without making a Path."""
        base = self.root.absolute()
        start = os.path.join(base, "")  # noqa: PTH118 - ends with one separator, below / too
        for name in self.names:
            yield str(located(base, name)) if UNUSUAL.search(name) else start + name

    def take(self, rows: NDArray[np.int64]) -> FilesBelow:
        """Return the files at `rows`."""
        return FilesBelow(self.root, tuple(self.names[row] for row in rows.tolist()))


def located(root: Path, path: str) -> Path:
    """Return the file of a path in a manifest, whose name may not be UTF-8."""
    file = root / path
    if "\\x" in path and not os.path.lexists(file):
        raw = root / from_printable(path)
        return raw if os.path.lexists(raw) else file
    return file
