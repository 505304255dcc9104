"""Manifest: which image has which label and belongs to which split."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longtail.core.counts import ClassCounts
from longtail.core.errors import DataError
from longtail.core.names import ask_whether_renamed, normal_name, some

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Manifest:
    """The only form in which a data set travels.

    Attributes:
        name: For people: `CIFAR-100-LT, ratio 100` or the folder's name.
        classes: C class names; a label is an index into them. Matched by name, never by position.
        ids: int64 [N], distinct; identifies an image for ever (rows of the original set, so a
            long-tailed cut keeps the numbers of the full set).
        labels: int64 [N] in 0..C-1.
        splits: int8 [N], index into `SPLITS`.
        paths: One path per image relative to the data set's folder, or empty for sets that live
            in one array.

    Raises:
        DataError: If lengths differ, an id occurs twice or a label is out of range.
    """

    name: str
    classes: tuple[str, ...]
    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    splits: NDArray[np.int8]
    paths: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        size = len(self.ids)
        if len(self.labels) != size or len(self.splits) != size:
            raise DataError(
                f"{self.name}: {size} ids, {len(self.labels)} labels and {len(self.splits)} splits."
            )
        if self.paths and len(self.paths) != size:
            raise DataError(f"{self.name}: {size} ids but {len(self.paths)} paths.")
        if len(np.unique(self.ids)) != size:
            raise DataError(f"{self.name}: image ids must be distinct.")
        if size and not 0 <= self.labels.min() <= self.labels.max() < len(self.classes):
            raise DataError(
                f"{self.name}: labels must be in 0..{len(self.classes) - 1}, but they range from "
                f"{self.labels.min()} to {self.labels.max()}."
            )
        for name, dtype in (("ids", np.int64), ("labels", np.int64), ("splits", np.int8)):
            array = np.array(getattr(self, name), dtype=dtype)
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, split: str) -> NDArray[np.int64]:
        """Return the positions of `split` in this manifest, ascending."""
        return np.flatnonzero(self.splits == _number_of(split))

    def has(self, split: str) -> bool:
        """Say whether `split` holds at least one image."""
        return bool((self.splits == _number_of(split)).any())

    def histogram(self, split: str) -> NDArray[np.int64]:
        """Return images per class in `split`, int64 [C]; zeros are possible."""
        return np.bincount(self.labels[self.rows(split)], minlength=len(self.classes))

    def class_counts(self) -> ClassCounts:
        """Return the training counts; refuses classes without a training image by name."""
        return ClassCounts(self.histogram("train"), self.classes)

    def take(self, rows: NDArray[Any]) -> Manifest:
        """Return the manifest of the images at the positions `rows`, in that order."""
        paths = tuple(self.paths[row] for row in rows.tolist()) if self.paths else ()
        return replace(
            self,
            ids=self.ids[rows],
            labels=self.labels[rows],
            splits=self.splits[rows],
            paths=paths,
        )

    def with_splits(self, splits: NDArray[Any]) -> Manifest:
        """Return the same images with other splits, int8 [N]."""
        return replace(self, splits=splits)

    def restricted_to(self, names: Mapping[str, int] | tuple[str, ...]) -> Manifest:
        """Return this manifest with its labels expressed in another list of class names.

        Names are the same if they are in Unicode's composed form, without space around them (`1.0` is `1`).

        Args:
            names: The class names to express the labels in (for example those of a checkpoint).

        Raises:
            DataError: If a class of this manifest does not occur in `names`.
        """
        wanted = tuple(names)
        position = {normal_name(name): index for index, name in enumerate(wanted)}
        position |= {name: index for index, name in enumerate(wanted)}
        found = [position.get(name, position.get(normal_name(name), -1)) for name in self.classes]
        used = np.unique(self.labels).tolist()
        if unknown := sorted(self.classes[label] for label in used if found[label] < 0):
            there = {found[label] for label in used}
            gone = [name for place, name in enumerate(wanted) if place not in there]
            raise DataError(
                f"{self.name} has classes that the model does not know: {some(unknown)}."
                f"{ask_whether_renamed(gone, unknown)} Use the class names that the model was trained with."
            )
        translation = np.array(found, dtype=np.int64)
        return replace(self, classes=wanted, labels=translation[self.labels])

    def checksum(self) -> str:
        """Return a SHA-256 over classes, ids, labels, splits and paths."""
        digest = hashlib.sha256("\0".join(self.classes).encode())
        for array in (self.ids, self.labels, self.splits):
            digest.update(
                np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes()
            )
        digest.update("\0".join(self.paths).encode())
        return digest.hexdigest()


def _number_of(split: str) -> int:
    if split not in SPLITS:
        raise DataError(f"A split is {', '.join(SPLITS[:-1])} or {SPLITS[-1]}, but got {split!r}.")
    return SPLITS.index(split)
