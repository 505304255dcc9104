"""Validation and test splits that leave rare classes their images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from longtail.core.errors import DataError
from longtail.core.manifest import SPLITS, Manifest
from longtail.core.rng import numpy_generator
from longtail.core.words import counted


@dataclass(frozen=True)
class SplitReport:
    """What a split could not do.

    Attributes:
        not_evaluated: Classes without any image in the new split.
    """

    not_evaluated: tuple[str, ...]

    def describe(self, split: str) -> str:
        """Return a sentence for people; empty if every class can be evaluated."""
        if not self.not_evaluated:
            return ""
        shown = ", ".join(self.not_evaluated[:8])
        more = f" and {len(self.not_evaluated) - 8} more" if len(self.not_evaluated) > 8 else ""
        classes = counted(len(self.not_evaluated), "class has", "classes have")
        return (
            f"{classes} too few images (or too few independent ones) to put any into {split}, so no "
            f"accuracy can be measured there: {shown}{more}."
        )


def hold_out(
    manifest: Manifest,
    split: str,
    *,
    seed: int,
    share: float | None = None,
    per_class: int | None = None,
    keep_in_train: int = 1,
    together: NDArray[np.int64] | None = None,
    share_of: NDArray[np.int64] | None = None,
) -> tuple[Manifest, SplitReport]:
    """Move some training images of every class into `split`.

    Args:
        manifest: A set whose train split is large enough.
        split: `val` or `test`; must be empty so far.
        seed: Seed of the choice.
        share: Of each class, in (0, 1); rounded, at least one image where the class can give it.
        per_class: Images of each class instead of a share (a balanced split where possible).
        keep_in_train: Images of each class that stay in train in any case, at least 1.
        together: A number for every image, int64 [N]; images of the same number (one animal, one burst)
            move together, so that classes get about what they shall. A class that would get none gives
            its smallest such unit, unless that is more than half of it.
        share_of: Images of each class that the share is of, int64 [C]; those in train if not
            given. With the sizes of before, 10 % for val after 20 % for test leave 70 %.

    Raises:
        DataError: If not exactly one of `share` and `per_class` is given or a value is out of
            range, or `split` is not empty.
    """
    if (share is None) == (per_class is None):
        raise DataError("Give either a share or a number of images per class to hold out.")
    if share is not None and not 0 < share < 1:
        raise DataError(f"The share to hold out must be in (0, 1), but got {share}.")
    if (per_class is not None and per_class < 1) or keep_in_train < 1:
        raise DataError("per_class and keep_in_train must be at least 1.")
    if manifest.has(split):
        raise DataError(f"{manifest.name} already has a {split} split.")
    train = manifest.rows("train")
    splits = np.array(manifest.splits)
    sizes = manifest.histogram("train")  # [C]
    whole = sizes if share_of is None else share_of
    shares = np.maximum(1, np.round((share or 0) * whole)).astype(np.int64)
    wanted = shares if per_class is None else np.full_like(sizes, per_class)
    wanted = np.minimum(wanted, sizes - keep_in_train)
    # named by the class, so that the choice does not depend on the order of the classes
    orders = [numpy_generator(seed, "split", split, name) for name in manifest.classes]
    if together is None:
        for label, order in enumerate(orders):
            rows = train[manifest.labels[train] == label]
            splits[order.permutation(rows)[: max(0, wanted[label])]] = SPLITS.index(split)
    else:
        units = _Units(manifest.labels[train], together[train], sizes - keep_in_train)
        for label in np.lexsort((np.array(manifest.classes), sizes)):  # rare classes choose first
            units.hold_out(label, wanted[label], orders[label])
        splits[train[np.isin(together[train], list(units.held))]] = SPLITS.index(split)
    made = manifest.with_splits(splits)
    given = made.histogram(split) > 0
    missing = (name for name, some in zip(manifest.classes, given, strict=True) if not some)
    return made, SplitReport(tuple(missing))


class _Units:
    """Training images that move together.

    Args:
        labels: [N].
        together: The unit of each, [N].
        spare: Images that each class can give away, [C].
    """

    def __init__(
        self, labels: NDArray[np.int64], together: NDArray[np.int64], spare: NDArray[np.int64]
    ) -> None:
        self.spare, self.given = spare.copy(), np.zeros_like(spare)
        self.sizes = np.bincount(labels, minlength=len(spare))
        self.held: set[int] = set()
        self.parts: dict[int, dict[int, int]] = {}  # images of each class in each unit
        for unit, label in zip(together.tolist(), labels.tolist(), strict=True):
            part = self.parts.setdefault(unit, {})
            part[label] = part.get(label, 0) + 1
        self.of_class: list[list[int]] = [[] for _ in spare]  # units that hold the class
        for unit in sorted(self.parts):
            for label in self.parts[unit]:
                self.of_class[label].append(unit)

    def hold_out(self, label: int, wanted: int, order: np.random.Generator) -> None:
        """Move units, in random order, that bring a class nearer to what is wanted of it."""
        units: list[int] = order.permutation(self.of_class[label]).tolist()
        for unit in units:
            missing = wanted - self.given[label]
            if abs(missing - self.parts[unit][label]) < missing:
                self._move(unit)
        if wanted > 0 and self.given[label] == 0:
            for unit in sorted(units, key=lambda unit: self.parts[unit][label]):
                small = 2 * self.parts[unit][label] <= self.sizes[label]
                if small and self._move(unit):
                    break

    def _move(self, unit: int) -> bool:
        """Hold a unit out if every class in it can spare its images."""
        part = self.parts[unit]
        if unit in self.held or any(self.spare[label] < size for label, size in part.items()):
            return False
        for label, size in part.items():
            self.spare[label] -= size
            self.given[label] += size
        self.held.add(unit)
        return True
