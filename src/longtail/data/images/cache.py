"""Images decoded once into a memory-mapped file: later epochs and runs only cut and resize.

    <cache>/<key>.uint8    all images, one after the other, each [3, H, W]
    <cache>/<key>.npy      int64 [N, 3]: where each begins, its height and width; written last

The key covers the path, size and time of change of every file, so a changed data set makes a new file.
Shorter sides are reduced to 256/224 of the network's input: test images that are cut (`fit` crop) are what
they are without the cache, those that are padded or squashed are resized twice; random parts are cut from the
smaller image.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from longtail.core.errors import DataError
from longtail.data.images.decode import read_fitted, read_size
from longtail.data.images.resize import Fit, fitted, random_resized_crop, to_view, view_margin
from longtail.data.images.storage import FileImages


@dataclass(frozen=True)
class DecodedImages:
    """Images in a memory-mapped file.

    Attributes:
        pixels: uint8, all images one after the other.
        index: int64 [N, 3]: start, height, width.
        size: Side of the square that the network sees.
        fit: How an image that is no square becomes one.
    """

    pixels: NDArray[np.uint8]
    index: NDArray[np.int64]
    size: int
    fit: Fit = "crop"

    def __len__(self) -> int:
        """Number of images."""
        return len(self.index)

    def take(self, rows: NDArray[np.int64]) -> DecodedImages:
        """Return the images at `rows`."""
        return replace(self, index=self.index[rows])

    def decode(self, row: int) -> NDArray[np.uint8]:
        """Return the test view of image `row`, uint8 [3, size, size]."""
        return to_view(self._whole(row), self.size, self.fit)

    def decode_crop(
        self, row: int, generator: np.random.Generator, area: tuple[float, float]
    ) -> NDArray[np.uint8]:
        """Return a random resized part of `area` share of image `row`, uint8 [3, size, size]."""
        return random_resized_crop(self._whole(row), self.size, generator, area=area, fit=self.fit)

    def _whole(self, row: int) -> Tensor:
        start, height, width = self.index[row].tolist()
        flat = self.pixels[start : start + 3 * height * width]
        return torch.from_numpy(flat).view(3, height, width)


def open_decoded(
    files: FileImages,
    folder: Path,
    *,
    workers: int = 4,
    progress: Callable[[int], None] = lambda done: None,
) -> DecodedImages:
    """Map the decoded images of `files`; decode them first if that was not done yet.

    Args:
        files: Readable images.
        folder: Of the cache; made if needed.
        workers: Decoding threads.
        progress: Called with the number of decoded images.

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
                f"The cache {folder} cannot be written ({error.strerror or error}); choose another folder "
                "with data.cache=DIR, or leave out the option."
            ) from error
    try:
        places: NDArray[np.int64] = np.load(index)
        # copy-on-write: torch wants to be allowed to write, and the file must not change
        mapped: NDArray[np.uint8] = np.memmap(pixels, dtype=np.uint8, mode="c")
        ends = places[:, 0] + 3 * places[:, 1:].prod(axis=1)
        whole = np.array_equal(ends, np.append(places[1:, 0], len(mapped)))
    except (OSError, EOFError, ValueError, IndexError):
        places, whole = np.empty((0, 3), np.int64), False
    if len(places) != len(files) or not whole:
        raise DataError(f"{pixels} or {index.name} is damaged; remove both and start again.")
    return DecodedImages(mapped, places, files.size, files.fit)


def _write(
    files: FileImages, pixels: Path, index: Path, workers: int, progress: Callable[[int], None]
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
                read = read_fitted(files.paths[row], side, bit_depth=files.bit_depth)
                mapped[starts[row] : starts[row + 1]] = read.ravel()

            for done, _ in enumerate(pool.map(put, range(len(files.paths))), start=1):
                progress(done)
            mapped.flush()
            temporary.replace(pixels)
        finally:
            temporary.unlink(missing_ok=True)
    # width comes first in an image's size, height in its pixels
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


def _key(files: FileImages) -> str:
    digest = hashlib.sha256(f"2 {files.size} {files.bit_depth}".encode())
    for path in files.paths:
        found = path.stat()
        digest.update(os.fsencode(path.resolve()))  # a name need not be UTF-8
        digest.update(f" {found.st_size} {found.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:24]
