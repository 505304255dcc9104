"""Readers of picture files: a folder, a table, the published list files."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from longtail.core.errors import DataError
from longtail.core.manifest import SPLITS, Manifest
from longtail.data.decode import PICTURE_SUFFIXES

# what people call their folders and what they mean
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class FileSet:
    """Labelled files below one folder.

    Attributes:
        manifest: With paths relative to `root`.
        root: The folder.
        ignored: Files that are no pictures by their name.
        outside: Pictures that lie in no class, relative to `root`.
        notes: What else a user should know.
    """

    manifest: Manifest
    root: Path
    ignored: int = 0
    outside: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def files(self) -> tuple[Path, ...]:
        """Return the full path of every picture."""
        return tuple(self.root / path for path in self.manifest.paths)

    def describe_outside(self) -> str:
        """Say how many pictures lie in no class; empty if none does."""
        if not self.outside:
            return ""
        return (
            f"Pictures that lie in no class folder were left out: {len(self.outside)}, for example "
            f"{self.outside[0]}."
        )


def read_folder(root: Path) -> FileSet:
    """Read `root/CLASS/...` or `root/{train,val,test}/CLASS/...`; classes are folder names.

    Without split folders everything is train; split it with `longtail.data.splits.hold_out`. A folder
    that is called as a split but holds no folders is a class beside others (a train, say).

    Raises:
        DataError: If there is no such folder, no picture in it, one class only, or a class that
            occurs in another split but not in train.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder.")
    parts = _split_folders(root)
    if parts and "train" not in parts.values():
        raise DataError(f"{root} has the splits {', '.join(sorted(parts))} but no train folder.")
    if len(set(parts.values())) != len(parts):
        raise DataError(f"{root} has two folders for one split: {', '.join(sorted(parts))}.")
    tops = {root / name: split for name, split in parts.items()} or {root: "train"}
    rows: list[tuple[str, str, str]] = []
    ignored = 0
    for top, split in tops.items():
        for folder in _folders(top):
            for path, is_picture in walk(folder):
                ignored += not is_picture
                if is_picture:
                    rows.append((path.relative_to(root).as_posix(), folder.name, split))
    beside = [folder for folder in _folders(root) if parts and folder not in tops]
    loose = [pair for top in {root, *tops} for pair in walk(top, deep=False)]
    loose += [pair for folder in beside for pair in walk(folder)]
    outside = sorted(path.relative_to(root).as_posix() for path, is_picture in loose if is_picture)
    if not rows:
        raise DataError(
            f"{root} holds no pictures. Expected {root}/CLASS/picture.jpg or "
            f"{root}/train/CLASS/picture.jpg; known endings: {', '.join(sorted(PICTURE_SUFFIXES))}."
        )
    found = _file_set(root, root.resolve().name, rows)
    return replace(found, ignored=ignored, outside=tuple(outside))


def read_table(path: Path, *, root: Path | None = None) -> FileSet:
    """Read a CSV or Parquet table with the columns `path`, `label` and optionally `split`.

    Args:
        path: The table.
        root: Folder that relative picture paths start from; the table's own folder if not given.

    Raises:
        DataError: If the table cannot be read, a column is missing, a cell is empty, a split has an
            unknown name, or paths are written as another system does.
    """
    table = open_table(path)
    if missing := [name for name in ("path", "label") if name not in table.columns]:
        raise DataError(
            f"{path} needs the columns path and label (and may have split), but lacks "
            f"{' and '.join(missing)}. It has: {', '.join(map(str, table.columns))}."
        )
    columns = [table["path"], table["label"]]
    columns.append(
        table["split"] if "split" in table.columns else pd.Series(["train"] * len(table))
    )
    rows = []
    for number, cells in enumerate(zip(*columns, strict=True), start=2):
        file, label, split = (str(cell).strip() for cell in cells)
        if not file or not label or pd.isna(cells[0]) or pd.isna(cells[1]):
            raise DataError(f"{path}, row {number}: path and label must not be empty.")
        if split.lower() not in SPLIT_NAMES:
            raise DataError(
                f"{path}, row {number}: split must be one of train, val, test, but is {split!r}."
            )
        rows.append((file, label, SPLIT_NAMES[split.lower()]))
    if not rows:
        raise DataError(f"{path} has no rows.")
    root = root or path.parent
    foreign = next(
        (file for file, _, _ in rows if "\\" in file and not (root / file).exists()), None
    )
    if foreign is not None and (root / foreign.replace("\\", "/")).exists():
        raise DataError(
            f"{path}: paths are written as on Windows, for example {foreign}. Put / for every \\, which "
            "Windows reads as well."
        )
    return _file_set(root, path.stem, rows)


def open_table(path: Path) -> pd.DataFrame:
    """Read a CSV (cells as they are written) or Parquet file.

    Raises:
        DataError: If it is neither.
    """
    try:
        reader: Callable[..., pd.DataFrame] = (
            pd.read_parquet if path.suffix.lower() in (".parquet", ".pq") else pd.read_csv
        )
        options = {} if reader is pd.read_parquet else {"dtype": str, "keep_default_na": False}
        return reader(path, **options)
    except Exception as error:
        # pandas and pyarrow raise many kinds of errors on files that are no tables
        raise DataError(
            f"{path} cannot be read as a table ({type(error).__name__}: {error})."
        ) from error


