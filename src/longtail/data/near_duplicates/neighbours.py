"""Which vectors lie near each other: exactly, block by block, or with an index where there are very many."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from longtail.core.rng import numpy_generator

BLOCK = 2048  # rows and columns of similarities that are in memory at once: 17 MB
EXACT_UP_TO = 50_000  # vectors
WITHOUT_INDEX = (
    100_000  # vectors, a minute of one core; what comes beyond is left to who asks for it
)
NEIGHBOURS = 16  # of each vector that the index is asked for
LIBRARY = "usearch"
SAMPLE = 4000  # vectors whose distances stand for all


def can_search(size: int) -> bool:
    """Say whether pairs of so many vectors are found in a minute or two: few enough, or by an index."""
    return size <= WITHOUT_INDEX or importlib.util.find_spec(LIBRARY) is not None


def histogram_of_distances(unit: NDArray[np.float32], step: float) -> NDArray[np.int64]:
    """Return how many pairs have each distance 1 - cosine, in steps from 0 to 2, int64 [S].

    Args:
        unit: Vectors of length 1, float32 [N, D]; of more than 4,000 a sample counts.
        step: Width of a step; pair i belongs to the nearest one.
    """
    if len(unit) > SAMPLE:
        rows = numpy_generator(0, "distances").choice(len(unit), SAMPLE, replace=False)
        unit = unit[np.sort(rows)]
    size = round(2 / step) + 1
    counts = torch.zeros(size, dtype=torch.int64)
    everything = torch.from_numpy(unit)
    for start in range(0, len(unit), BLOCK):
        part = everything[start : start + BLOCK]
        found = (1 - part @ everything[start:].T) / step
        above = torch.ones_like(found, dtype=torch.bool).triu(1)  # each pair once
        steps = found[above].round_().clamp_(0, size - 1).to(torch.int64)
        counts += torch.bincount(steps, minlength=size)
    return counts.numpy()


def pairs_within(unit: NDArray[np.float32], distance: float) -> NDArray[np.int64]:
    """Return all pairs of vectors whose distance 1 - cosine is at most `distance`, int64 [P, 2].

    Up to 50,000 vectors every pair is looked at: 1,250,000,000 of them. Above that an index of the library
    usearch is asked for 16 neighbours of each, where it is installed (`pip install 'longtail[neighbours]'`);
    it misses a few (`benchmarks/speed/near_duplicates.py` measures how many). Without it every pair is looked
    at in any case, in a time that grows with the square.

    Args:
        unit: Vectors of length 1, float32 [N, D].
        distance: In 0 to 2.
    """
    if len(unit) > EXACT_UP_TO and importlib.util.find_spec(LIBRARY) is not None:
        return _by_index(unit, distance)
    everything, found = torch.from_numpy(unit), [torch.zeros((0, 2), dtype=torch.int64)]
    starts = range(0, len(unit), BLOCK)
    for row, column in itertools.combinations_with_replacement(starts, 2):
        near = everything[row : row + BLOCK] @ everything[column : column + BLOCK].T >= 1 - distance
        if row == column:
            near = near.triu(1)
        if near.any():
            found.append(near.nonzero() + torch.tensor([row, column]))
    pairs = torch.cat(found).numpy()
    return pairs[np.lexsort(pairs.T[::-1])]


def nearest(
    unit: NDArray[np.float32], number: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the nearest other vectors of each, int64 [N, K], and their distances 1 - cosine, float64 [N, K].

    By the index above 50,000 vectors, as in `pairs_within`.

    Args:
        unit: Vectors of length 1, float32 [N, D].
        number: K, at most N - 1.
    """
    if len(unit) > EXACT_UP_TO and importlib.util.find_spec(LIBRARY) is not None:
        keys, distances = _search(unit, number + 1)
        others = keys != np.arange(len(unit))[:, None]
        others[others.all(axis=1), -1] = False  # itself was not among those that were found
        return (
            keys[others].reshape(len(unit), number),
            distances[others].reshape(len(unit), number),
        )
    everything, found = torch.from_numpy(unit), []
    for start in range(0, len(unit), BLOCK // 4):
        cosines = everything[start : start + BLOCK // 4] @ everything.T
        rows = torch.arange(len(cosines))
        cosines[rows, rows + start] = -torch.inf
        found.append(cosines.topk(number, dim=1))
    values = torch.cat([part.values for part in found]).double()
    return torch.cat([part.indices for part in found]).numpy(), (1 - values).clamp(min=0).numpy()


def _search(
    unit: NDArray[np.float32], number: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    index: Any = importlib.import_module("usearch.index").Index(
        ndim=unit.shape[1], metric="cos", dtype="f32"
    )
    threads = torch.get_num_threads()
    index.add(np.arange(len(unit)), unit, threads=threads)
    matches = index.search(unit, number, threads=threads)
    return np.asarray(matches.keys).astype(np.int64), np.asarray(matches.distances, np.float64)


def _by_index(unit: NDArray[np.float32], distance: float) -> NDArray[np.int64]:
    keys, distances = _search(unit, NEIGHBOURS + 1)  # the first is the vector itself
    near = distances <= distance
    rows, _ = np.nonzero(near)
    both = np.sort(np.stack([rows, keys[near]], axis=1))
    pairs: NDArray[np.int64] = np.unique(both[both[:, 0] < both[:, 1]], axis=0)
    return pairs
