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
    """

    pairs: NDArray[np.int64]
    distances: NDArray[np.float64]
    threshold: float
    by_chance: float
    unit: str
    compared: int

    @property
    def by_hash(self) -> bool:
        """Say whether the perceptual hash has found them: copies, where features find what looks alike."""
        return self.unit == "bits"

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
        """Return the numbers of the pairs whose images have different labels, int64 [M]."""
        labels = manifest.labels[self.pairs]
        return np.flatnonzero(labels[:, 0] != labels[:, 1])

    def describe_threshold(self) -> str:
        """Say up to which distance a pair counts, and what chance leaves there."""
        if self.threshold < 0:
            return f"the images are too alike to tell copies by their {self.means}"
        if not self.by_hash:
            return (
                f"features at most {self.threshold:g} times as far apart as is usual around both images; by "
                "chance, one image in a thousand has such a neighbour"
            )
        value = f"perceptual hashes differ in at most {self.threshold:g} of {BITS} bits"
        if math.isnan(self.by_chance):
            return f"{value}, the usual threshold, as there are too few images to estimate chance"
        expected = max(self.by_chance, 0.001)
        return f"{value}, and by chance at most {expected:.1g} pairs would"


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
    )


def near_by_features(features: NDArray[np.float32]) -> NearDuplicates:
    """Find images whose features are much nearer to each other than to the other images around them.

    The distance 1 - cosine of two images, of features without their mean, is divided by the geometric mean
    of the distances from both to their 20th neighbours, so that a dense class (skies, apples on white) is not
    taken for copies. Series of more than 20 images are not found.

    Args:
        features: Of a frozen network, float32 [N, D].
    """
    size = len(features)
    around = min(AROUND, size // 4)  # of few images the 20th neighbour is anything
    none = NearDuplicates(np.zeros((0, 2), np.int64), np.zeros(0), -1.0, math.nan, RELATIVE, size)
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
    sentences = []
    kind, how = "near-duplicates", "saved again, resized or slightly changed"
    if not found.by_hash:
        kind, how = "images that look alike", "found by features: crops, bursts, the same scene"
    leaking = found.across_splits(manifest)
    if len(leaking):
        rows = np.unique(found.pairs[leaking])
        scored = int((manifest.splits[rows] > 0).sum())
        names = " and ".join(SPLITS[s] for s in np.unique(manifest.splits[rows]).tolist())
        sentences.append(
            f"LEAKAGE: {counted(len(leaking), 'pair', 'pairs')} of {kind} ({how}) "
            f"{'is' if len(leaking) == 1 else 'are'} divided between {names}, which "
            f"concerns {counted(scored, 'image', 'images')} of val or test: "
            f"{_show(manifest, found, leaking)}."
        )
    groups = found.groups()
    members = sum(map(len, groups))
    stay = "; each group stays in one split" if drawn and not len(leaking) else ""
    sentences.append(
        f"{members:,} images form {counted(len(groups), 'group', 'groups')} of {kind} "
        f"({found.describe_threshold()}){stay}: {_show(manifest, found, np.arange(len(found.pairs)))}."
    )
    contradicting = found.across_labels(manifest)
    if len(contradicting):
        sentences.append(
            f"{counted(len(contradicting), f'pair of {kind} has', f'pairs of {kind} have')} different "
            f"labels: {_show(manifest, found, contradicting)}."
        )
    return tuple(sentences)


def _show(manifest: Manifest, found: NearDuplicates, numbers: NDArray[np.int64]) -> str:
    named = [
        f"{shown(manifest.paths[one])} ~ {shown(manifest.paths[other])}"
        for one, other in found.pairs[numbers[:NAMED]].tolist()
    ]
    return "; ".join(named) + ("; ..." if len(numbers) > NAMED else "")
