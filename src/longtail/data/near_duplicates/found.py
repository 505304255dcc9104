"""Near-duplicates of a collection: pairs, groups, and what people are told of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from longtail.core.manifest import SPLITS, Manifest
from longtail.core.names import shown
from longtail.core.words import counted
from longtail.data.images.equal_files import copies
from longtail.data.images.file_checks import Checked
from longtail.data.images.perceptual_hash import BITS, as_unit_vectors
from longtail.data.near_duplicates.neighbours import (
    histogram_of_distances,
    nearest,
    pairs_within,
)
from longtail.data.near_duplicates.threshold import (
    Threshold,
    choose_threshold,
    threshold_of_features,
)

# Bits, of 144. Of 300 images of CIFAR-100, copies of half and twice the size and JPEG of quality 60 differ in
# at most 10 bits from the original (99 %). Pairs of 21,000 of them that differ in 22 to 24 bits are still
# nearly all the same photograph; from 30 on they are an orange and an apple.
STEP = 4 / BITS  # of the distance 1 - cosine: two bits, as half of the bits of every hash are ones
USUAL, MOST = 5, 12  # steps
COPIES = (
    10  # bits that copies differ in at most, as above; what differs in more may only look alike
)
AROUND = 20  # neighbours of an image that show how near images usually are there
RELATIVE = "relative distance of features"
TINY = float(np.finfo(np.float32).tiny)
NAMED = 3  # pairs that a sentence names


@dataclass(frozen=True)
class NearDuplicates:
    """What was found.

    Attributes:
        pairs: Rows of the images of each pair, int64 [P, 2], nearest first.
        distances: Of each pair, float64 [P], in units.
        threshold: Up to which distance a pair counts, in units.
        by_chance: Pairs that chance is expected to leave (by features: images); NaN if there were too few to
            estimate it.
        unit: `bits` of the perceptual hash, or `relative distance of features`.
        compared: Images that were compared.
        copies: Rows of the images with identical pixels, group by group; they are no pairs here.
    """

    pairs: NDArray[np.int64]
    distances: NDArray[np.float64]
    threshold: float
    by_chance: float
    unit: str
    compared: int
    copies: Sequence[Sequence[int]] = ()

    @property
    def by_hash(self) -> bool:
        """Say whether the perceptual hash has found them, and not features."""
        return self.unit == "bits"

    @property
    def surely_copies(self) -> NDArray[np.bool_]:
        """Whether a pair is as near as only copies are, bool [P]; features never say so."""
        near: NDArray[np.bool_] = self.distances <= COPIES
        return near & self.by_hash

    @property
    def means(self) -> str:
        """What has found them, for people."""
        return "perceptual hash" if self.by_hash else "features"

    def groups(self) -> list[list[int]]:
        """Return rows that a chain of pairs joins, largest group first."""
        rows, ends = np.unique(self.pairs, return_inverse=True)
        if not len(rows):
            return []
        first, second = ends.reshape(-1, 2).T
        graph = coo_array((np.ones(len(first)), (first, second)), shape=(len(rows), len(rows)))
        number = connected_components(graph, directed=False)[1]
        order = np.argsort(number, kind="stable")
        parts = np.split(rows[order], np.flatnonzero(np.diff(number[order])) + 1)
        return sorted((part.tolist() for part in parts), key=len, reverse=True)

    def across_splits(self, manifest: Manifest) -> NDArray[np.int64]:
        """Return the numbers of the pairs whose images are in different splits, int64 [M]."""
        splits = manifest.splits[self.pairs]
        return np.flatnonzero(splits[:, 0] != splits[:, 1])

    def across_labels(self, manifest: Manifest) -> NDArray[np.int64]:
        """Return the numbers of the pairs that contradict each other by their labels, int64 [M].

        An image that is there twice with different labels agrees with both: that contradiction is its own.
        """
        of_row = {row: manifest.labels[list(rows)].tolist() for rows in self.copies for row in rows}
        labels = [
            [set(of_row.get(row, [manifest.labels[row].item()])) for row in pair]
            for pair in self.pairs.tolist()
        ]
        return np.flatnonzero([one.isdisjoint(other) for one, other in labels])

    def describe_threshold(self) -> str:
        """Say up to which distance a pair counts."""
        if self.threshold < 0:
            return f"the images are too similar for their {self.means} to tell which are copies"
        if not self.by_hash:
            return (
                f"features at most {self.threshold:g} times as far apart as is usual around both images; by "
                "chance, one image in a thousand has such a neighbour"
            )
        value = f"perceptual hashes differ in at most {self.threshold:g} of {BITS} bits"
        if math.isnan(self.by_chance):
            return f"{value}, the usual threshold, as there are too few images to estimate chance"
        return value


def near_by_hash(checked: Sequence[Checked]) -> NearDuplicates:
    """Find images whose perceptual hashes are nearly equal; of those with equal pixels the first counts.

    Args:
        checked: What `check_images` said of each readable image.
    """
    first: dict[str, int] = {}
    for row, found in enumerate(checked):
        if found.hash and not found.reason:
            first.setdefault(found.pixels, row)
    rows = np.array(list(first.values()), dtype=np.int64)
    unit = as_unit_vectors([checked[row].hash for row in rows.tolist()])
    chosen, size = Threshold(-1, math.nan), len(unit)
    if size > 1:
        histogram = histogram_of_distances(unit, STEP)
        chosen = choose_threshold(histogram, size * (size - 1) // 2, most=MOST, if_few=USUAL)
    limit = (chosen.distance + 0.25) * STEP if chosen.distance >= 0 else -1.0
    pairs, distances = _within(unit, rows, limit, BITS / 2)
    return NearDuplicates(
        pairs,
        np.round(distances),
        chosen.distance * STEP * BITS / 2,
        chosen.by_chance,
        "bits",
        size,
        copies(checked),
    )


def near_by_features(
    features: NDArray[np.float32], copies: Sequence[Sequence[int]] = ()
) -> NearDuplicates:
    """Find images whose features are much nearer to each other than to the other images around them.

    The distance 1 - cosine of two images, of features without their mean, is divided by the geometric mean
    of the distances from both to their 20th neighbours, so that a dense class (skies, apples on white) is not
    taken for copies. Series of more than 20 images are not found.

    Args:
        features: Of a frozen network, float32 [N, D].
        copies: Rows of the images with identical pixels, group by group, which are no pairs here.
    """
    size = len(features)
    around = min(AROUND, size // 4)  # of few images the 20th neighbour is anything
    none = NearDuplicates(
        np.zeros((0, 2), np.int64), np.zeros(0), -1.0, math.nan, RELATIVE, size, copies
    )
    if around < 2:
        return none
    centred = features - features.mean(axis=0)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    others, distances = nearest(centred / np.maximum(length, TINY), around)
    usual = np.sqrt(np.maximum(distances[:, -1], TINY))
    relative = distances / (usual[:, None] * usual[others])
    limit = threshold_of_features(relative[:, 0])
    rows, columns = np.nonzero(relative <= limit)
    pairs = np.sort(np.stack([rows, others[rows, columns]], axis=1), axis=1)
    pairs, first = np.unique(pairs, axis=0, return_index=True)
    values = relative[rows, columns][first]
    group = {row: number for number, rows in enumerate(copies) for row in rows}
    apart = [group.get(one, -1) != group.get(other, -2) for one, other in pairs.tolist()]
    pairs, values = pairs[apart], values[apart]
    order = np.argsort(values, kind="stable")
    return replace(
        none, pairs=pairs[order], distances=values[order], threshold=limit, by_chance=size / 1000
    )


def _within(
    unit: NDArray[np.float32], rows: NDArray[np.int64], limit: float, scale: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return pairs of `rows` within `limit`, nearest first, and their distances times `scale`."""
    if limit < 0:
        return np.zeros((0, 2), np.int64), np.zeros(0)
    pairs = pairs_within(unit, limit)
    cosines = np.einsum("pd,pd->p", unit[pairs[:, 0]], unit[pairs[:, 1]], dtype=np.float64)
    distances = np.maximum(1 - cosines, 0) * scale
    order = np.argsort(distances, kind="stable")
    return rows[pairs[order]], distances[order]


