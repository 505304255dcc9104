"""Labels that are probably wrong: held against a classifier that was fitted to other images.

Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 2021.

    p(j | x)   of a classifier that was fitted without x (out of fold)
    t_j        class-wise threshold: mean of p(j | x) over the images labelled j (equation 2)
    C_ij       images labelled i whose most probable class among those with p(j | x) >= t_j is j (equation 1);
               those off the diagonal are suspicious, if another class is ten times as probable as the label

The classifier is a linear discriminant on features, whose classes share a covariance and are equally
probable: its prior is taken out, so that no image is suspicious because its class is rare. Images are ranked
by the logarithm of p(label) / p(most probable other class). The adjusted confidence p(label | x) - t_label is
not used: on CIFAR-100-LT it finds 2.5 to 3 % of the wrong labels in few-shot classes
(`benchmarks/accuracy/wrong_labels.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from longtail.core.errors import DataError
from longtail.core.rng import numpy_generator

FOLDS = 5
SHRINKAGE = 0.3  # chosen on CIFAR-100-LT among 0.05, 0.2 and 0.3
TIMES = 10  # as probable as the label; of the wrong labels of CIFAR-100-LT, 3 and 30 find more and fewer
TEMPERATURES = tuple(2.0 ** (half / 2) for half in range(-2, 13))
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LabelQuality:
    """What is known of every label, row by row.

    Attributes:
        margin: Logarithm of p(label) / p(most probable other class), float64 [N]; the smaller, the more
            probably wrong. NaN for a class whose images are all in one fold, which nothing is known of.
        own: Out-of-fold probability of the label, float64 [N].
        other: The most probable other class, int64 [N].
        other_probability: Of it, float64 [N].
        off_diagonal: Whether it counts as another class in C, and another class is more probable, bool [N].
    """

    margin: Floats
    own: Floats
    other: NDArray[np.int64]
    other_probability: Floats
    off_diagonal: NDArray[np.bool_]

    @property
    def suspicious(self) -> NDArray[np.bool_]:
        """Off the diagonal of C, and another class is ten times as probable, bool [N]."""
        found: NDArray[np.bool_] = self.off_diagonal & (self.margin < -np.log(TIMES))
        return found

    def ranking(self) -> NDArray[np.int64]:
        """Return the rows that were judged, the most probably wrong first."""
        order = np.argsort(self.margin, kind="stable")  # NaN comes last
        return order[: int(np.isfinite(self.margin).sum())]


def judge_labels(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: int,
    *,
    together: NDArray[np.int64] | None = None,
    folds: int = FOLDS,
    seed: int = 0,
) -> LabelQuality:
    """Hold every label against a classifier that did not see the image.

    Args:
        features: Of a frozen network, float32 [N, D].
        labels: int64 [N] in 0..C-1.
        classes: C.
        together: int64 [N], equal for copies of one image, which are in one fold; all different if not given.
        folds: Number of classifiers.
        seed: Of the folds.

    Raises:
        DataError: If fewer than two classes have images in two folds.
    """
    fold = deal_folds(labels, together, folds, seed)
    logits = out_of_fold_logits(features, labels, classes, fold)
    known = np.isfinite(logits[np.arange(len(labels)), labels])
    if len(np.unique(labels[known])) < 2:
        raise DataError(
            "Labels cannot be judged: two classes at least must have two images that are no copies of one."
        )
    logits = logits / _temperature(logits[known], labels[known])
    probabilities = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    return from_probabilities(probabilities, labels, known)


def from_probabilities(
    probabilities: Floats, labels: NDArray[np.int64], known: NDArray[np.bool_]
) -> LabelQuality:
    """Judge labels by out-of-fold probabilities [N, C]; `known` [N] says which can be judged at all."""
    rows = np.arange(len(labels))
    own = np.where(known, probabilities[rows, labels], np.nan)
    others = probabilities.copy()
    others[rows, labels] = -1
    other = others.argmax(axis=1)
    other_probability = others[rows, other]
    tiny = np.finfo(np.float64).tiny
    margin = np.log(np.maximum(own, tiny)) - np.log(np.maximum(other_probability, tiny))
    counts = np.bincount(labels[known], minlength=probabilities.shape[1])
    sums = np.bincount(labels[known], own[known], minlength=probabilities.shape[1])
    thresholds = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)  # equation 2
    confident = np.where(probabilities >= thresholds, probabilities, -1)
    counted_as = confident.argmax(axis=1)  # equation 1
    off_diagonal = known & (confident.max(axis=1) >= 0) & (counted_as != labels) & (margin < 0)
    return LabelQuality(margin, own, other, other_probability, off_diagonal)


def deal_folds(
    labels: NDArray[np.int64], together: NDArray[np.int64] | None, folds: int, seed: int
) -> NDArray[np.int64]:
    """Return the fold of every image, int64 [N]: classes are spread evenly, units are not parted."""
    units = np.arange(len(labels)) if together is None else together
    _, first, of_row = np.unique(units, return_index=True, return_inverse=True)
    shuffled = numpy_generator(seed, "folds").permutation(len(first))
    # units of a class one after another, in random order, dealt out like cards
    order = shuffled[np.argsort(labels[first[shuffled]], kind="stable")]
    fold = np.empty(len(first), dtype=np.int64)
    fold[order] = np.arange(len(first)) % folds
    dealt: NDArray[np.int64] = fold[of_row]
    return dealt


def out_of_fold_logits(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: int,
    fold: NDArray[np.int64],
    shrinkage: float = SHRINKAGE,
) -> Floats:
    """Return logits [N, C] of linear discriminants, each fitted to the other folds; -inf if without image.

    With m_j the mean of class j and S the pooled covariance within classes, shrunk towards a multiple of the
    identity (Ledoit and Wolf 2004): logit_j = x S^-1 m_j - m_j S^-1 m_j / 2, no class prior.
    """
    centred = features - features.mean(axis=0, dtype=np.float64).astype(np.float32)
    width = centred.shape[1]
    number = int(fold.max()) + 1
    counts = np.zeros((number, classes))
    sums, products = np.zeros((number, classes, width)), np.zeros((number, width, width))
    for part in range(number):  # each image is multiplied once, not once for every classifier
        own, x = labels[fold == part], centred[fold == part]
        counts[part] = np.bincount(own, minlength=classes)
        members = np.zeros((classes, len(own)), np.float32)
        members[own, np.arange(len(own))] = 1
        sums[part], products[part] = members @ x, x.T @ x
    logits = np.full((len(labels), classes), -np.inf)
    for part in range(number):
        count = counts.sum(axis=0) - counts[part]
        there = count > 0
        if not there.any():
            continue
        means = (sums.sum(axis=0) - sums[part])[there] / count[there, None]
        scatter = products.sum(axis=0) - products[part] - (means.T * count[there]) @ means
        covariance = (1 - shrinkage) * scatter / count.sum()
        size = max(float(np.trace(scatter)) / count.sum() / width, np.finfo(np.float32).tiny)
        covariance[np.diag_indices(width)] += shrinkage * size
        weights = np.linalg.solve(covariance, means.T)  # [D, C]
        bias = -0.5 * (means.T * weights).sum(axis=0)
        rows = np.flatnonzero(fold == part)
        logits[np.ix_(rows, np.flatnonzero(there))] = centred[rows] @ weights + bias
    return logits


def _temperature(logits: Floats, labels: NDArray[np.int64]) -> float:
    """Return the temperature with the smallest cross entropy, each class counted once."""
    counts = np.bincount(labels, minlength=logits.shape[1])
    weight = 1 / counts[labels]

    def entropy(temperature: float) -> float:
        scaled = logits / temperature
        log_p = scaled[np.arange(len(labels)), labels] - np.logaddexp.reduce(scaled, axis=1)
        return float(-(weight * log_p).sum())

    return float(min(TEMPERATURES, key=entropy))
