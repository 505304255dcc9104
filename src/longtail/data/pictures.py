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

from longtail.core.errors import DataError
from longtail.core.manifest import Manifest
from longtail.data.decode import read_crop, read_square

# Pictures up to this side are kept decoded; larger ones are decoded when they are needed.
RESIDENT_SIDE = 64
RESIDENT_BYTES = 4 * 2**30
TEST_MARGIN = 256 / 224  # of ImageNet's test transform; small pictures are not cut


@dataclass(frozen=True)
class ArrayPictures:
    """Pictures of one size in one tensor.

    Attributes:
        pixels: uint8 [N, 3, S, S]; picture i of the manifest is row i.
    """

    pixels: Tensor

    @property
    def size(self) -> int:
        """Side S in pixels."""
        return int(self.pixels.shape[-1])

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.pixels)

    def take(self, rows: NDArray[np.int64]) -> ArrayPictures:
        """Return the pictures at `rows`."""
        return ArrayPictures(self.pixels.index_select(0, torch.from_numpy(np.array(rows))))


@dataclass(frozen=True)
class FilePictures:
    """Pictures in files.

    Attributes:
        paths: One file per row of the manifest.
        size: Side of the square that the network sees.
    """

    paths: tuple[Path, ...]
    size: int

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.paths)

    def take(self, rows: NDArray[np.int64]) -> FilePictures:
        """Return the pictures at `rows`."""
        return FilePictures(tuple(self.paths[row] for row in rows.tolist()), self.size)

    def decode(self, row: int) -> NDArray[np.uint8]:
        """Return the centre of picture `row`, uint8 [3, size, size]."""
        return read_square(self.paths[row], self.size, margin=view_margin(self.size))

    def decode_crop(
        self, row: int, generator: np.random.Generator, area: tuple[float, float]
    ) -> NDArray[np.uint8]:
        """Return a random resized part of `area` share of picture `row`, uint8 [3, size, size]."""
        return read_crop(self.paths[row], self.size, generator, area=area)

    def fits_in_memory(self) -> bool:
        """Say whether the decoded pictures should be kept."""
        return self.size <= RESIDENT_SIDE and len(self.paths) * 3 * self.size**2 <= RESIDENT_BYTES

    def load(self, workers: int = 4) -> ArrayPictures:
        """Decode everything into one array."""
        pixels = np.empty((len(self.paths), 3, self.size, self.size), dtype=np.uint8)

        def put(row: int) -> None:
            pixels[row] = self.decode(row)

        with ThreadPoolExecutor(workers) as pool:
            for _ in pool.map(put, range(len(self.paths))):
                pass
        return ArrayPictures(torch.from_numpy(pixels))


def view_margin(size: int) -> float:
    """Return how much larger than the network's input a test picture is before its centre is cut."""
    return TEST_MARGIN if size > RESIDENT_SIDE else 1.0


def describe_view(size: int) -> str:
    """Say how a picture of any size becomes the square that the network sees."""
    side = round(size * view_margin(size))
    return f"shorter side resized to {side} (bilinear, antialiased), centre of {size} x {size} cut"


class DecodedOnDemand(Protocol):
    """Pictures that are decoded, or cut from a decoded file, when they are needed."""

    @property
    def size(self) -> int:
        """Side of the square that the network sees."""

    def take(self, rows: NDArray[np.int64]) -> DecodedOnDemand:
        """Return the pictures at `rows`."""

    def decode(self, row: int) -> NDArray[np.uint8]:
        """Return the centre of picture `row`, uint8 [3, size, size]."""

    def decode_crop(
        self, row: int, generator: np.random.Generator, area: tuple[float, float]
    ) -> NDArray[np.uint8]:
        """Return a random resized part of picture `row`, uint8 [3, size, size]."""

    def __len__(self) -> int:
        """Number of pictures."""


Pictures = ArrayPictures | DecodedOnDemand


@dataclass(frozen=True)
class DataSet:
    """A manifest with its pictures and how they are normalised.

    Attributes:
        manifest: Which picture is what.
        pictures: The pixels, row by row as in the manifest.
        mean: Per channel, of pixels in 0..1.
        std: Likewise.
        default_view: Augmentation policy that the set's literature calls standard.
        notes: Findings that belong beside every number (classes not evaluated, pictures skipped).
        skipped: Damaged files that were left out, as (path, reason).
        drawn_split: Whether a split was drawn from a folder or table, which may change.
        together: int64 [N], equal for pictures that belong together (of one animal, burst or patient); None
            where nothing is known of it.
    """

    manifest: Manifest
    pictures: Pictures
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    default_view: str = "crop-flip"
    notes: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    drawn_split: bool = False
    together: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        rows = len(self.pictures)
        if rows != len(self.manifest):
            raise DataError(f"{self.manifest.name}: {len(self.manifest)} rows but {rows} pictures.")

    def split(self, name: str) -> DataSet:
        """Return the pictures of one split.

        Raises:
            DataError: If the split is empty.
        """
        if not self.manifest.has(name):
            raise DataError(f"{self.manifest.name} has no {name} split.")
        return self.take(self.manifest.rows(name))

    def normalised_by(self, mean: Sequence[float], std: Sequence[float]) -> DataSet:
        """Return the same pictures, to be normalised by other means and deviations, three each."""
        (a, b, c), (d, e, f) = mean, std
        return replace(self, mean=(a, b, c), std=(d, e, f))

    def take(self, rows: NDArray[np.int64]) -> DataSet:
        """Return the pictures at the positions `rows`."""
        together = None if self.together is None else self.together[rows]
        return replace(
            self,
            manifest=self.manifest.take(rows),
            pictures=self.pictures.take(rows),
            together=together,
        )


def rgb_pixels(planes: NDArray[np.uint8], shape: Sequence[int]) -> ArrayPictures:
    """Wrap a uint8 array that can be viewed as [N, 3, S, S]."""
    return ArrayPictures(torch.from_numpy(np.ascontiguousarray(planes.reshape(shape))))
