"""Class distributions and counts that the user names on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from longtail.core.errors import DataError


def read_prior(text: str, names: tuple[str, ...]) -> Tensor:
    """Return the class distribution [C] that `text` names: `uniform`, or a CSV of class and share.

    Args:
        text: `uniform` or a file.
        names: Classes, in the order of the result.

    Raises:
        DataError: If the file is missing, names other classes, or its shares are no distribution.
    """
    if text == "uniform":
        return torch.full((len(names),), 1 / len(names))
    shares, given = read_columns(Path(text), "share")
    if unknown := sorted(set(given) ^ set(names))[:5]:
        raise DataError(f"{text} and the model name different classes: {', '.join(unknown)}.")
    share = dict(zip(given, shares, strict=True))
    values = torch.tensor([share[name] for name in names], dtype=torch.float64)
    if (values < 0).any() or not torch.isfinite(values).all() or values.sum() <= 0:
        raise DataError(f"{text}: shares must be numbers of at least 0, not all of them 0.")
    return (values / values.sum()).float()


def read_columns(path: Path, column: str) -> tuple[list[Any], tuple[str, ...]]:
    """Read a CSV of `class` and numbers in `column`.

    Raises:
        DataError: If it is missing, has other columns, names a class twice or holds no numbers.
    """
    try:
        # a class may be called 010 or NA
        frame = pd.read_csv(path, dtype={"class": str}, keep_default_na=False)
        names = tuple(frame["class"])
        if twice := sorted({name for name in names if names.count(name) > 1})[:5]:
            raise DataError(f"{path} names these classes twice: {', '.join(twice)}.")
        return pd.to_numeric(frame[column]).tolist(), names
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{path} must be a CSV with the columns class and {column} ({error})."
        ) from error
