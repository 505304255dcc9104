"""Pictures decoded once into a memory-mapped file: later epochs and runs only cut and resize.

    <cache>/<key>.uint8    all pictures, one after the other, each [3, H, W]
    <cache>/<key>.npy      int64 [N, 3]: where each begins, its height and width; written last

The key covers the path, size and time of change of every file, so a changed data set makes a new file.
Shorter sides are reduced to 256/224 of the network's input: test pictures are what they are without the
cache; random parts are cut from the smaller picture.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from longtail.core.errors import DataError
from longtail.data.decode import (
    fitted,
    random_resized_crop,
    read_fitted,
    read_size,
    to_square,
)
from longtail.data.pictures import FilePictures, view_margin


@dataclass(frozen=True)
class DecodedPictures:
    """Pictures in a memory-mapped file.

    Attributes:
        pixels: uint8, all pictures one after the other.
        index: int64 [N, 3]: start, height, width.
        size: Side of the square that the network sees.
    """

    pixels: NDArray[np.uint8]
    index: NDArray[np.int64]
    size: int

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.index)

    def take(self, rows: NDArray[np.int64]) -> DecodedPictures:
        """Return the pictures at `rows`."""
        return DecodedPictures(self.pixels, self.index[rows], self.size)

    def decode(self, row: int) -> NDArray[np.uint8]:
        """Return the centre of picture `row`, uint8 [3, size, size]."""
        return to_square(self._whole(row), self.size, margin=view_margin(self.size))

    def decode_crop(
        self, row: int, generator: np.random.Generator, area: tuple[float, float]
    ) -> NDArray[np.uint8]:
        """Return a random resized part of `area` share of picture `row`, uint8 [3, size, size]."""
        return random_resized_crop(self._whole(row), self.size, generator, area=area)

    def _whole(self, row: int) -> Tensor:
        start, height, width = self.index[row].tolist()
        flat = self.pixels[start : start + 3 * height * width]
        return torch.from_numpy(flat).view(3, height, width)


def open_decoded(
    files: FilePictures,
    folder: Path,
    *,
    workers: int = 4,
    progress: Callable[[int], None] = lambda done: None,
) -> DecodedPictures:
    """Map the decoded pictures of `files`; decode them first if that was not done yet.

    Args:
        files: Readable pictures.
        folder: Of the cache; made if needed.
        workers: Decoding threads.
        progress: Called with the number of decoded pictures.

    Raises:
        DataError: In words, if the folder cannot be written or the disk is too small.
    """
    stem = folder.expanduser() / _key(files)
    pixels, index = stem.with_suffix(".uint8"), stem.with_suffix(".npy")
    if not index.exists():
        try:
            folder.expanduser().mkdir(parents=True, exist_ok=True)
            _write(files, pixels, index, workers, progress)
        except OSError as error:
            raise DataError(
                f"The cache {folder} cannot be written ({error.strerror or error}); choose another "
                "folder with data.cache=DIR, or leave the option out."
            ) from error
    places: NDArray[np.int64] = np.load(index)
    # copy-on-write: torch wants to be allowed to write, and the file must not change
    mapped: NDArray[np.uint8] = np.memmap(pixels, dtype=np.uint8, mode="c")
    expected = int(places[-1, 0] + 3 * places[-1, 1:].prod())
    if len(places) != len(files) or expected != len(mapped):
        raise DataError(f"{pixels} is damaged; remove it and start again.")
    return DecodedPictures(mapped, places, files.size)


def _write(
    files: FilePictures, pixels: Path, index: Path, workers: int, progress: Callable[[int], None]
) -> None:
    side = round(files.size * view_margin(files.size))
    with ThreadPoolExecutor(workers) as pool:
        shapes = np.array(list(pool.map(lambda p: fitted(*read_size(p), side), files.paths)))
        sizes = 3 * shapes.prod(axis=1)
        starts = np.concatenate([[0], sizes.cumsum()])
        temporary = pixels.with_suffix(f".{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as stream:
                _reserve(stream.fileno(), int(starts[-1]))
            mapped = np.memmap(temporary, dtype=np.uint8, mode="r+")

            def put(row: int) -> None:
                mapped[starts[row] : starts[row + 1]] = read_fitted(files.paths[row], side).ravel()

            for done, _ in enumerate(pool.map(put, range(len(files.paths))), start=1):
                progress(done)
            mapped.flush()
            temporary.replace(pixels)
        finally:
            temporary.unlink(missing_ok=True)
    # width comes first in a picture's size, height in its pixels
    places = np.column_stack([starts[:-1], shapes[:, 1], shapes[:, 0]]).astype(np.int64)
    unfinished = index.with_suffix(f".{os.getpid()}.tmp")
    with unfinished.open("wb") as stream:
        np.save(stream, places)
    unfinished.replace(index)


def _reserve(descriptor: int, size: int) -> None:
    """Take the space now: a mapped file on a full disk ends the process without a word."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.truncate(descriptor, size)


def _key(files: FilePictures) -> str:
    digest = hashlib.sha256(f"1 {files.size}".encode())
    for path in files.paths:
        found = path.stat()
        digest.update(f"{path.resolve()} {found.st_size} {found.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:24]
