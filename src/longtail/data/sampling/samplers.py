"""Which images come next: samplers as class probabilities, free of state.

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

import difflib
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from longtail.core import distributed
from longtail.core.counts import ClassCounts
from longtail.core.errors import ConfigError
from longtail.core.rng import hashed, numpy_generator
from longtail.core.stage import Sampling

Indices = NDArray[np.int64]
# samplers from outside the package: class counts, epoch and epochs of the stage -> weights of the classes [C]
SAMPLERS: dict[str, Callable[[ClassCounts, int, int], NDArray[np.float64]]] = {}
EXPONENTS = {"instance": 1.0, "square-root": 0.5, "class-balanced": 0.0, "reversed": -1.0}
# added to the stage where images are shuffled: larger than any stage, so that no two streams meet
IMAGE_STREAM = 1_000_003


def class_probability(
    sampling: Sampling, counts: ClassCounts, epoch: int = 0, epochs: int = 1
) -> NDArray[np.float64]:
    """Return the probability of each class, float64 [C], summing to 1.

    Args:
        sampling: Which sampler; `form` does not matter here.
        counts: Training images per class.
        epoch: Epoch inside the stage from 0; matters for `progressive` and deferred sampling.
        epochs: Epochs of the stage.

    Raises:
        ConfigError: If there is no such sampler, or the weights given, or returned by that of a plug-in, are
            not one for each class, none below 0 and some above.
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
        weight = _weights_of(sampling.weights, "Sampling.weights", counts)
    elif name == "effective-number":
        if not 0 <= sampling.beta < 1:
            raise ConfigError(f"Sampling.beta must be in [0, 1), but got {sampling.beta}.")
        # a class is drawn with the total weight of its images, each of them 1 / E(n)
        weight = n * (1 - sampling.beta) / (1 - sampling.beta**n)
    elif name in SAMPLERS:
        returned = SAMPLERS[name](counts, epoch, epochs)
        weight = _weights_of(returned, f"What the sampler {name} returns", counts)
    elif name in EXPONENTS:
        weight = n ** EXPONENTS[name]
    else:
        known = [*EXPONENTS, "progressive", "effective-number", "weights", *SAMPLERS]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"There is no sampler {name!r}{hint} (known: {', '.join(known)})")
    normalised: NDArray[np.float64] = weight / weight.sum()
    return normalised


def _weights_of(given: ArrayLike, what: str, counts: ClassCounts) -> NDArray[np.float64]:
    weight = np.asarray(given, dtype=np.float64)
    fine = weight.shape == (len(counts),) and np.isfinite(weight).all() and (weight >= 0).all()
    if not fine or weight.sum() == 0:
        raise ConfigError(
            f"{what} must be a weight for each of the {len(counts)} classes, none below 0 and not all of "
            f"them 0, but got {weight.tolist()}."
        )
    return weight


def group_preferred(preferred: NDArray[np.bool_], rho: float) -> NDArray[np.float64]:
    """Return class probabilities in the ratio rho (of a preferred class) to 1 - rho, float64 [C], sum 1.

    Source: DO, eq. 1, sampling of the medium stage, read as a ratio of classes.

    Args:
        preferred: Classes of the group, bool [C].
        rho: Preference in (0, 1); 0.5 is class-balanced.

    Raises:
        ConfigError: If rho is not inside (0, 1).
    """
    if not 0 < rho < 1:
        raise ConfigError(f"rho must be in (0, 1), but got {rho}.")
    weight = np.where(preferred, rho, 1 - rho)
    normalised: NDArray[np.float64] = weight / weight.sum()
    return normalised


