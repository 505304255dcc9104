"""Parents of classes: a coarser class where the class itself is uncertain.

The probability of an ancestor is the sum over the classes below it. If no class is certain enough, a coarser
name may be (hedging; Deng et al., CVPR 2012).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from longtail.core.errors import DataError
from longtail.core.names import shown


@dataclass(frozen=True)
class Hierarchy:
    """Classes and their ancestors.

    Attributes:
        classes: C names.
        parents: Parent of each class, and of parents that have one.
    """

    classes: tuple[str, ...]
    parents: Mapping[str, str]

    def __post_init__(self) -> None:
        if lacking := [name for name in self.classes if name not in self.parents]:
            raise DataError(f"The hierarchy has no parent for: {_some(lacking)}.")
        for name in self.classes:
            above = [name]
            while (parent := self.parents.get(above[-1])) is not None:
                if parent in above:
                    raise DataError(f"The hierarchy contains a cycle: {_some([*above, parent])}.")
                above.append(parent)
        if taken := [name for name in self.parents.values() if name in self.classes]:
            raise DataError(
                f"A class cannot be the parent of others: {_some(list(dict.fromkeys(taken)))}. Give the "
                "parent a name of its own."
            )
        if not self.levels:
            raise DataError(
                "The hierarchy has no ancestor that contains some of the classes but not all."
            )

    def chain(self, name: str) -> tuple[str, ...]:
        """Return the ancestors of a class, the finest first."""
        above = []
        while (parent := self.parents.get(name)) is not None:
            above.append(parent)
            name = parent
        return tuple(above)

    @cached_property
    def members(self) -> dict[str, NDArray[np.bool_]]:
        """Classes below each ancestor, bool [C]; an ancestor of all classes says nothing and is left out."""
        found: dict[str, NDArray[np.bool_]] = {}
        for label, name in enumerate(self.classes):
            for above in self.chain(name):
                found.setdefault(above, np.zeros(len(self.classes), dtype=bool))[label] = True
        return {name: inside for name, inside in found.items() if not inside.all()}

    @cached_property
    def levels(self) -> tuple[tuple[str, ...], ...]:
        """Ancestors by distance from the classes, the finest first; a class has at most one per level.

        An ancestor at several distances counts at the largest.
        """
        height: dict[str, int] = {}
        for name in self.classes:
            for distance, above in enumerate(self.chain(name)):
                if above in self.members:
                    height[above] = max(distance, height.get(above, 0))
        by_level: dict[int, list[str]] = {}
        for name, level in sorted(height.items()):
            by_level.setdefault(level, []).append(name)
        return tuple(tuple(by_level[level]) for level in sorted(by_level))

    def predicted(
        self, probabilities: NDArray[np.float64], level: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the most probable ancestor of a level for each image, and its probability, [N] each.

        Args:
            probabilities: Of the classes, [N, C].
            level: From 0, the finest.
        """
        inside = np.stack([self.members[name] for name in self.levels[level]])
        summed = probabilities @ inside.T.astype(np.float64)
        best = summed.argmax(axis=1)
        return best, np.take_along_axis(summed, best[:, None], axis=1)[:, 0]

    def right(
        self, predicted: NDArray[np.int64], labels: NDArray[np.int64], level: int
    ) -> NDArray[np.bool_]:
        """Say for each image whether its class lies below the predicted ancestor, bool [N]."""
        inside = np.stack([self.members[name] for name in self.levels[level]])
        hits: NDArray[np.bool_] = inside[predicted, labels]
        return hits


def read_parents(rows: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Return the parent of each name.

    Args:
        rows: Name and parent; an empty parent ends the chain.

    Raises:
        DataError: If a name has two parents.
    """
    found: dict[str, str] = {}
    for name, parent in rows:
        if parent and found.setdefault(name, parent) != parent:
            raise DataError(
                f"The hierarchy gives {shown(name, 60)} two parents: {shown(found[name], 60)} and "
                f"{shown(parent, 60)}."
            )
    return found


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 8:,} more" if len(names) > 8 else ""
    return ", ".join(shown(name, 60) for name in names[:8]) + more