def describe_near(manifest: Manifest, found: NearDuplicates, *, drawn: bool) -> tuple[str, ...]:
    """Return a sentence per kind of finding, the worst first: leakage, contradictions, groups kept together.

    Args:
        manifest: With its final splits.
        found: Of its images.
        drawn: Whether the split was drawn by `longtail`, which keeps groups together.
    """
    if not len(found.pairs):
        return ()
    sure = found.surely_copies
    everything, across = np.arange(len(found.pairs)), found.across_splits(manifest)
    sentences = _describe_across(manifest, found, across)
    contradicting = found.across_labels(manifest)
    for numbers, kind in (
        (contradicting[sure[contradicting]], "near-duplicates"),
        (contradicting[~sure[contradicting]], "images that look almost alike"),
    ):
        if len(numbers):
            have = counted(len(numbers), f"pair of {kind} has", f"pairs of {kind} have")
            sentences.append(f"{have} different labels: {_show(manifest, found, numbers)}.")
    groups = found.groups()
    members, of = sum(map(len, groups)), counted(len(groups), "group", "groups")
    alike = "of near-duplicates" if sure.all() else "of images that look almost alike"
    check = "" if sure.all() else "; check whether they are copies"
    stay = "; each group stays in one split" if drawn and not len(across) else ""
    sentences.append(
        f"{members:,} images form {of} {alike} ({found.describe_threshold()}){stay}{check}: "
        f"{_show(manifest, found, everything)}."
    )
    return tuple(sentences)


def _describe_across(
    manifest: Manifest, found: NearDuplicates, across: NDArray[np.int64]
) -> list[str]:
    """Say which pairs several splits divide: leakage, if only copies are so near."""
    sentences, sure = [], found.surely_copies
    how = (
        "almost alike"
        if found.by_hash
        else "alike (found by features: crops, bursts, the same scene)"
    )
    for numbers, kind, check in (
        (across[sure[across]], "LEAKAGE: {} of near-duplicates (resized or saved again)", ""),
        (
            across[~sure[across]],
            f"{{}} of images that look {how}",
            "; check whether they are copies",
        ),
    ):
        if not len(numbers):
            continue
        rows = np.unique(found.pairs[numbers])
        scored = int((manifest.splits[rows] > 0).sum())
        names = " and ".join(SPLITS[s] for s in np.unique(manifest.splits[rows]).tolist())
        sentences.append(
            f"{kind.format(counted(len(numbers), 'pair', 'pairs'))} "
            f"{'is' if len(numbers) == 1 else 'are'} divided between {names}, which concerns "
            f"{counted(scored, 'image', 'images')} of val or test{check}: "
            f"{_show(manifest, found, numbers)}."
        )
    return sentences


def _show(manifest: Manifest, found: NearDuplicates, numbers: NDArray[np.int64]) -> str:
    named = [
        f"{shown(manifest.paths[one])} ~ {shown(manifest.paths[other])}"
        for one, other in found.pairs[numbers[:NAMED]].tolist()
    ]
    more = len(numbers) - len(named)
    return "; ".join(named) + (f"; and {counted(more, 'more pair', 'more pairs')}" if more else "")
