"""Random numbers for the images of a batch, drawn on the host."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Draws:
    """One random number per image, as often as it is asked for.

    The numbers are drawn on the host: which images an operation touches is then known without
    waiting for the device, and a CPU and a GPU augment alike. The numbers of the joint batch are
    drawn and this process's places are kept, so that an image gets the same augmentation for any
    number of processes.

    Attributes:
        generator: NumPy's.
        size: Images of this process, B.
        rank: Of this process.
        world: Number of processes.
    """

    generator: np.random.Generator
    size: int
    rank: int = 0
    world: int = 1

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Numbers:
        """Return one number in [low, high) per image, float64 [B]."""
        joint = self.generator.uniform(low, high, self.size * self.world)
        return joint[self.rank :: self.world]

    def normal(self, mean: float, deviation: float) -> Numbers:
        """Return one normal number per image, float64 [B]."""
        joint = self.generator.normal(mean, deviation, self.size * self.world)
        return joint[self.rank :: self.world]

    def integers(self, high: int) -> NDArray[np.int64]:
        """Return one integer in 0..high-1 per image, int64 [B]."""
        joint = self.generator.integers(high, size=self.size * self.world)
        return joint[self.rank :: self.world]

    def chance(self, probability: float) -> NDArray[np.bool_]:
        """Return true with `probability` for each image, bool [B]."""
        return self.uniform() < probability

    def sign(self) -> Numbers:
        """Return -1 or 1 per image, float64 [B]."""
        return np.where(self.chance(0.5), 1.0, -1.0)

    def order(self, length: int) -> NDArray[np.int64]:
        """Return a permutation of 0..length-1 per image, int64 [B, length]."""
        joint = self.generator.random((self.size * self.world, length)).argsort(axis=1)
        return joint[self.rank :: self.world]
