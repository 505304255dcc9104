"""The split of a run, kept beside it.

A split that was drawn from a folder or table would be drawn otherwise once pictures are added or removed, and
pictures that a model was trained on would be scored as test. So a run keeps the one that it was trained with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from longtail.core.errors import DataError
from longtail.core.manifest import SPLITS, Manifest
from longtail.data.files import FileSet

COLUMNS = ("id", "path", "label", "split")


def split_table(manifest: Manifest) -> pd.DataFrame:
    """Return id, path, label and split of every picture, class by class in the order of the classes."""
    order = np.argsort(manifest.labels, kind="stable")
    values = (
        manifest.ids[order],
        [manifest.paths[row] for row in order],
        [manifest.classes[label] for label in manifest.labels[order]],
        [SPLITS[split] for split in manifest.splits[order]],
    )
    return pd.DataFrame(dict(zip(COLUMNS, values, strict=True)))


def read_split(file: Path) -> pd.DataFrame:
    """Read what `split_table` returned from a CSV file.

    Raises:
        DataError: If it cannot be read or is no such table.
    """
    try:
        table = pd.read_csv(file, dtype={"path": str, "label": str}, keep_default_na=False)
        wrong = tuple(table.columns) != COLUMNS or not table["split"].isin(SPLITS).all()
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read as a table ({error}).") from error
    if wrong:
        raise DataError(f"{file} is not the split of a run: it needs {', '.join(COLUMNS)}.")
    return table


def with_split(file_set: FileSet, kept: pd.DataFrame) -> FileSet:
    """Return the pictures that a run knew, with its ids, classes and splits; notes tell of the others.

    Args:
        file_set: What is there now.
        kept: What `split_table` returned then.

    Raises:
        DataError: If none of the pictures of a class is left, or one has been given a class that the run does
            not have.
    """
    now = _numbered(pd.DataFrame({"path": list(file_set.manifest.paths)}))
    then = _numbered(kept.sort_values("id"))  # the order in which they were listed then
    both = now.assign(row=range(len(now))).merge(then, on=["path", "repetition"]).sort_values("row")
    if lost := [name for name in dict.fromkeys(then["label"]) if name not in set(both["label"])]:
        raise DataError(
            f"{file_set.root} holds none of the pictures that the run had of {', '.join(lost[:8])}. If "
            "folders were renamed or moved, give them their old names."
        )
    added = now.merge(both, on=["path", "repetition"], how="left").query("row.isna()")["path"]
    gone = then[~then["id"].isin(both["id"])]["path"]
    manifest = file_set.manifest.take(both["row"].to_numpy())
    manifest = manifest.restricted_to(tuple(dict.fromkeys(kept["label"])))
    splits = np.array([SPLITS.index(split) for split in both["split"]], dtype=np.int8)
    manifest = replace(manifest, ids=both["id"].to_numpy(), splits=splits)
    notes = (
        *_note(added, "that the run does not know (added later, or damaged then) were left out"),
        *_note(gone, "of the run are gone"),
    )
    return replace(file_set, manifest=manifest, notes=notes)


def _numbered(table: pd.DataFrame) -> pd.DataFrame:
    """Number the repetitions of a path, which a table may hold."""
    return table.assign(repetition=table.groupby("path").cumcount())


def _note(paths: Sequence[str] | pd.Series, what: str) -> tuple[str, ...]:
    if len(paths) == 0:
        return ()
    return (f"Pictures {what}: {len(paths)}, for example {next(iter(paths))}.",)