def read_lists(name: str, root: Path, lists: dict[str, Path]) -> FileSet:
    """Read published list files, one `path label` a line (ImageNet-LT, Places-LT, iNaturalist).

    The lists were made on other people's machines, so as many leading folders of the paths are
    dropped as it takes to find the first picture of each list below `root`.

    Args:
        name: For people.
        root: Folder of the pictures.
        lists: List file of each split, plain text or `.gz`.

    Raises:
        DataError: If a line is malformed, a label has no name of its own, or the first picture of a
            list is nowhere below `root`.
    """
    rows: list[tuple[str, int, str]] = []
    for split, path in lists.items():
        entries = list_entries(path)
        dropped = _prefix_to_drop(entries[0][0], root, path)
        rows += [("/".join(file.split("/")[dropped:]), label, split) for file, label in entries]
    names = class_names_of(rows)
    labels = np.array([label for _, label, _ in rows])
    splits = np.array([SPLITS.index(split) for _, _, split in rows], dtype=np.int8)
    paths = tuple(file for file, _, _ in rows)
    manifest = Manifest(name, names, np.arange(len(rows)), labels, splits, paths)
    return FileSet(manifest, root)


def list_entries(path: Path) -> list[tuple[str, int]]:
    """Read the (path, label) pairs of one list file.

    Raises:
        DataError: If the file is missing, empty or has a malformed line.
    """
    try:
        lines = _lines(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}).") from error
    entries = []
    for number, line in enumerate(lines, start=1):
        file, _, label = line.strip().rpartition(" ")
        if not file or not label.isdigit():
            raise DataError(
                f"{path}, line {number}: expected `path label`, but got {line.strip()!r}."
            )
        entries.append((file.strip(), int(label)))
    if not entries:
        raise DataError(f"{path} is empty.")
    return entries


def class_names_of(rows: Iterable[tuple[str, int, str]]) -> tuple[str, ...]:
    """Name the classes of a list by their folders where that is unambiguous, else by number.

    `train/n01440764/x.JPEG` gives `n01440764`, `train_val2018/Plantae/7291/x.jpg` gives
    `Plantae/7291`.
    """
    folders: dict[int, set[str]] = {}
    for file, label, split in rows:
        if split == "train" or label not in folders:
            parts = PurePosixPath(file).parts
            folders.setdefault(label, set()).add("/".join(parts[1:-1]))
    num_classes = max(folders) + 1
    names = [min(folders.get(label, {""})) for label in range(num_classes)]
    clear = all(len(found) == 1 for found in folders.values()) and len(set(names)) == num_classes
    return tuple(names if clear and all(names) else map(str, range(num_classes)))


def walk(folder: Path, *, deep: bool = True) -> Iterable[tuple[Path, bool]]:
    """Yield the files below a folder, or in it, and whether they are pictures by their name."""
    for current, below, files in os.walk(folder):
        # hidden folders hold copies that other programs made
        below[:] = sorted(name for name in below if not name.startswith(".")) if deep else []
        for file in sorted(files):
            if not file.startswith("."):
                path = Path(current) / file
                yield path, path.suffix.lower() in PICTURE_SUFFIXES


def _lines(path: Path) -> list[str]:
    if path.suffix == ".gz":
        with gzip.open(path, "rt", encoding="utf-8") as stream:
            return [line for line in stream if line.strip()]
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _prefix_to_drop(file: str, root: Path, source: Path) -> int:
    parts = file.split("/")
    for dropped in range(len(parts)):
        if root.joinpath(*parts[dropped:]).is_file():
            return dropped
    raise DataError(
        f"The first picture of {source.name}, {file}, is not below {root}, with or without its "
        "leading folders. Name the folder of the pictures with data.root=DIR."
    )


def _file_set(root: Path, name: str, rows: list[tuple[str, str, str]]) -> FileSet:
    classes = tuple(sorted({label for _, label, split in rows if split == "train"}))
    unknown = sorted({label for _, label, _ in rows} - set(classes))
    if unknown:
        where = sorted({split for _, label, split in rows if label in unknown})
        raise DataError(
            f"{name}: these classes occur in {' and '.join(where)} but not in train, so no model can "
            f"know them: {', '.join(unknown[:8])}. Add training pictures or remove them."
        )
    if len(classes) < 2:
        raise DataError(
            f"{name} has only one class ({classes[0]!r}); a classifier needs at least two. "
            "Expected one folder (or label) per class."
        )
    rows = sorted(rows)
    files = tuple(file for file, _, _ in rows)
    if len(set(files)) != len(files):
        twice = (
            sorted({file for file in files if files.count(file) > 1}) if len(files) < 5000 else []
        )
        shown = f": {', '.join(twice[:5])}" if twice else ""
        raise DataError(
            f"{name} lists a picture twice{shown}. A picture has one label and one split."
        )
    number = {label: index for index, label in enumerate(classes)}
    manifest = Manifest(
        name,
        classes,
        np.arange(len(rows)),
        np.array([number[label] for _, label, _ in rows]),
        np.array([SPLITS.index(split) for _, _, split in rows], dtype=np.int8),
        files,
    )
    return FileSet(manifest, root)


def _split_folders(root: Path) -> dict[str, str]:
    """Return the folders below `root` that are splits, by name; none if they are classes."""
    folders = _folders(root)
    named = {f.name: SPLIT_NAMES[f.name.lower()] for f in folders if f.name.lower() in SPLIT_NAMES}
    hold_classes = any(_folders(root / name) for name in named)
    return named if hold_classes or len(named) == len(folders) else {}


def _folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
