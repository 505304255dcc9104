"""Find damaged and repeated pictures before a training meets them."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from longtail.core.errors import DataError
from longtail.core.manifest import Manifest
from longtail.data.decode import BadPictureError, PictureFile
from longtail.data.files import FileSet

OnBadPicture = Literal["error", "skip"]
LISTED = 10  # damaged files that a message names


@dataclass(frozen=True)
class Checked:
    """What is known of one file.

    Attributes:
        reason: What is wrong with it; empty if it is a picture.
        width: In pixels, 0 if it cannot be read.
        height: Likewise.
        digest: SHA-256 of the file's bytes.
    """

    reason: str
    width: int
    height: int
    digest: str


def check_pictures(
    files: Sequence[Path],
    *,
    workers: int = 4,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Checked]:
    """Decode every file once and say what is wrong with it.

    Results are remembered by path, size and time of change in the user's cache folder, so a second
    run decodes only what has changed.

    Args:
        files: Paths, in any number.
        workers: Threads.
        progress: Called with the number of files done.
    """
    memory = _Memory()
    results = memory.recall(files)
    todo = [row for row, known in enumerate(results) if known is None]
    progress(len(files) - len(todo))
    with ThreadPoolExecutor(workers) as pool:
        fresh = []
        for row, found in zip(todo, pool.map(_check, (files[row] for row in todo)), strict=True):
            results[row] = found
            fresh.append((files[row], found))
            if len(fresh) % 500 == 0:
                progress(len(files) - len(todo) + len(fresh))
    memory.remember(fresh)
    progress(len(files))
    return [found for found in results if found is not None]


def without_bad_pictures(
    file_set: FileSet, checked: Sequence[Checked], on_bad_picture: OnBadPicture
) -> tuple[FileSet, tuple[tuple[str, str], ...]]:
    """Leave damaged pictures out, or refuse them all at once.

    Returns:
        The readable pictures, and (path, reason) of each one left out.

    Raises:
        DataError: If `on_bad_picture` is `error` and a file is damaged, or nothing is left of a
            class.
    """
    paths = file_set.manifest.paths
    bad = tuple((path, c.reason) for path, c in zip(paths, checked, strict=True) if c.reason)
    if not bad:
        return file_set, ()
    if on_bad_picture == "error":
        lines = "\n".join(f"  {file_set.root / path}: {reason}" for path, reason in bad[:LISTED])
        more = f"\n  ... and {len(bad) - LISTED} more" if len(bad) > LISTED else ""
        raise DataError(
            f"{len(bad)} of {len(paths)} pictures cannot be read:\n{lines}{more}\n"
            "Repair or remove them, or leave them out with --on-bad-picture skip."
        )
    good = np.array([row for row, c in enumerate(checked) if not c.reason], dtype=np.int64)
    kept = file_set.manifest.take(good)
    kept.class_counts()  # names the classes that lost their last picture
    return replace(file_set, manifest=kept), bad


def repeated_pictures(manifest: Manifest, checked: Sequence[Checked]) -> list[list[int]]:
    """Return groups of rows whose files are equal byte for byte, largest group first."""
    by_digest: dict[str, list[int]] = {}
    for row, found in enumerate(checked):
        if not found.reason:
            by_digest.setdefault(found.digest, []).append(row)
    return sorted((rows for rows in by_digest.values() if len(rows) > 1), key=len, reverse=True)


def typical_side(checked: Iterable[Checked]) -> int:
    """Return the median of the shorter sides of the readable pictures, in pixels."""
    sides = [min(found.width, found.height) for found in checked if not found.reason]
    return int(np.median(sides)) if sides else 0


def _check(path: Path) -> Checked:
    try:
        picture = PictureFile(path)
        picture.pixels()
    except BadPictureError as error:
        return Checked(error.reason, 0, 0, "")
    digest = hashlib.sha256(picture.content).hexdigest()
    return Checked("", picture.width, picture.height, digest)


class _Memory:
    """Earlier results in a small data base; works without one if the folder is not writable."""

    def __init__(self) -> None:
        cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "longtail"
        try:
            cache.mkdir(parents=True, exist_ok=True)
            self._file = cache / "pictures.sqlite"
            with self._open() as store:
                store.execute(
                    "CREATE TABLE IF NOT EXISTS checked (path TEXT PRIMARY KEY, stamp TEXT, "
                    "reason TEXT, width INTEGER, height INTEGER, digest TEXT)"
                )
        except (OSError, sqlite3.Error):
            self._file = Path(os.devnull)

    def recall(self, files: Sequence[Path]) -> list[Checked | None]:
        known: dict[str, tuple[str, Checked]] = {}
        try:
            with self._open() as store:
                for path, stamp, *rest in store.execute("SELECT * FROM checked"):
                    known[path] = (stamp, Checked(*rest))
        except sqlite3.Error:
            return [None] * len(files)
        found: list[Checked | None] = []
        for file in files:
            stamp, checked = known.get(str(file.absolute()), ("", None))
            found.append(checked if checked and stamp == _stamp(file) else None)
        return found

    def remember(self, fresh: Sequence[tuple[Path, Checked]]) -> None:
        rows = [
            (str(file.absolute()), _stamp(file), c.reason, c.width, c.height, c.digest)
            for file, c in fresh
            if not c.reason  # a damaged file is looked at again: it may be a mount that was away
        ]
        try:
            with self._open() as store:
                store.executemany("INSERT OR REPLACE INTO checked VALUES (?, ?, ?, ?, ?, ?)", rows)
        except sqlite3.Error:
            return  # the cache only saves time

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._file, timeout=10)) as store, store:
            yield store


def _stamp(file: Path) -> str:
    try:
        state = file.stat()
    except OSError:
        return "absent"
    return f"{state.st_size}:{state.st_mtime_ns}"
