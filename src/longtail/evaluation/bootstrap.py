"""Intervals for class-averaged accuracies, alone and for the difference of two models.

Test images are drawn again with replacement inside each class, as test sets are made, and so are the
seeds of each model where there are several. Both models see the same draw of images, so that the
interval of their difference is that of a paired comparison. Images that belong together (of one animal,
burst or patient) are drawn together, because they are no independent witnesses (the cluster bootstrap; Field
and Welsh, JRSS B 2007).

A class whose images were all predicted alike is the same in every draw, which says nothing about how sure
its accuracy is; nor does a class in which no image tells two models apart say that they are equal. Its part
of the interval is Wilson's, joined with the rest by squares of the distances to the limits (MOVER; Zou and
Donner, Statistics in Medicine 2008).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longtail.core.groups import GROUP_NAMES, ShotGroups
from longtail.core.rng import numpy_generator
from longtail.core.words import counted
from longtail.evaluation.metrics import wilson_interval

DRAWS = 1000
DRAWS_AT_ONCE = 50


def group_masks(groups: ShotGroups) -> dict[str, NDArray[np.bool_]]:
    """Return bool [C] for all classes and for each shot group."""
    masks = {"all": np.ones(len(groups.assignment), dtype=bool)}
    return masks | {name: groups.mask(name).numpy() for name in GROUP_NAMES}


def drawn_again(labels: NDArray[np.int64], together: NDArray[np.int64] | None) -> str:
    """Say in words what `paired_intervals` draws again.

    Args:
        labels: int64 [N].
        together: As given to it.
    """
    names = np.arange(len(labels)) if together is None else together
    pairs = np.unique(np.stack([labels, names]), axis=1)
    _, units = np.unique(pairs[0], return_counts=True)
    text, what = "images resampled within each class", "image"
    if together is not None:
        found = counted(len(np.unique(together)), "unit", "units")
        text = f"{found} of images that belong together, resampled as a whole within each class"
        what = "unit"
    single = int((units == 1).sum())
    if single:
        text += (
            f" ({counted(single, 'class has', 'classes have')} only one {what}, which says little)"
        )
    return text


def paired_intervals(
    labels: NDArray[np.int64],
    before: NDArray[np.bool_],
    after: NDArray[np.bool_],
    groups: Mapping[str, NDArray[Any]],
    *,
    together: NDArray[np.int64] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Return accuracy and interval of both models and of their difference, by group of classes.

    Args:
        labels: int64 [N].
        before: Whether the first model was right, bool [N], or [S, N] for S seeds.
        after: Whether the second model was right, likewise; the numbers of seeds may differ.
        groups: Classes of each group, bool [C]; or their weights, float [C], which sum to 1 over classes with
            images.
        together: int64 [N], equal for images that belong together; None if each stands alone. What
            a unit has of one class is drawn as a whole, in that class.
        level: Of the intervals.
        seed: Of the draws.

    Returns:
        For each group `before`, `after`, `difference`, each with `value` and `interval` (low, high);
        both are None for a group without test images.
    """
    models = [np.atleast_2d(before).astype(bool), np.atleast_2d(after).astype(bool)]
    names = np.arange(len(labels)) if together is None else np.asarray(together)
    pairs, unit = np.unique(np.stack([labels, names]), axis=1, return_inverse=True)
    unit = unit.reshape(-1)  # [N], the unit of each image; U units in the order of their classes
    sizes = np.bincount(unit).astype(np.float32)  # [U], images
    hits = [
        np.stack([np.bincount(unit, weights=right) for right in model]).astype(np.float32)
        for model in models
    ]  # [S, U]
    classes, first, of_class = np.unique(pairs[0], return_index=True, return_counts=True)
    inside = {name: mask[classes] for name, mask in groups.items()}
    # mean over the classes of a group = sum over classes with these weights, [groups, classes]
    weights = np.stack([m / max(1, m.sum()) for m in inside.values()])

    def accuracy(right: NDArray[np.float32], drawn: NDArray[np.float32]) -> NDArray[np.float64]:
        """Hits and images of units in the order of their classes, [..., U] -> [..., groups]."""
        by_class = [np.add.reduceat(x, first, axis=-1) for x in (right, drawn)]  # whole numbers
        of_groups: NDArray[np.float64] = (by_class[0] / by_class[1]) @ weights.T
        return of_groups

    drawn = _drawn(hits, sizes, first, of_class, accuracy, seed)
    values = [accuracy(model, sizes).mean(axis=0) for model in hits]
    values.append(values[1] - values[0])
    spread = [*drawn, drawn[1] - drawn[0]]
    # squared distances to the limits that no draw shows, [2, classes]
    rates = [model / sizes for model in hits]
    of_classes = [_unseen(each, first, of_class, level) for each in rates]
    either = of_classes[1] + of_classes[0][::-1]
    of_classes.append(_unseen_difference(rates, either, first, of_class, level))
    unseen = [each @ np.square(weights).T for each in of_classes]  # [2, groups]
    tail = (1 - level) / 2
    result: dict[str, dict[str, Any]] = {}
    for place, name in enumerate(groups):
        result[name] = {}
        for key, value, draws, more in zip(
            ("before", "after", "difference"), values, spread, unseen, strict=True
        ):
            limits = np.quantile(draws[:, place], [tail, 1 - tail])
            least = -1.0 if key == "difference" else 0.0
            interval = _widened(float(value[place]), limits, more[:, place], least)
            known = bool(inside[name].any())
            result[name][key] = {
                "value": float(value[place]) if known else None,
                "interval": interval if known else None,
            }
    return result


