"""Look at a data set before training on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from longtail.core.groups import RULE_TEXT, ShotGroups
from longtail.core.manifest import SPLITS, Manifest
from longtail.core.words import counted
from longtail.data.check import Checked, repeated_pictures
from longtail.data.files import FileSet


@dataclass(frozen=True)
class Inspection:
    """What was found.

    Attributes:
        manifest: The data set.
        sizes: Pictures of each split.
        imbalance_ratio: Of the training counts (readable pictures).
        groups: One line per rule.
        damaged: (path, reason).
        repeated: Groups of equal files inside one split, as paths.
        in_two_splits: Groups of equal files that occur in more than one split: leakage.
        conflicting: Groups of equal files with different labels.
        missing: Split -> classes of train that it lacks.
        ignored: Files whose name is no picture's.
        outside: A sentence on pictures that lie in no class; empty if there are none.
    """

    manifest: Manifest
    sizes: dict[str, int]
    imbalance_ratio: float
    groups: tuple[str, ...]
    damaged: tuple[tuple[str, str], ...] = ()
    repeated: tuple[tuple[str, ...], ...] = ()
    in_two_splits: tuple[tuple[str, ...], ...] = ()
    conflicting: tuple[tuple[str, ...], ...] = ()
    missing: dict[str, tuple[str, ...]] | None = None
    ignored: int = 0
    outside: str = ""

    def warnings(self) -> list[str]:
        """Return one sentence per kind of finding, the worst first."""
        lines = []
        if self.in_two_splits:
            lines.append(
                f"{_occur(self.in_two_splits)} in two splits (leakage): {_show(self.in_two_splits)}"
            )
        if self.conflicting:
            lines.append(
                f"{_occur(self.conflicting)} with different labels: {_show(self.conflicting)}"
            )
        if self.damaged:
            shown = "; ".join(f"{path} ({reason})" for path, reason in self.damaged[:3])
            lines.append(
                f"{counted(len(self.damaged), 'file', 'files')} cannot be read as a picture: {shown}"
            )
        if self.repeated:
            lines.append(f"{_occur(self.repeated)} twice in one split: {_show(self.repeated)}")
        for split, names in (self.missing or {}).items():
            if names:
                lines.append(
                    f"{split} has no picture of {counted(len(names), 'class', 'classes')}, which cannot be "
                    f"evaluated there: {', '.join(names[:8])}"
                )
        if self.outside:
            lines.append(self.outside)
        if self.ignored:
            lines.append(
                f"{counted(self.ignored, 'file was', 'files were')} ignored: not named like pictures."
            )
        return lines


def inspect(
    manifest: Manifest, checked: Sequence[Checked] = (), file_set: FileSet | None = None
) -> Inspection:
    """Count, group and cross-check a data set.

    Args:
        manifest: The data set.
        checked: What `check_pictures` said of its files, row by row; empty for array sets.
        file_set: Where the files came from, for what was left out there.
    """
    good = np.array([row for row, c in enumerate(checked) if not c.reason], dtype=np.int64)
    readable = manifest.take(good) if checked else manifest
    counts = readable.class_counts()
    repeated, leaked, conflicting = [], [], []
    for rows in repeated_pictures(manifest, checked):
        paths = tuple(manifest.paths[row] for row in rows)
        if len({int(manifest.labels[row]) for row in rows}) > 1:
            conflicting.append(paths)
        if len({int(manifest.splits[row]) for row in rows}) > 1:
            leaked.append(paths)
        elif len({int(manifest.labels[row]) for row in rows}) == 1:
            repeated.append(paths)
    missing = {}
    for split in SPLITS[1:]:
        if readable.has(split):
            absent = np.flatnonzero(readable.histogram(split) == 0).tolist()
            missing[split] = tuple(manifest.classes[label] for label in absent)
    return Inspection(
        manifest=readable,
        sizes={split: len(readable.rows(split)) for split in SPLITS},
        imbalance_ratio=counts.imbalance_ratio,
        groups=tuple(ShotGroups.from_counts(counts, rule).describe() for rule in RULE_TEXT),
        damaged=tuple((manifest.paths[r], c.reason) for r, c in enumerate(checked) if c.reason),
        repeated=tuple(repeated),
        in_two_splits=tuple(leaked),
        conflicting=tuple(conflicting),
        missing=missing,
        ignored=file_set.ignored if file_set else 0,
        outside=file_set.describe_outside() if file_set else "",
    )


def _occur(groups: Sequence[tuple[str, ...]]) -> str:
    return counted(len(groups), "picture occurs", "pictures occur")


def _show(groups: Sequence[tuple[str, ...]]) -> str:
    return "; ".join(" = ".join(paths[:3]) for paths in groups[:3])
