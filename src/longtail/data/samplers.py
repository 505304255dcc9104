"""Which pictures come next: samplers as class probabilities, free of state.

A sampler is a class probability p_c (a function of the epoch) and a way to draw inside a class.
Every draw is a function of (seed, stage, epoch, place in the epoch), so a run can stop and resume
anywhere, and P processes together see the same global order as one.

    instance          p_c = n_c / N                                  Decoupling, q = 1
    square-root       p_c proportional to n_c^(1/2)                  Decoupling, q = 1/2
    class-balanced    p_c = 1 / C                                    Decoupling, q = 0
    reversed          p_c proportional to 1 / n_c                    BBN
    progressive       p_c = (1 - t) n_c / N + t / C, t = e / (T-1)   Decoupling; the paper writes e / T,
                      the released code reaches exactly class-balanced in the last epoch, as we do
    effective-number  p_c proportional to n_c (1 - beta) / (1 - beta^n_c)   Cui et al. 2019; CE-DRS
    weights           p_c proportional to given weights
    group-preferred   p_c proportional to rho inside a group, 1 - rho outside: `group_preferred`
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from longtail.core import distributed
from longtail.core.counts import ClassCounts
from longtail.core.errors import ConfigError
from longtail.core.rng import hashed, numpy_generator
from longtail.core.stage import Sampling

Indices = NDArray[np.int64]
Preference = Literal["class-ratio", "picture-weight", "group-mass", "group-mass-uniform"]


def class_probability(
    sampling: Sampling, counts: ClassCounts, epoch: int = 0, epochs: int = 1
) -> NDArray[np.float64]:
    """Return the probability of each class, float64 [C], summing to 1.

    Args:
        sampling: Which sampler; `form` does not matter here.
        counts: Training pictures per class.
        epoch: Epoch inside the stage from 0; matters for `progressive` and deferred sampling.
        epochs: Epochs of the stage.
    """
    n = np.array(counts.values, dtype=np.float64)
    name = sampling.name
    if sampling.switch_epoch is not None and epoch < sampling.switch_epoch:
        name = "instance"
    if name == "progressive":
        share = epoch / (epochs - 1) if epochs > 1 else 1.0
        mixed: NDArray[np.float64] = (1 - share) * n / n.sum() + share / len(n)
        return mixed
    if name == "weights":
        weight = np.array(sampling.weights, dtype=np.float64)
    elif name == "effective-number":
        # a class is drawn with the total weight of its pictures, each of them 1 / E(n)
        weight = n * (1 - sampling.beta) / (1 - sampling.beta**n)
    else:
        exponent = {"instance": 1.0, "square-root": 0.5, "class-balanced": 0.0, "reversed": -1.0}
        weight = n ** exponent[name]
    normalised: NDArray[np.float64] = weight / weight.sum()
    return normalised


def group_preferred(
    preferred: NDArray[np.bool_],
    rho: float,
    counts: ClassCounts,
    reading: Preference = "class-ratio",
) -> NDArray[np.float64]:
    """Return class probabilities that prefer a group, float64 [C], summing to 1.

    The source (DO, sampling of stage 2) writes rho inside the group and 1 - rho outside, of what it does
    not say:

        class-ratio          of classes, which are then normalised (its numbers make sense so)
        picture-weight       of pictures
        group-mass           of the whole group, whose pictures are drawn alike
        group-mass-uniform   of the whole group, whose classes are drawn alike

    Args:
        preferred: Classes of the group, bool [C].
        rho: Preference in (0, 1); 0.5 is class-balanced under `class-ratio`.
        counts: Training pictures per class.
        reading: See above.

    Raises:
        ConfigError: If rho is not inside (0, 1).
    """
    if not 0 < rho < 1:
        raise ConfigError(f"rho must be in (0, 1), but got {rho}.")
    weight = np.where(preferred, rho, 1 - rho)
    if reading in ("picture-weight", "group-mass"):
        weight = weight * np.array(counts.values, dtype=np.float64)
    if reading in ("group-mass", "group-mass-uniform"):
        for group, mass in ((preferred, rho), (~preferred, 1 - rho)):
            if group.any():
                weight[group] *= mass / weight[group].sum()
    normalised: NDArray[np.float64] = weight / weight.sum()
    return normalised


class EpochSampler:
    """Draws the batches of every epoch of one stage.

    Args:
        labels: int64 [N], the label of each training picture.
        counts: Their histogram.
        sampling: What to draw.
        batch_size: Joint batch over all processes.
        epochs: Epochs of the stage.
        seed: Seed of the run.
        stage: Index of the stage (and of the stream inside it) for the random numbers.

    Raises:
        ConfigError: If the batch is larger than the training set: floor(N / B) is the number of
            steps of an epoch for every sampler, so that all see the same number of updates.
    """

    def __init__(
        self,
        labels: Indices,
        counts: ClassCounts,
        sampling: Sampling,
        *,
        batch_size: int,
        epochs: int,
        seed: int,
        stage: int = 0,
    ) -> None:
        self.steps = len(labels) // batch_size
        if self.steps == 0:
            raise ConfigError(
                f"training.batch_size must be at most the number of training pictures "
                f"({len(labels)}), but got {batch_size}."
            )
        self._order = np.argsort(labels, kind="stable").astype(np.int64)  # pictures, class by class
        self._n = np.array(counts.values, dtype=np.int64)
        self._first = np.cumsum(self._n) - self._n  # where a class begins in `_order`
        self._counts, self._sampling = counts, sampling
        self._batch_size, self._epochs, self._seed, self._stage = batch_size, epochs, seed, stage
        # draws of each class before an epoch, for cycles that outlive epochs
        self._drawn: dict[int, Indices] = {0: np.zeros(len(self._n), dtype=np.int64)}

    def batches(self, epoch: int, rank: int = 0, world: int = 1) -> Indices:
        """Return the pictures of `epoch` for one process, int64 [steps, batch_size / world].

        Process r gets places r, r + world, ... of every joint batch. Values are positions in
        `labels`.
        """
        joint = self._epoch(epoch).reshape(self.steps, self._batch_size)
        if self._blocks_of_a_class():
            # blocks of equal labels would give each process of a split batch its own few classes
            shuffler = numpy_generator(self._seed, "batch order", self._stage, epoch)
            joint = shuffler.permuted(joint, axis=1)
        return np.ascontiguousarray(joint[:, rank::world])

    def local_batches(self, epoch: int) -> Indices:
        """Return `batches` for this process of the process group."""
        return self.batches(epoch, distributed.rank(), distributed.world_size())

    def _before_switch(self, epoch: int) -> bool:
        return self._sampling.switch_epoch is not None and epoch < self._sampling.switch_epoch

    def _blocks_of_a_class(self) -> bool:
        return self._sampling.form == "published" and self._sampling.name == "class-balanced"

    def _epoch(self, epoch: int) -> Indices:
        size = self.steps * self._batch_size
        name, form = self._sampling.name, self._sampling.form
        if form == "published" and (name == "instance" or self._before_switch(epoch)):
            order = numpy_generator(self._seed, "epoch order", self._stage, epoch)
            return np.asarray(order.permutation(len(self._order))[:size], dtype=np.int64)
        if form == "published" and name == "class-balanced":
            return self._class_aware_cycles(epoch, size)
        classes = self._random_classes(epoch, size)
        if form == "published" and name == "progressive":
            return self._next_of_each_class(classes, self._drawn_before(epoch, size))
        within = numpy_generator(self._seed, "picture in class", self._stage, epoch)
        drawn: Indices = self._order[self._first[classes] + within.integers(self._n[classes])]
        return drawn

    def _random_classes(self, epoch: int, size: int) -> Indices:
        """Draw classes with replacement. Search in a cumulated sum knows no limit of 2^24."""
        p = class_probability(self._sampling, self._counts, epoch, self._epochs)
        uniform = numpy_generator(self._seed, "class", self._stage, epoch).random(size)
        bounds = np.cumsum(p)
        found = np.searchsorted(bounds, uniform * bounds[-1], side="right")
        return np.asarray(np.minimum(found, len(p) - 1), dtype=np.int64)

    def _drawn_before(self, epoch: int, size: int) -> Indices:
        """Count the draws of each class in earlier epochs; recomputed after a resume."""
        for earlier in range(max(e for e in self._drawn if e <= epoch), epoch):
            drawn = np.bincount(self._random_classes(earlier, size), minlength=len(self._n))
            self._drawn = {earlier + 1: self._drawn[earlier] + drawn, 0: self._drawn[0]}
        return self._drawn[epoch]

    def _class_aware_cycles(self, epoch: int, size: int) -> Indices:
        """Released class-aware sampler: an endless shuffled cycle over the classes; each class in
        turn gives its next `draws_per_class` pictures. The cycles go on over the epochs.
        """
        k, num_classes = self._sampling.draws_per_class, len(self._n)
        first_epoch = self._sampling.switch_epoch or 0
        place = np.arange(size, dtype=np.int64) + (epoch - first_epoch) * size
        block = place // k
        cycle, turn = block // num_classes, block % num_classes
        rounds = np.arange(cycle[0], cycle[-1] + 1)
        keys = hashed(self._seed, _word(self._stage), rounds[:, None], np.arange(num_classes))
        order = np.argsort(keys, axis=1)  # [rounds, C], a permutation of the classes per round
        classes = order[cycle - cycle[0], turn].astype(np.int64)
        return self._pictures(classes, cycle * k + place % k)

    def _next_of_each_class(self, classes: Indices, before: Indices) -> Indices:
        """Give the pictures of `classes` where each class goes on in its own shuffled cycle."""
        by_class = np.argsort(classes, kind="stable")
        drawn = np.bincount(classes, minlength=len(self._n))
        nth = np.empty_like(classes)
        nth[by_class] = np.arange(len(classes)) - np.repeat(np.cumsum(drawn) - drawn, drawn)
        return self._pictures(classes, before[classes] + nth)

    def _pictures(self, classes: Indices, number: Indices) -> Indices:
        """Return the `number`-th draw of each class: every cycle shows each picture of it once."""
        n = self._n[classes]
        cycle, place = number // n, number % n
        # one shuffled list per (class, cycle) that occurs, laid one after the other
        span = int(cycle.max()) + 1
        pairs, which = np.unique(classes * span + cycle, return_inverse=True)
        pair_class, pair_cycle = pairs // span, pairs % span
        lengths = self._n[pair_class]
        starts = np.cumsum(lengths) - lengths
        owner = np.repeat(np.arange(len(pairs)), lengths)
        inside = np.arange(len(owner)) - starts[owner]
        stage = _word(self._stage + 1_000_003)  # not the numbers that order the classes
        keys = hashed(self._seed, stage, pair_class[owner], pair_cycle[owner], inside)
        shuffled = inside[np.lexsort((keys, owner))]
        drawn: Indices = self._order[self._first[classes] + shuffled[starts[which] + place]]
        return drawn


def _word(number: int) -> Indices:
    return np.array(number, dtype=np.int64)
