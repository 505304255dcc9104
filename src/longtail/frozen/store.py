"""Features on disk: a folder of memory-mapped files for each network and way of preparing images.

    <cache>/features/<key>/about.json        which weights, preparation and versions, in words
    <cache>/features/<key>/<sha256>.npy      rows of (image: SHA-256, values: float32 [D])

Rows are found by the content of an image, so a new split or a renamed class costs nothing; only new images
are computed. A file is written completely or not at all, is never changed, and is named after the checksum
of its content.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

DIGEST_BYTES = 32
FREE_AFTERWARDS = 2**30  # bytes that are left on the disk for others


class FeatureStore:
    """The features of one network, by image.

    Args:
        folder: Created when something is stored.
        about: What the features depend on, as JSON.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        self.folder, self._about = folder, about

    def read(self, images: Sequence[bytes]) -> tuple[NDArray[np.float32] | None, NDArray[np.int64]]:
        """Return the stored features of some images.

        Args:
            images: SHA-256 of each, see `longtail.frozen.keys.image_digests`.

        Returns:
            Their features, float32 [N, D], zero where unknown, or None if none are known; and the numbers of
            the unknown ones.
        """
        values: NDArray[np.float32] | None = None
        unknown = np.ones(len(images), dtype=bool)
        for rows in self._files():
            place = {image.tobytes(): number for number, image in enumerate(rows["image"])}
            found = np.array([place.get(image, -1) for image in images], dtype=np.int64)
            here = (found >= 0) & unknown
            if not here.any():
                continue
            if values is None:
                values = np.zeros((len(images), rows["values"].shape[1]), dtype=np.float32)
            values[here] = rows["values"][found[here]]
            unknown &= ~here
        return values, np.flatnonzero(unknown)

    def add(self, images: Sequence[bytes], values: NDArray[np.float32]) -> None:
        """Store the features [N, D] of some images.

        Raises:
            OSError: If the disk is full or cannot be written; no partial file is left behind.
        """
        rows = np.empty(len(images), dtype=_row(values.shape[1]))
        rows["image"] = np.frombuffer(b"".join(images), dtype=np.uint8).reshape(-1, DIGEST_BYTES)
        rows["values"] = values
        self.folder.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(self.folder).free < rows.nbytes + FREE_AFTERWARDS:
            raise OSError(f"less than {FREE_AFTERWARDS // 2**30} GiB would be left on the disk")
        about = json.dumps(self._about, indent=2).encode()
        if not (self.folder / "about.json").exists():
            self._write("about.json", lambda stream: stream.write(about))
        name = f"{_checksum(rows)}.npy"
        self._write(name, lambda stream: np.save(stream, rows, allow_pickle=False))

    def size(self) -> int:
        """Return how many bytes are stored."""
        return sum(file.stat().st_size for file in self.folder.glob("*.npy"))

    def _files(self) -> list[NDArray[Any]]:
        """Map every file, always in the same order; damaged ones are removed and computed again."""
        mapped = []
        for file in sorted(self.folder.glob("*.npy")):
            try:
                rows = np.load(file, mmap_mode="r", allow_pickle=False)
                whole = rows.dtype.names == ("image", "values") and _checksum(rows) == file.stem
            except (OSError, EOFError, ValueError):
                whole = False
            if whole:
                mapped.append(rows)
            else:
                file.unlink(missing_ok=True)
        return mapped

    def _write(self, name: str, write: Any) -> None:  # noqa: ANN401 - takes a binary stream
        temporary = self.folder / f".{name}.{os.getpid()}.tmp"
        try:
            with temporary.open("wb") as stream:
                write(stream)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(self.folder / name)
        finally:
            temporary.unlink(missing_ok=True)


def _row(width: int) -> np.dtype[Any]:
    return np.dtype([("image", np.uint8, (DIGEST_BYTES,)), ("values", "<f4", (width,))])


def _checksum(rows: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(rows).data).hexdigest()
