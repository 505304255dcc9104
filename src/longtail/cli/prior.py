"""Class distributions, counts and parents of classes that the user names on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from longtail.core.counts import ClassCounts
from longtail.core.errors import DataError
from longtail.core.names import clean_name
from longtail.core.table_cells import plain_cell
from longtail.uncertainty.ancestors import read_parents


def read_prior(text: str, names: tuple[str, ...]) -> Tensor:
    """Return the class distribution that `text` names, float64 [C]: `uniform`, or a CSV of class and share.

    Args:
        text: `uniform` or a file.
        names: Classes, in the order of the result.

    Raises:
        DataError: If the file is missing, names other classes, or its shares are no distribution.
    """
    if text == "uniform":
        return torch.full((len(names),), 1 / len(names), dtype=torch.float64)
    shares, written = read_columns(Path(text), "share")
    given = [name if name in names else plain_cell(name) for name in written]
    if unknown := sorted(set(given) - set(names))[:5]:
        raise DataError(
            f"{text} contains classes that the model does not have: {', '.join(unknown)}."
        )
    if lacking := sorted(set(names) - set(given))[:5]:
        raise DataError(f"{text} lacks classes of the model: {', '.join(lacking)}.")
    share = dict(zip(given, shares, strict=True))
    values = torch.tensor([share[name] for name in names], dtype=torch.float64)
    if (values < 0).any() or not torch.isfinite(values).all() or values.sum() <= 0:
        raise DataError(
            f"{text}: shares must be numbers of at least 0, and at least one must be above 0."
        )
    return values / values.sum()


def read_assumed(text: str, counts: ClassCounts) -> Tensor:
    """Return the class distribution, float64 [C], that the user says a model's scores assume.

    Args:
        text: `uniform`, `training` for the training counts, or a CSV of class and share.
        counts: Training images per class.

    Raises:
        DataError: As for `read_prior`, or if a share is 0: no such class could have been learnt.
    """
    if text == "training":
        return counts.prior(torch.float64)
    prior = read_prior(text, counts.names)
    if not bool((prior > 0).all()):
        raise DataError(f"{text}: the assumed distribution needs a share above 0 for every class.")
    return prior


def read_columns(path: Path, column: str) -> tuple[list[Any], tuple[str, ...]]:
    """Read a CSV of `class` and numbers in `column`.

    Raises:
        DataError: If it is missing, has other columns, names a class twice or holds no numbers.
    """
    try:
        # a class may be called 010 or NA
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        frame.columns = frame.columns.str.strip().str.lower()
        if lacking := [name for name in ("class", column) if name not in frame.columns]:
            raise DataError(
                f"{path} must have the columns class and {column}, but lacks {' and '.join(lacking)}."
            )
        names = tuple(frame["class"].str.strip())
        if twice := sorted({name for name in names if names.count(name) > 1})[:5]:
            raise DataError(f"{path} contains these classes twice: {', '.join(twice)}.")
        return pd.to_numeric(frame[column]).tolist(), names
    except FileNotFoundError:
        raise DataError(
            f"There is no file {path}; a CSV with the columns class and {column} is needed."
        ) from None
    except DataError:
        raise
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} must be a CSV with the columns class and {column} ({error})."
        ) from error


def read_hierarchy(path: Path) -> dict[str, str]:
    """Read a CSV of `class` and `parent`, where a parent may have a row and a parent of its own.

    Raises:
        DataError: If it is missing, has other columns, or gives a name two parents.
    """
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise DataError(
            f"There is no file {path}; expected is a CSV with the columns class and parent."
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} must be a CSV with the columns class and parent ({error})."
        ) from error
    frame.columns = frame.columns.str.strip().str.lower()
    if lacking := [name for name in ("class", "parent") if name not in frame.columns]:
        raise DataError(
            f"{path} must have the columns class and parent, but lacks {' and '.join(lacking)}."
        )
    names, parents = (
        [clean_name(plain_cell(cell)) for cell in frame[column]] for column in ("class", "parent")
    )
    return read_parents([(n, p) for n, p in zip(names, parents, strict=True) if n])
