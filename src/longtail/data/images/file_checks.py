"""What is known of an image file before a training meets it: damaged or not, its size, its digest."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path

import numpy as np

from longtail.core.names import printable
from longtail.core.paths import cache_folder
from longtail.data.images.below import FilesBelow
from longtail.data.images.colour_modes import PLAIN, Facts
from longtail.data.images.decode import BadImageError, ImageFile
from longtail.data.images.perceptual_hash import perceptual_hash

UNKNOWN = ("",) * 8  # in place of a row without its path
ASKED_AT_ONCE = 500  # SQLite took 999 values once
EVEN = 3  # difference of pixels that an image of one colour may have (compression)


@dataclass(frozen=True, slots=True)
class Checked:
    """What is known of one file.

    Attributes:
        reason: What is wrong with it; empty if it is an image.
        width: In pixels, 0 if it cannot be read.
        height: Likewise.
        digest: SHA-256 of the file's bytes.
        facts: What the file holds besides the image.
        even: Whether the image has one colour everywhere, to 3 of 255.
        pixels: SHA-256 of its size and its pixels as they are decoded, equal for an image that was saved
            again in another format without loss.
        hash: See `perceptual_hash`; empty where it has none.
    """

    reason: str
    width: int
    height: int
    digest: str
    facts: Facts = PLAIN
    even: bool = False
    pixels: str = ""
    hash: str = ""


def check_images(
    files: Sequence[Path],
    *,
    workers: int = 4,
    bit_depth: int | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Checked]:
    """Decode every file once and say what is wrong with it.

    Results are remembered by path, size and time of change in the user's cache folder, so a second
    run decodes only what has changed.

    Args:
        files: Paths, in any number.
        workers: Threads.
        bit_depth: As of `ImageFile`.
        progress: Called with the number of files done.
    """
    memory = _Memory(bit_depth)
    results = memory.recall(files)
    todo = [row for row, known in enumerate(results) if known is None]
    progress(len(files) - len(todo))
    check = partial(_check, bit_depth=bit_depth)
    with ThreadPoolExecutor(workers) as pool:
        fresh = []
        for row, found in zip(todo, pool.map(check, (files[row] for row in todo)), strict=True):
            results[row] = found
            fresh.append((files[row], found))
            if len(fresh) % 500 == 0:
                progress(len(files) - len(todo) + len(fresh))
    memory.remember(fresh)
    progress(len(files))
    return [found for found in results if found is not None]


def typical_side(checked: Iterable[Checked]) -> int:
    """Return the median of the shorter sides of the readable images, in pixels."""
    sides = [min(found.width, found.height) for found in checked if not found.reason]
    return int(np.median(sides)) if sides else 0


def _check(path: Path, bit_depth: int | None) -> Checked:
    try:
        image = ImageFile(path, bit_depth=bit_depth)
        with image.held():
            pixels, facts = image.decode()
            even = bool((pixels.amax((1, 2)) - pixels.amin((1, 2))).max() <= EVEN)
            digest = hashlib.sha256(image.content).hexdigest()
            shown = hashlib.sha256(str(tuple(pixels.shape)).encode())
            shown.update(pixels.permute(1, 2, 0).reshape(-1).numpy().data)
            coarse = perceptual_hash(pixels)
    except BadImageError as error:
        return Checked(error.reason, 0, 0, "")
    return Checked("", image.width, image.height, digest, facts, even, shown.hexdigest(), coarse)


class _Memory:
    """Earlier results in a small data base; works without one if the folder is not writable."""

    def __init__(self, bit_depth: int | None) -> None:
        self._bit_depth = bit_depth
        self._file = Path(os.devnull)
        cache = cache_folder()
        if cache is None:
            return
        try:
            cache.mkdir(parents=True, exist_ok=True)
            self._file = cache / "images.sqlite"
            with self._open() as store:
                store.execute(
                    "CREATE TABLE IF NOT EXISTS images_4 (path TEXT PRIMARY KEY, stamp TEXT, "
                    "reason TEXT, width INTEGER, height INTEGER, digest TEXT, "
                    "pixels TEXT, facts TEXT, hash TEXT)"
                )
        except (OSError, sqlite3.Error):
            self._file = Path(os.devnull)

    def recall(self, files: Sequence[Path]) -> list[Checked | None]:
        found: list[Checked | None] = []
        paths = (
            files.texts() if isinstance(files, FilesBelow) else (str(f.absolute()) for f in files)
        )
        try:
            with self._open() as store:
                # only these: the memory may hold millions of other files
                while some := list(islice(paths, ASKED_AT_ONCE)):
                    found += self._recall(store, some)
        except (sqlite3.Error, ValueError, TypeError):
            return [None] * len(files)
        return found

    def _recall(self, store: sqlite3.Connection, paths: Sequence[str]) -> Iterator[Checked | None]:
        keys = [_key(path) for path in paths]
        marks = ", ".join("?" * len(keys))
        rows = store.execute(f"SELECT * FROM images_4 WHERE path IN ({marks})", keys)
        known = {path: others for path, *others in rows}
        for path, key in zip(paths, keys, strict=True):
            stamp, reason, width, height, digest, pixels, facts, coarse = known.get(key, UNKNOWN)
            if stamp and stamp == self._stamp(path):
                facts_and_even = _read_facts(facts)
                yield Checked(reason, width, height, digest, *facts_and_even, pixels, coarse)
            else:
                yield None

    def remember(self, fresh: Sequence[tuple[Path, Checked]]) -> None:
        rows = [
            (
                _key(str(file.absolute())), self._stamp(file),
                c.reason, c.width, c.height, c.digest, c.pixels,
                json.dumps([c.even, *astuple(c.facts)]), c.hash,
            )
            for file, c in fresh
            if not c.reason  # a damaged file is looked at again: it may be a mount that was away
        ]  # fmt: skip
        try:
            with self._open() as store:
                store.executemany(
                    "INSERT OR REPLACE INTO images_4 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows
                )
        except sqlite3.Error:
            return  # the cache only saves time

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._file, timeout=10)) as store, store:
            yield store

    def _stamp(self, file: Path | str) -> str:
        try:
            state = os.stat(file)  # noqa: PTH116 - half a million paths are texts
        except OSError:
            return "absent"
        return f"{state.st_size}:{state.st_mtime_ns}:{self._bit_depth}"


@lru_cache(maxsize=256)  # most files of a set have the same ones
def _read_facts(text: str) -> tuple[Facts, bool]:
    even, *others = json.loads(text)
    facts = Facts(*others)
    return PLAIN if facts == PLAIN else facts, even


def _key(path: str) -> str | bytes:
    """Return an absolute path, as bytes where it is no UTF-8, which SQLite does not take as text."""
    return path if printable(path) == path else os.fsencode(path)
