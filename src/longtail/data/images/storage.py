"""Where the pixels are: in one array, or in files that are decoded on demand."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from longtail.data.images.below import FilesBelow
from longtail.data.images.decode import read_crop, read_view
from longtail.data.images.resize import SMALL_SIDE, Fit

# Images up to this side are kept decoded; larger ones are decoded when they are needed.
RESIDENT_SIDE = SMALL_SIDE
RESIDENT_BYTES = 4 * 2**30


@dataclass(frozen=True)
class ArrayImages:
    """Images of one size in one tensor.

    Attributes:
        pixels: uint8 [N, 3, S, S]; image i of the manifest is row i.
    """

    pixels: Tensor

    @property
    def size(self) -> int:
        """Side S in pixels."""
        return int(self.pixels.shape[-1])

    def __len__(self) -> int:
        """Number of images."""
        return len(self.pixels)

    def take(self, rows: NDArray[np.int64]) -> ArrayImages:
        """Return the images at `rows`."""
        return ArrayImages(self.pixels.index_select(0, torch.from_numpy(np.array(rows))))


@dataclass(frozen=True)
class FileImages:
    """Images in files.

    Attributes:
        paths: One file per row of the manifest.
        size: Side of the square that the network sees.
        fit: How an image that is no square becomes one.
        bit_depth: As of `ImageFile`.
    """

    paths: Sequence[Path]
    size: int
    fit: Fit = "crop"
    bit_depth: int | None = None

    def __len__(self) -> int:
        """Number of images."""
        return len(self.paths)

    def take(self, rows: NDArray[np.int64]) -> FileImages:
        """Return the images at `rows`."""
        if isinstance(self.paths, FilesBelow):
            return replace(self, paths=self.paths.take(rows))
        return replace(self, paths=tuple(self.paths[row] for row in rows.tolist()))

    def decode(self, row: int) -> NDArray[np.uint8]:
        """Return the test view of image `row`, uint8 [3, size, size]."""
        return read_view(self.paths[row], self.size, fit=self.fit, bit_depth=self.bit_depth)

    def decode_crop(
        self, row: int, generator: np.random.Generator, area: tuple[float, float]
    ) -> NDArray[np.uint8]:
        """Return a random resized part of `area` share of image `row`, uint8 [3, size, size]."""
        return read_crop(
            self.paths[row], self.size, generator,
            area=area, fit=self.fit, bit_depth=self.bit_depth,
        )  # fmt: skip

    def fits_in_memory(self) -> bool:
        """Say whether the decoded images should be kept."""
        return self.size <= RESIDENT_SIDE and len(self.paths) * 3 * self.size**2 <= RESIDENT_BYTES

    def load(self, workers: int = 4) -> ArrayImages:
        """Decode everything into one array."""
        pixels = np.empty((len(self.paths), 3, self.size, self.size), dtype=np.uint8)

        def put(row: int) -> None:
            pixels[row] = self.decode(row)

        with ThreadPoolExecutor(workers) as pool:
            for _ in pool.map(put, range(len(self.paths))):
                pass
        return ArrayImages(torch.from_numpy(pixels))


class DecodedOnDemand(Protocol):
    """Images that are decoded, or cut from a decoded file, when they are needed."""

    @property
    def size(self) -> int:
        """Side of the square that the network sees."""

    def take(self, rows: NDArray[np.int64]) -> DecodedOnDemand:
        """Return the images at `rows`."""

    def decode(self, row: int) -> NDArray[np.uint8]:
        """Return the test view of image `row`, uint8 [3, size, size]."""

    def decode_crop(
        self, row: int, generator: np.random.Generator, area: tuple[float, float]
    ) -> NDArray[np.uint8]:
        """Return a random resized part of image `row`, uint8 [3, size, size]."""

    def __len__(self) -> int:
        """Number of images."""


Images = ArrayImages | DecodedOnDemand


def rgb_pixels(planes: NDArray[np.uint8], shape: Sequence[int]) -> ArrayImages:
    """Wrap a uint8 array that can be viewed as [N, 3, S, S]."""
    return ArrayImages(torch.from_numpy(np.ascontiguousarray(planes.reshape(shape))))
