"""Long-tailed cuts of any data set: how many images of each class stay, and which."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from longtail.core.errors import ConfigError
from longtail.core.manifest import SPLITS, Manifest

Profile = Literal["exponential", "step", "pareto"]
Kept = Literal["published", "first"]
ROUNDING = 1e-6  # of an image: 50.0 that is computed as 49.9999999 stays 50


def profile_counts(
    profile: Profile, num_classes: int, largest: int, imbalance_ratio: float, power: float = 6.0
) -> NDArray[np.int64]:
    """Return the wanted images per class from the largest to the smallest, int64 [C].

    Args:
        profile: `exponential`: n_k = int(n_max r^(-k/(C-1))), the published CIFAR cut, truncated
            and not rounded. `step`: the first half of the classes keeps n_max, the rest n_max / r.
            `pareto`: n_k = n_max (1 + (r^(1/p) - 1) k/(C-1))^(-p), quantiles of a Pareto law as in
            ImageNet-LT, whose power p is 6.
        num_classes: C, at least 2.
        largest: n_max.
        imbalance_ratio: r = n_max / n_min, at least 1.
        power: Of the Pareto law; larger is closer to the exponential profile.

    Raises:
        ConfigError: If a value is out of range or the rarest class would have no image.
    """
    if num_classes < 2:
        raise ConfigError("A long-tailed cut needs at least two classes.")
    if imbalance_ratio < 1:
        raise ConfigError(
            "imbalance_ratio is the largest divided by the smallest count, at least 1, but got "
            f"{imbalance_ratio}. The published imb_factor {imbalance_ratio} is the ratio "
            f"{(1 / imbalance_ratio if imbalance_ratio > 0 else float('inf')):g}."
        )
    rank = np.arange(num_classes)
    place = rank / (num_classes - 1)
    if profile == "exponential":
        # the published float64 expression, whose last bit decides borderline counts
        wanted = largest * (1.0 / imbalance_ratio) ** place
    elif profile == "step":
        wanted = np.where(rank < num_classes / 2, largest, largest / imbalance_ratio + ROUNDING)
    elif profile == "pareto":
        wanted = largest * (1 + place * (imbalance_ratio ** (1 / power) - 1)) ** -power + ROUNDING
    counts = np.floor(wanted).astype(np.int64)
    if counts.min() < 1:
        raise ConfigError(
            f"At imbalance ratio {imbalance_ratio:g}, the rarest class would keep none of its "
            f"{largest} images. Choose a ratio of at most {largest}."
        )
    return counts


def published_ranks(
    counts: NDArray[np.int64], available: NDArray[np.int64]
) -> list[NDArray[np.int64]]:
    """Return which images of each class the published CIFAR cut keeps, as ranks in file order.

    NumPy's legacy generator is seeded with 0 once; class after class, in order of the label, all
    images of the class are shuffled and the first n_c are kept. (LDAM-DRW's released code; nearly
    every paper uses this cut. A smaller cut is a prefix of a larger one, class by class.)

    Args:
        counts: Wanted images per class, int64 [C].
        available: Images per class in the full set, int64 [C].
    """
    legacy = np.random.RandomState(0)  # the published cut is defined by it
    kept = []
    for wanted, size in zip(counts.tolist(), available.tolist(), strict=True):
        ranks = np.arange(size)
        legacy.shuffle(ranks)
        kept.append(ranks[:wanted].astype(np.int64))
    return kept


def cut(
    manifest: Manifest,
    *,
    profile: Profile = "exponential",
    imbalance_ratio: float,
    largest: int | None = None,
    power: float = 6.0,
    class_order: tuple[str, ...] = (),
    kept: Kept = "published",
) -> Manifest:
    """Return `manifest` with a long-tailed train split; the other splits stay as they are.

    Args:
        manifest: A set whose classes have enough training images.
        profile: Shape of the tail, see `profile_counts`.
        imbalance_ratio: Largest over smallest training count.
        largest: n_max; the size of the smallest class of the full set if not given.
        power: Of the Pareto profile.
        class_order: Class names from head to tail; the order of the manifest if not given.
        kept: Which images of a class: those of `published_ranks`, or the first in the order of the files.

    Raises:
        ConfigError: If a class has fewer images than wanted, or `class_order` is no permutation.
    """
    names = class_order or manifest.classes
    if sorted(names) != sorted(manifest.classes):
        raise ConfigError("class_order must contain every class of the data set exactly once.")
    available = manifest.histogram("train")
    largest = int(available.min()) if largest is None else largest
    wanted = np.empty_like(available)
    order = [manifest.classes.index(name) for name in names]
    wanted[order] = profile_counts(profile, len(names), largest, imbalance_ratio, power)
    if (short := np.flatnonzero(wanted > available)).size:
        first = int(short[0])
        raise ConfigError(
            f"{wanted[first]} images of {manifest.classes[first]!r} are needed, but there are only "
            f"{available[first]}. Choose a smaller `largest`."
        )
    train = manifest.rows("train")
    ranks = (
        published_ranks(wanted, available)
        if kept == "published"
        else [np.arange(size) for size in wanted.tolist()]
    )
    rows = [train[manifest.labels[train] == label][chosen] for label, chosen in enumerate(ranks)]
    others = np.flatnonzero(manifest.splits != SPLITS.index("train"))
    return manifest.take(np.concatenate([*rows, others]))
