"""The split of a run, kept beside it.

A split that was drawn from a folder or table would be drawn otherwise once images are added or removed, and
images that a model was trained on would be scored as test. So a run keeps the one that it was trained with.
A split that is the user's is kept too, to be held against what is there later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from longtail.core.errors import DataError, ProtocolError
from longtail.core.manifest import SPLITS, Manifest
from longtail.core.names import ask_whether_renamed, shown, some
from longtail.data.data_set import DataSet
from longtail.data.sources.file_set import FileSet

COLUMNS = ("id", "path", "label", "split")
DIGEST = "sha256"


def split_table(manifest: Manifest, digests: Sequence[str] = ()) -> pd.DataFrame:
    """Return id, path, label and split of every image, class by class in the order of the classes.

    Args:
        manifest: With paths.
        digests: SHA-256 of each file, one more column; empty if they are not known.
    """
    order = np.argsort(manifest.labels, kind="stable")
    values = (
        manifest.ids[order],
        [manifest.paths[row] for row in order],
        [manifest.classes[label] for label in manifest.labels[order]],
        [SPLITS[split] for split in manifest.splits[order]],
    )
    table = pd.DataFrame(dict(zip(COLUMNS, values, strict=True)))
    return table.assign(**{DIGEST: [digests[row] for row in order]}) if digests else table


def read_split(file: Path) -> pd.DataFrame:
    """Read what `split_table` returned from a CSV file.

    Raises:
        DataError: If it cannot be read or is no such table.
    """
    try:
        text = dict.fromkeys(("path", "label", DIGEST), str)
        table = pd.read_csv(file, dtype=text, keep_default_na=False)
        known = (COLUMNS, (*COLUMNS, DIGEST))
        wrong = tuple(table.columns) not in known or not bool(table["split"].isin(SPLITS).all())
        wrong = wrong or not pd.api.types.is_integer_dtype(table["id"]) or not table["id"].is_unique
    except Exception as error:  # pandas fails in many ways
        raise DataError(f"{file} cannot be read as a table ({error}).") from error
    if wrong:
        raise DataError(f"{file} is not the split file of a run: it needs {', '.join(COLUMNS)}.")
    return table


def compare(data: DataSet, kept: pd.DataFrame) -> tuple[str, ...]:
    """Hold the images that are there now against those that a run had, by their path and by their content.

    Args:
        data: What is there now.
        kept: What `split_table` returned when the run began.

    Returns:
        A sentence on every split with images of another content than then.

    Raises:
        ProtocolError: If an image of val or test was one of train, and of no other split, when the run began.
    """
    notes: tuple[str, ...] = ()
    for split in SPLITS:
        rows, then = data.manifest.rows(split), kept[kept["split"] == split]
        now = [(data.manifest.paths[row], data.digests[row]) for row in rows.tolist()]
        if split != "train":
            _require_unseen(now, split, kept[kept["split"] == "train"], then)
        of_path = then.groupby("path")[DIGEST].agg(set).to_dict()
        changed = [path for path, digest in now if digest not in of_path.get(path, {digest})]
        notes += _note(changed, f"of {split} whose content has changed since the run started")
    return notes


def _require_unseen(
    now: Sequence[tuple[str, str]], split: str, train: pd.DataFrame, own: pd.DataFrame
) -> None:
    seen = [set(train[name]) - set(own[name]) for name in ("path", DIGEST)]
    trained_on = [path for path, digest in now if path in seen[0] or digest in seen[1]]
    if trained_on:
        raise ProtocolError(
            f"This run was trained on {len(trained_on)} of the {len(now)} images of {split}, for "
            f"example {trained_on[0]}. Scores on them would mean nothing: restore the split that the "
            "run was trained with (it is in split.csv of the run folder)."
        )


def with_split(file_set: FileSet, kept: pd.DataFrame) -> FileSet:
    """Return the images that a run knew, with its ids, classes and splits; notes tell of the others.

    Args:
        file_set: What is there now.
        kept: What `split_table` returned then.

    Raises:
        DataError: If none of the images of a class is left, or one has been given a class that the run does
            not have.
    """
    now = _numbered(pd.DataFrame({"path": list(file_set.manifest.paths)}))
    then = _numbered(kept.sort_values("id"))  # the order in which they were listed then
    both = now.assign(row=range(len(now))).merge(then, on=["path", "repetition"]).sort_values("row")
    if lost := [name for name in dict.fromkeys(then["label"]) if name not in set(both["label"])]:
        new = sorted(set(file_set.manifest.classes) - set(then["label"]))
        there = f"; new there: {some(new)}" if new else ""
        raise DataError(
            f"{file_set.root} contains none of the images that the run had of {some(lost)}{there}."
            f"{ask_whether_renamed(lost, new)} If folders were renamed or moved, restore their old names."
        )
    added = now.merge(both, on=["path", "repetition"], how="left").query("row.isna()")["path"]
    gone = then[~then["id"].isin(both["id"])]["path"]
    manifest = file_set.manifest.take(both["row"].to_numpy())
    manifest = manifest.restricted_to(tuple(dict.fromkeys(kept["label"])))
    splits = np.array([SPLITS.index(split) for split in both["split"]], dtype=np.int8)
    manifest = replace(manifest, ids=both["id"].to_numpy(), splits=splits)
    notes = (
        *_note(
            added, "that the run does not know (added later, or damaged at the time) were left out"
        ),
        *_note(gone, "of the run are missing"),
    )
    return replace(file_set, manifest=manifest, notes=notes, numbers=None)  # by other ids


def _numbered(table: pd.DataFrame) -> pd.DataFrame:
    """Number the repetitions of a path, which a table may hold."""
    return table.assign(repetition=table.groupby("path").cumcount())


def _note(paths: Sequence[str] | pd.Series, what: str) -> tuple[str, ...]:
    if len(paths) == 0:
        return ()
    return (f"Images {what}: {len(paths)}, for example {shown(next(iter(paths)))}.",)