def _drawn(
    hits: Sequence[NDArray[np.float32]],
    sizes: NDArray[np.float32],
    first: NDArray[np.int64],
    of_class: NDArray[np.int64],
    accuracy: Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float64]],
    seed: int,
) -> list[NDArray[np.float64]]:
    """Draw units and seeds again and return the accuracies of each model, [draws, groups].

    Args:
        hits: Of each model, by seed and unit, [S, U].
        sizes: Images of each unit, [U].
        first: First unit of each class, [classes].
        of_class: Number of units of each class, [classes].
        accuracy: Of hits and sizes of drawn units, [..., U] -> [..., groups].
        seed: Of the draws.
    """
    start, choices = np.repeat(first, of_class), np.repeat(of_class, of_class)
    generator = numpy_generator(seed, "bootstrap")
    drawn: list[list[NDArray[np.float64]]] = [[], []]
    for _ in range(DRAWS // DRAWS_AT_ONCE):
        shape = (DRAWS_AT_ONCE, len(sizes))
        # a unit of the same class for every place
        inside_class = (generator.random(shape, dtype=np.float32) * choices).astype(np.int64)
        # rounding may reach the size of a large class
        places = start + np.minimum(inside_class, choices - 1)
        for kept, model in zip(drawn, hits, strict=True):
            chosen = generator.integers(len(model), size=(DRAWS_AT_ONCE, len(model)))
            by_seed = np.stack([accuracy(right[places], sizes[places]) for right in model])
            kept.append(  # [S, draws, groups] -> [draws, groups]
                np.stack([by_seed[seeds, d].mean(axis=0) for d, seeds in enumerate(chosen)])
            )
    return [np.concatenate(kept) for kept in drawn]


def _unseen(
    rates: NDArray[np.floating[Any]],
    first: NDArray[np.int64],
    of_class: NDArray[np.int64],
    level: float,
) -> NDArray[np.float64]:
    """Return how far Wilson's limits are from classes whose units are all alike, squared.

    Args:
        rates: Share of hits of each unit, [S, U].
        first: First unit of each class, [classes].
        of_class: Number of units of each class, [classes].
        level: Of the limits.

    Returns:
        Below and above, [2, classes]; 0 for a class whose units differ, which the draws show.
    """
    highest, lowest = (f.reduceat(rates, first, axis=-1) for f in (np.maximum, np.minimum))
    found = np.zeros((2, len(first)))
    for place in np.flatnonzero((highest == lowest).all(axis=0)):
        share, units = float(highest[:, place].mean()), int(of_class[place])
        low, high = wilson_interval(share * units, units, level)
        found[:, place] = (share - low) ** 2, (high - share) ** 2
    return found


def _unseen_difference(
    rates: Sequence[NDArray[np.floating[Any]]],
    either: NDArray[np.float64],
    first: NDArray[np.int64],
    of_class: NDArray[np.int64],
    level: float,
) -> NDArray[np.float64]:
    """Return how far the limits of the difference are from classes where it is that of every unit, squared.

    Most often no unit of such a class tells the models apart. That is no hit in n units for either of them,
    so the limits are Wilson's of 0 hits on both sides, which are Tango's for paired shares (Statistics in
    Medicine 1998).

    Args:
        rates: Share of hits of each unit, [S, U], of both models; the numbers of seeds may differ.
        either: What is unseen of the models apart, [2, classes]; kept where the differences differ.
        first: First unit of each class, [classes].
        of_class: Number of units of each class, [classes].
        level: Of the limits.

    Returns:
        Below and above, [2, classes].
    """
    before, after = rates
    largest = np.maximum.reduceat(after.max(axis=0) - before.min(axis=0), first)
    smallest = np.minimum.reduceat(after.min(axis=0) - before.max(axis=0), first)
    found = either.copy()
    for place in np.flatnonzero(largest == smallest):
        units, share = int(of_class[place]), abs(float(largest[place]))
        low, high = wilson_interval(share * units, units, level)
        near, far = (share - low) ** 2, (high - share) ** 2
        if share == 0:
            near = far
        found[:, place] = (near, far) if largest[place] >= 0 else (far, near)
    return found


def _widened(
    value: float, limits: NDArray[np.float64], more: NDArray[np.float64], least: float
) -> list[float]:
    """Join the limits of the draws with what they do not show (squared, below and above)."""
    low, high = (float(limit) for limit in limits)
    if more[0] > 0:
        low = max(least, value - float(np.hypot(max(0.0, value - low), more[0] ** 0.5)))
    if more[1] > 0:
        high = min(1.0, value + float(np.hypot(max(0.0, high - value), more[1] ** 0.5)))
    return [low, high]
