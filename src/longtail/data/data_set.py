"""A data set as a training sees it: what every image is, and its pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from longtail.core.errors import DataError
from longtail.core.manifest import SPLITS, Manifest
from longtail.data.images.storage import ArrayImages, Images
from longtail.data.images.unreadable import LEFT_OUT, describe_unreadable


@dataclass(frozen=True)
class DataSet:
    """A manifest with its images and how they are normalised.

    Attributes:
        manifest: Which image is what.
        images: The pixels, row by row as in the manifest.
        mean: Per channel, of pixels in 0..1.
        std: Likewise.
        default_view: Augmentation policy that the set's literature calls standard.
        notes: Findings that belong beside every number (classes not evaluated, images skipped).
        skipped: Damaged files that were left out, as (path, reason).
        drawn_split: Whether a split was drawn from a folder or table, which may change.
        together: int64 [N], equal for images that belong together (of one animal, burst or patient); None
            where nothing is known of it.
        digests: SHA-256 of the file of each image, as the check of the files found it; empty for sets that
            live in one array.
        pixels: Digest of the decoded pixels of each image, likewise.
    """

    manifest: Manifest
    images: Images
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    default_view: str = "crop-flip"
    notes: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    drawn_split: bool = False
    together: NDArray[np.int64] | None = None
    digests: tuple[str, ...] = ()
    pixels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        rows = len(self.images)
        if rows != len(self.manifest):
            raise DataError(f"{self.manifest.name}: {len(self.manifest)} rows but {rows} images.")

    def describe_skipped(self) -> str:
        """Say which files of the whole set were left out and why; empty if none were."""
        size = len(self.manifest) + len(self.skipped)
        return describe_unreadable(self.skipped, size, LEFT_OUT) if self.skipped else ""

    def split(self, name: str) -> DataSet:
        """Return the images of one split.

        Raises:
            DataError: If the split is empty.
        """
        if not self.manifest.has(name):
            raise DataError(f"{self.manifest.name} has no {name} split.")
        return self.take(self.manifest.rows(name))

    def normalised_by(self, mean: Sequence[float], std: Sequence[float]) -> DataSet:
        """Return the same images, to be normalised by other means and deviations, three each."""
        (a, b, c), (d, e, f) = mean, std
        return replace(self, mean=(a, b, c), std=(d, e, f))

    def take(self, rows: NDArray[np.int64]) -> DataSet:
        """Return the images at the positions `rows`."""
        together = None if self.together is None else self.together[rows]
        return replace(
            self,
            manifest=self.manifest.take(rows),
            images=self.images.take(rows),
            together=together,
            digests=tuple(self.digests[row] for row in rows.tolist()) if self.digests else (),
            pixels=tuple(self.pixels[row] for row in rows.tolist()) if self.pixels else (),
        )

    def content(self) -> str:
        """Return a SHA-256 of what all images show, in their order; empty if nothing is known of it."""
        if not self.digests and isinstance(self.images, ArrayImages):
            pixels = np.ascontiguousarray(self.images.pixels.cpu().numpy())
            return hashlib.sha256(pixels.data).hexdigest()
        return hashlib.sha256("".join(self.digests).encode()).hexdigest() if self.digests else ""

    def contents(self) -> dict[str, str]:
        """Return `content` of every split that there is."""
        there = [split for split in SPLITS if self.manifest.has(split)]
        return {split: self.split(split).content() for split in there}
