"""Training images per class: the one fact from which long-tail methods start."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longtail.core.errors import DataError


@dataclass(frozen=True, init=False)
class ClassCounts:
    """Training images per class. The order of the classes carries no meaning.

    Args:
        counts: One positive integer per class, in the order of the class numbers: a sequence, an array or a
            tensor of shape [C]; or what holds them by class (a dictionary, pandas' Series) in this order.
        names: C distinct class names; the class numbers as text if not given.

    Raises:
        DataError: If there is no class, a count is zero, negative or not an integer (the message
            names the classes and says what to do), the names do not fit, or counts by class are not in the
            order of the class numbers or names.

    Example:
        >>> counts = ClassCounts([100, 10, 1], names=("cat", "lynx", "snow leopard"))
        >>> counts.imbalance_ratio
        100.0
    """

    values: tuple[int, ...]
    names: tuple[str, ...]

    def __init__(
        self,
        counts: Sequence[int] | Mapping[Any, int] | np.ndarray[Any, Any] | Tensor,
        names: Iterable[str] = (),
    ) -> None:
        names = tuple(names)
        if isinstance(counts, Mapping) or hasattr(counts, "items"):  # pandas' Series is no Mapping
            counts = _in_order([*counts.items()], names)
        raw = counts.tolist() if isinstance(counts, Tensor | np.ndarray) else list(counts)
        if not raw:
            raise DataError("Class counts must contain at least one class, but there is none.")
        labels = names or tuple(str(index) for index in range(len(raw)))
        if len(labels) != len(raw):
            raise DataError(f"There are {len(raw)} class counts but {len(labels)} class names.")
        if len(set(labels)) != len(labels):
            twice = sorted({name for name in labels if labels.count(name) > 1})
            raise DataError(f"Class names must differ, but these occur twice: {_listing(twice)}.")
        object.__setattr__(self, "values", _checked(raw, labels))
        object.__setattr__(self, "names", labels)

    @classmethod
    def from_labels(
        cls, labels: np.ndarray[Any, Any] | Tensor, names: Sequence[str]
    ) -> ClassCounts:
        """Count labels `[N]` (integers in 0..C-1) for the classes `names` (C of them).

        Raises:
            DataError: If a label is no such number, or a class has none.
        """
        found = labels.cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
        whole = found.ndim == 1 and (np.issubdtype(found.dtype, np.integer) or not found.size)
        if not whole or (wrong := found[(found < 0) | (found >= len(names))]).size:
            what = f"there is {wrong[0]}" if whole else f"got {found.dtype} {list(found.shape)}"
            raise DataError(
                f"Labels must be class numbers in 0 ... {len(names) - 1}, integers [N], but {what}."
            )
        return cls(np.bincount(found.astype(np.int64), minlength=len(names)), names)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def total(self) -> int:
        """Number of training images N."""
        return sum(self.values)

    @property
    def imbalance_ratio(self) -> float:
        """Largest over smallest count, at least 1. (The old codes' `imb_factor` is its inverse.)"""
        return max(self.values) / min(self.values)

    def tensor(
        self, dtype: torch.dtype = torch.int64, device: torch.device | None = None
    ) -> Tensor:
        """Return the counts as a new tensor of shape [C]."""
        return torch.tensor(self.values, dtype=dtype, device=device)

    def prior(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return n_c / N, shape [C]; it sums to 1."""
        return (self.tensor(torch.float64) / self.total).to(dtype)

    def log_prior(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return log(n_c / N), shape [C], finite because no count is zero."""
        return (self.tensor(torch.float64) / self.total).log().to(dtype)

    def ranking(self) -> tuple[int, ...]:
        """Return class indices from the largest to the smallest count; ties in order of the names.

        The tie rule makes everything that uses ranks independent of the order of the classes.
        """
        return tuple(sorted(range(len(self)), key=lambda c: (-self.values[c], self.names[c])))


def _in_order(counts: Sequence[tuple[Any, int]], names: tuple[str, ...]) -> list[int]:
    """Return counts held by class as a list, if they are in the order of the class numbers or names.

    A count of values (`Counter`, `value_counts()`) puts the most frequent class first, wherever that is among
    the class numbers of the labels.
    """
    classes = tuple(name for name, _ in counts)
    if classes != tuple(range(len(classes))) and classes != names:
        shown = _listing([repr(name) for name in classes], 4)
        raise DataError(
            "Counts by class must be in the order of the class numbers that the labels use, but their keys "
            f"are {shown}. Pass a list, [counts[name] for name in names] with names=names."
        )
    return [value for _, value in counts]


def _checked(raw: list[Any], names: tuple[str, ...]) -> tuple[int, ...]:
    values, broken, empty = [], [], []
    for value, name in zip(raw, names, strict=True):
        try:
            # a float such as 3.0 is refused too: fractions of images are a sign of a mix-up
            number = operator.index(value)
        except TypeError:
            number = -1
        if number < 0 or isinstance(value, bool):
            broken.append(f"{name!r}: {value}")
        elif number == 0:
            empty.append(repr(name))
        values.append(number)
    if broken:
        raise DataError(
            f"Class counts must be whole numbers of images, but got {_listing(broken)}. "
            "Pass the number of training images of each class, not a share or a weight."
        )
    if empty:
        raise DataError(
            f"{len(empty)} of {len(names)} classes have no training images: {_listing(empty)}. A class "
            "without images has no prior and cannot be learnt: add images, leave the class out, or "
            "merge it with another class."
        )
    return tuple(values)


def _listing(items: Sequence[str], limit: int = 8) -> str:
    rest = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + rest
