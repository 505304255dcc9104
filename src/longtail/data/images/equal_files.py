"""Files that show the same pixels: they stay in one split, and are named where they do not.

They are copies, byte for byte, or were saved again in another format without loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from longtail.core.manifest import SPLITS, Manifest
from longtail.core.names import shown
from longtail.core.words import counted
from longtail.data.images.file_checks import Checked


def copies(checked: Sequence[Checked]) -> list[list[int]]:
    """Return groups of rows whose files decode to the same pixels, largest group first."""
    return equal_rows(["" if found.reason else found.pixels for found in checked])


def equal_rows(pixels: Sequence[str]) -> list[list[int]]:
    """Return groups of rows with the same digest of their pixels, largest first; "" equals nothing."""
    first: dict[str, int] = {}
    groups: dict[int, list[int]] = {}  # by their first row; most images have no copy, and no list
    for row, digest in enumerate(pixels):
        if digest and (one := first.setdefault(digest, row)) != row:
            groups.setdefault(one, [one]).append(row)
    return sorted((groups[one] for one in sorted(groups)), key=len, reverse=True)


def with_copies(
    together: NDArray[np.int64] | None, groups: Sequence[Sequence[int]], size: int
) -> NDArray[np.int64] | None:
    """Join units that hold copies of one image.

    Args:
        together: A number for every image, int64 [N], equal for images that move together; None
            if each stands alone.
        groups: Rows of equal images.
        size: N.

    Returns:
        A number for every image, int64 [N], or None if nothing belongs together.
    """
    if not groups:
        return together
    units = np.arange(size) if together is None else np.unique(together, return_inverse=True)[1]
    pairs = np.array([pair for rows in groups for pair in pairwise(rows)])
    ends = units[pairs.T]
    number = int(units.max()) + 1
    graph = coo_array((np.ones(len(pairs)), (ends[0], ends[1])), shape=(number, number))
    joined: NDArray[np.int64] = connected_components(graph, directed=False)[1].astype(np.int64)
    return joined[units]


def in_several_splits(manifest: Manifest, groups: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    """Return the groups of equal images that more than one split holds."""
    return [rows for rows in groups if len(set(manifest.splits[list(rows)].tolist())) > 1]


def with_several_labels(manifest: Manifest, groups: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    """Return the groups of equal images that have different labels."""
    return [rows for rows in groups if len(set(manifest.labels[list(rows)].tolist())) > 1]


def describe_copies(manifest: Manifest, groups: Sequence[Sequence[int]]) -> tuple[str, ...]:
    """Return a sentence per kind of finding, the worst first: leakage, contradictions, copies kept together.

    Args:
        manifest: With its final splits.
        groups: Rows of equal images.
    """
    sentences = []
    if leaking := in_several_splits(manifest, groups):
        splits = sorted({int(s) for rows in leaking for s in manifest.splits[list(rows)]})
        names = " and ".join(SPLITS[split] for split in splits)
        scored = sum(int((manifest.splits[list(rows)] > 0).sum()) for rows in leaking)
        sentences.append(
            f"LEAKAGE: {counted(len(leaking), 'image is', 'images are')} in more than one of {names} "
            f"(identical pixels), so scores on {counted(scored, 'image', 'images')} of val or test "
            f"reward memorised images: {_show(_paths(manifest, leaking))}."
        )
    contradicting = with_several_labels(manifest, groups)
    if contradicting:
        sentences.append(describe_several_labels(_paths(manifest, contradicting)))
    told = {rows[0] for rows in [*leaking, *contradicting]}
    others = [rows for rows in groups if rows[0] not in told]
    if inside := len(others):
        rows = sum(map(len, others))
        sentences.append(
            f"{rows:,} files are copies of {counted(inside, 'image', 'images')} (identical pixels); "
            "copies stay in one split."
        )
    return tuple(sentences)


def describe_several_labels(groups: Sequence[Sequence[str]]) -> str:
    """Say which images occur with different labels; `groups` are the paths of each."""
    return (
        f"{counted(len(groups), 'image has', 'images have')} different labels in files with identical "
        f"pixels: {_show(groups)}."
    )


def _paths(manifest: Manifest, groups: Sequence[Sequence[int]]) -> list[list[str]]:
    return [[manifest.paths[row] for row in rows] for rows in groups]


def _show(groups: Sequence[Sequence[str]]) -> str:
    named = "; ".join(" = ".join(map(shown, paths[:3])) for paths in groups[:3])
    return named + (f"; and {len(groups) - 3:,} more" if len(groups) > 3 else "")