class EpochSampler:
    """Draws the batches of every epoch of one stage.

    Args:
        labels: int64 [N], the label of each training image.
        counts: Their histogram.
        sampling: What to draw.
        batch_size: Joint batch over all processes.
        epochs: Epochs of the stage.
        seed: Seed of the run.
        stage: Index of the stage (and of the stream inside it) for the random numbers.
        steps: Of an epoch; floor(N / B) if not given, so that all samplers see the same number of updates.

    Raises:
        ConfigError: If the batch is larger than the training set.
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
        steps: int | None = None,
    ) -> None:
        self.steps = steps or len(labels) // batch_size
        if len(labels) < batch_size:
            raise ConfigError(
                f"training.batch_size must be at most the number of training images "
                f"({len(labels)}), but got {batch_size}."
            )
        self._order = np.argsort(labels, kind="stable").astype(np.int64)  # images, class by class
        self._n = np.array(counts.values, dtype=np.int64)
        self._first = np.cumsum(self._n) - self._n  # where a class begins in `_order`
        self._counts, self._sampling = counts, sampling
        self._batch_size, self._epochs, self._seed, self._stage = batch_size, epochs, seed, stage
        # draws of each class before an epoch, for cycles that outlive epochs
        self._drawn: dict[int, Indices] = {0: np.zeros(len(self._n), dtype=np.int64)}

    @property
    def epochs(self) -> int:
        """Epochs of the stage."""
        return self._epochs

    def batches(self, epoch: int, rank: int = 0, world: int = 1) -> Indices:
        """Return the images of `epoch` for one process, int64 [steps, batch_size / world].

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
            images = len(self._order)
            passes = [order.permutation(images) for _ in range(-(-size // images))]
            return np.asarray(np.concatenate(passes)[:size], dtype=np.int64)
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
        """Draw as the released class-aware sampler: an endless cycle over the classes, shuffled anew in
        every round; each class in turn gives its next `draws_per_class` images.

        The cycle goes on over the epochs. The n-th draw of a stage is computed from n alone, so that a
        resumed run need not draw what came before.
        """
        per_turn, num_classes = self._sampling.draws_per_class, len(self._n)
        first_epoch = self._sampling.switch_epoch or 0
        nth_draw = (epoch - first_epoch) * size + np.arange(size, dtype=np.int64)
        nth_turn, inside_turn = nth_draw // per_turn, nth_draw % per_turn
        rounds, turn = nth_turn // num_classes, nth_turn % num_classes
        first_round = rounds[0]
        orders = self._class_orders(first_round, rounds[-1])
        classes = orders[rounds - first_round, turn]
        # every earlier round took `per_turn` images of each class
        return self._images(classes, rounds * per_turn + inside_turn)

    def _class_orders(self, first: np.int64, last: np.int64) -> Indices:
        """Return the order of the classes in the rounds `first` to `last`, int64 [rounds, C].

        Classes are sorted by a random number of (round, class): a shuffle that no other round enters.
        """
        rounds = np.arange(first, last + 1)[:, None]
        numbers = hashed(self._seed, _word(self._stage), rounds, np.arange(len(self._n)))
        return np.argsort(numbers, axis=1).astype(np.int64)

    def _next_of_each_class(self, classes: Indices, before: Indices) -> Indices:
        """Give the images of `classes` where each class goes on in its own shuffled cycle.

        Args:
            classes: The class of each draw of the epoch, int64 [draws].
            before: Draws of each class in earlier epochs, int64 [C].
        """
        # sorted by class, the draws of a class lie side by side in the order in which they came, so the
        # number of a draw inside its class is its place less the place of the class's first one
        by_class = np.argsort(classes, kind="stable")
        nth_of_class = np.empty_like(classes)
        nth_of_class[by_class] = _places_in_blocks(np.bincount(classes, minlength=len(self._n)))
        return self._images(classes, before[classes] + nth_of_class)

    def _images(self, classes: Indices, number: Indices) -> Indices:
        """Return the `number`-th image of each class, int64 [draws].

        A class shows all of its n images in a shuffled order, then all of them in another one, and so
        on: its draw `number` is at place number % n of its pass number // n. The order of a pass is a
        random function of (seed, stage, class, pass), so nothing is remembered between calls.
        """
        n = self._n[classes]
        passes, place = number // n, number % n
        # few passes of few classes occur: shuffle each of them once, in blocks laid one after the other
        pass_classes, pass_numbers, block = _unique_pairs(classes, passes)
        orders, begin = self._shuffled_blocks(pass_classes, pass_numbers)
        in_class = orders[begin[block] + place]
        drawn: Indices = self._order[self._first[classes] + in_class]
        return drawn

    def _shuffled_blocks(self, classes: Indices, passes: Indices) -> tuple[Indices, Indices]:
        """Return one shuffled block 0 ... n - 1 for each pass of a class, and where each block begins."""
        lengths = self._n[classes]
        block = np.repeat(np.arange(len(classes)), lengths)
        unshuffled = _places_in_blocks(lengths)
        # a stream of its own, apart from the numbers that order the classes
        stage = _word(self._stage + IMAGE_STREAM)
        numbers = hashed(self._seed, stage, classes[block], passes[block], unshuffled)
        by_block_then_number = np.lexsort((numbers, block))  # the last key sorts first
        return unshuffled[by_block_then_number], np.cumsum(lengths) - lengths


def _places_in_blocks(lengths: Indices) -> Indices:
    """Return 0 ... n - 1 for each n of `lengths`, one after the other: [2, 3] gives 0 1 0 1 2."""
    begin = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) - np.repeat(begin, lengths)


def _unique_pairs(first: Indices, second: Indices) -> tuple[Indices, Indices, Indices]:
    """Return both parts of the pairs that occur, and for each given pair which of them it is.

    A pair is one number, first * (largest second + 1) + second, which sorts faster than rows of two.
    """
    span = int(second.max()) + 1
    pairs, which = np.unique(first * span + second, return_inverse=True)
    return pairs // span, pairs % span, which


def _word(number: int) -> Indices:
    return np.array(number, dtype=np.int64)
