"""Validation and test splits that leave rare classes their pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from longtail.core.errors import DataError
from longtail.core.manifest import SPLITS, Manifest
from longtail.core.rng import numpy_generator


@dataclass(frozen=True)
class SplitReport:
    """What a split could not do.

    Attributes:
        not_evaluated: Classes without any picture in the new split.
    """

    not_evaluated: tuple[str, ...]

    def describe(self, split: str) -> str:
        """Return a sentence for people; empty if every class can be evaluated."""
        if not self.not_evaluated:
            return ""
        shown = ", ".join(self.not_evaluated[:8])
        more = f" and {len(self.not_evaluated) - 8} more" if len(self.not_evaluated) > 8 else ""
        return (
            f"{len(self.not_evaluated)} classes have too few pictures to give any to {split}; "
            f"their accuracy cannot be measured there: {shown}{more}."
        )


def hold_out(
    manifest: Manifest,
    split: str,
    *,
    seed: int,
    share: float | None = None,
    per_class: int | None = None,
    keep_in_train: int = 1,
) -> tuple[Manifest, SplitReport]:
    """Move some training pictures of every class into `split`.

    Args:
        manifest: A set whose train split is large enough.
        split: `val` or `test`; must be empty so far.
        seed: Seed of the choice.
        share: Of each class, in (0, 1); rounded, at least one picture where the class can give it.
        per_class: Pictures of each class instead of a share (a balanced split where possible).
        keep_in_train: Pictures of each class that stay in train in any case, at least 1.

    Raises:
        DataError: If not exactly one of `share` and `per_class` is given or a value is out of
            range, or `split` is not empty.
    """
    if (share is None) == (per_class is None):
        raise DataError("Give either a share or a number of pictures per class to hold out.")
    if share is not None and not 0 < share < 1:
        raise DataError(f"The share to hold out must be in (0, 1), but got {share}.")
    if (per_class is not None and per_class < 1) or keep_in_train < 1:
        raise DataError("per_class and keep_in_train must be at least 1.")
    if manifest.has(split):
        raise DataError(f"{manifest.name} has a {split} split already.")
    train = manifest.rows("train")
    splits = np.array(manifest.splits)
    missing = []
    for label, name in enumerate(manifest.classes):
        rows = train[manifest.labels[train] == label]
        wanted = per_class if per_class is not None else max(1, round((share or 0) * len(rows)))
        chosen = _choose(rows, min(wanted, len(rows) - keep_in_train), seed, split, name)
        if chosen.size == 0:
            missing.append(name)
        splits[chosen] = SPLITS.index(split)
    return manifest.with_splits(splits), SplitReport(tuple(missing))


def _choose(
    rows: NDArray[np.int64], number: int, seed: int, split: str, name: str
) -> NDArray[np.int64]:
    if number <= 0:
        return rows[:0]
    # named by the class, so that the choice does not depend on the order of the classes
    return numpy_generator(seed, "split", split, name).permutation(rows)[:number]
