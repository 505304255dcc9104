"""Look at a data set before training on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from longtail.core.groups import RULE_TEXT, ShotGroups
from longtail.core.manifest import SPLITS, Manifest
from longtail.core.names import shown
from longtail.core.words import counted
from longtail.data.images.equal_files import copies, describe_several_labels
from longtail.data.images.file_checks import Checked, typical_side
from longtail.data.images.pixel_checks import pixel_findings
from longtail.data.images.resize import Fit, chosen_size
from longtail.data.images.unreadable import LEFT_OUT, describe_unreadable
from longtail.data.near_duplicates.found import COPIES, NearDuplicates, describe_near
from longtail.data.preparation import Prepared
from longtail.data.sources.file_set import FileSet


@dataclass(frozen=True)
class NearPair:
    """Two files that show nearly the same.

    Attributes:
        paths: Of both.
        labels: Their classes.
        splits: Theirs.
        distance: In units of what they were compared by.
        unit: `bits` of the perceptual hash, or `relative distance of features`.
    """

    paths: tuple[str, str]
    labels: tuple[str, str]
    splits: tuple[str, str]
    distance: float
    unit: str

    @property
    def surely_copies(self) -> bool:
        """Whether the pair is as near as only copies are."""
        return self.unit == "bits" and self.distance <= COPIES


@dataclass(frozen=True)
class Inspection:
    """What was found.

    Attributes:
        manifest: The data set.
        sizes: Images of each split.
        imbalance_ratio: Of the training counts (readable images).
        groups: One line per rule.
        damaged: (path, reason).
        repeated: Groups of files of equal pixels inside one split, as paths.
        in_two_splits: Groups of files of equal pixels that occur in more than one split: leakage.
        conflicting: Groups of files of equal pixels with different labels.
        near_duplicates: Pairs of files that are nearly the same, nearest first.
        near: Sentences on them, leakage between splits first.
        missing: Split -> classes of train that it lacks.
        pixels: Sentences on what the pixels show.
        left_out: Sentences on what was not read, and whatever else is to be known of the files.
    """

    manifest: Manifest
    sizes: dict[str, int]
    imbalance_ratio: float
    groups: tuple[str, ...]
    damaged: tuple[tuple[str, str], ...] = ()
    repeated: tuple[tuple[str, ...], ...] = ()
    in_two_splits: tuple[tuple[str, ...], ...] = ()
    conflicting: tuple[tuple[str, ...], ...] = ()
    near_duplicates: tuple[NearPair, ...] = ()
    near: tuple[str, ...] = ()
    missing: dict[str, tuple[str, ...]] | None = None
    pixels: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def few_to_judge(self, least: int) -> list[tuple[str, int]]:
        """Return the classes with fewer test images than `least`, the fewest first; none without test."""
        if not self.sizes["test"]:
            return []
        sizes = self.manifest.histogram("test")
        rows = np.argsort(sizes, kind="stable")
        return [(self.manifest.classes[r], int(sizes[r])) for r in rows if sizes[r] < least]

    def tiny_that_gave(self, least: int) -> list[tuple[str, int, int]]:
        """Return name, training images and all images of the classes that a split left fewer than `least`."""
        train, total = self.manifest.histogram("train"), np.bincount(self.manifest.labels)
        rows = np.argsort(train, kind="stable")
        return [
            (self.manifest.classes[r], int(train[r]), int(total[r]))
            for r in rows
            if train[r] < least and total[r] > train[r]
        ]

    def warnings(self) -> list[str]:
        """Return one sentence per kind of finding, the worst first."""
        lines = []
        if self.in_two_splits:
            lines.append(
                f"{_occur(self.in_two_splits)} in two splits (leakage): {_show(self.in_two_splits)}"
            )
        if self.conflicting:
            lines.append(describe_several_labels(self.conflicting))
        lines += self.near
        if self.damaged:
            size = len(self.manifest) + len(self.damaged)
            lines.append(describe_unreadable(self.damaged, size, LEFT_OUT))
        if self.repeated:
            lines.append(
                f"{_occur(self.repeated)} more than once in one split: {_show(self.repeated)}"
            )
        for split, names in (self.missing or {}).items():
            if names:
                lines.append(
                    f"{split} has no images of {counted(len(names), 'class', 'classes')}, which cannot be "
                    f"evaluated there: {', '.join(names[:8])}"
                )
        lines += self.pixels
        lines += self.left_out
        return lines


def inspect(
    manifest: Manifest,
    checked: Sequence[Checked] = (),
    file_set: FileSet | None = None,
    *,
    size: int | None = None,
    fit: Fit = "crop",
    bit_depth: int | None = None,
) -> Inspection:
    """Count, group and cross-check a data set.

    Args:
        manifest: The data set.
        checked: What `check_images` said of its files, row by row; empty for array sets.
        file_set: Where the files came from, for what was left out there.
        size: Side of the square that the network sees; chosen by the images if not given.
        fit: How images become squares.
        bit_depth: As of `ImageFile`.
    """
    good = np.array([row for row, c in enumerate(checked) if not c.reason], dtype=np.int64)
    readable = manifest.take(good) if checked else manifest
    counts = readable.class_counts()
    repeated, leaked, conflicting = [], [], []
    for rows in copies(checked):
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
        left_out=file_set.describe() if file_set else (),
        pixels=pixel_findings(
            manifest.paths, checked, size=size or chosen_size(typical_side(checked)), fit=fit,
            bit_depth=bit_depth, chosen=size is None,
        ) if checked else (),
    )  # fmt: skip


def inspect_prepared(prepared: Prepared, by_features: NearDuplicates | None = None) -> Inspection:
    """Return the findings on images as they would be trained on, with what was left out named.

    Args:
        prepared: The images.
        by_features: Near-duplicates among them by features, where these were computed; the split that is
            drawn does not know them.
    """
    good = [found for found in prepared.checked if not found.reason]
    found = inspect(
        prepared.file_set.manifest, good, prepared.listed,
        size=prepared.config.image_size, fit=prepared.config.fit, bit_depth=prepared.config.bit_depth,
    )  # fmt: skip
    manifest = prepared.file_set.manifest
    for near in (prepared.near, by_features):
        if near is not None:
            drawn = prepared.drawn and near is prepared.near
            found = replace(
                found,
                near=(*found.near, *describe_near(manifest, near, drawn=drawn)),
                near_duplicates=(*found.near_duplicates, *near_pairs(manifest, near)),
            )
    return replace(found, damaged=prepared.skipped)


def near_pairs(manifest: Manifest, near: NearDuplicates) -> tuple[NearPair, ...]:
    """Return pairs of near-duplicates by name."""
    return tuple(
        NearPair(
            (manifest.paths[one], manifest.paths[other]),
            (manifest.classes[labels[0]], manifest.classes[labels[1]]),
            (SPLITS[splits[0]], SPLITS[splits[1]]),
            round(distance, 4),
            near.unit,
        )
        for (one, other), labels, splits, distance in zip(
            near.pairs.tolist(),
            manifest.labels[near.pairs].tolist(),
            manifest.splits[near.pairs].tolist(),
            near.distances.tolist(),
            strict=True,
        )
    )


def _occur(groups: Sequence[tuple[str, ...]]) -> str:
    return counted(len(groups), "image occurs", "images occur")


def _show(groups: Sequence[tuple[str, ...]]) -> str:
    return "; ".join(" = ".join(map(shown, paths[:3])) for paths in groups[:3])
