"""The reader of a table of images: the columns path, label and perhaps split."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from longtail.core.errors import DataError
from longtail.core.names import clean_name, printable, same_to_people, shown, some
from longtail.core.words import counted
from longtail.data.images.decode import IMAGE_SUFFIXES
from longtail.data.sources.file_set import SPLIT_NAMES, FileSet, OnSimilarNames, file_set
from longtail.data.sources.table_files import (
    IN_UTF8,
    Fault,
    Table,
    is_slip,
    looks_like,
    open_table,
    plain,
    refused,
)
from longtail.data.sources.table_paths import find_listed, is_there

Cells = tuple[str, str, str]  # path, label, split
MOST_SPLITS = 5  # different words in a column that may be a split
IS_SPLIT = re.compile(rf"is[\s_.-]*({'|'.join(SPLIT_NAMES)})")  # titles of columns of yes and no
SEVERAL_LABELS = "|;,"  # signs between labels of one image
# how programs write that there is no label
NO_LABEL = ("nan", "none", "null", "nat", "n/a", "<na>", "#n/a")


def read_table(
    path: Path,
    *,
    root: Path | None = None,
    similar_names: OnSimilarNames = "error",
    kept: bool = False,
    for_training: bool = True,
) -> FileSet:
    """Read a CSV or Parquet table with the columns `path`, `label` and optionally `split`.

    Args:
        path: The table.
        root: Folder that relative image paths start from; the table's own folder if not given.
        similar_names: What becomes of classes whose names differ only in capitals or kinds of space.
        kept: Whether a run was trained on the table already, so that a file may be listed twice.
        for_training: As of `file_set`.

    Raises:
        DataError: If the table cannot be read, a column is missing or nearly has the right name, a cell is
            empty, a split has an unknown name, a file is listed twice, none is found, or paths are written as
            another system does. All rows that cannot be used are told at once.
    """
    table = open_table(path, with_faults=True)
    root = root or path.parent
    rows = [*zip(*_cells(table), strict=True)]
    if not rows and not table.faults:
        raise DataError(f"{path} has no rows.")
    if faults := [*table.faults, *_faults(table, rows)]:
        more = _missing(table, rows, root, faults, for_training=for_training)
        raise refused(path, [*faults, *more])
    if all(re.fullmatch(r"-?\d+\.0*", label) for _, label, _ in rows):
        # whole numbers that another program has made fractions of
        rows = [(file, label.partition(".")[0], split) for file, label, split in rows]
    files = find_listed(table, [file for file, _, _ in rows], root, kept=kept)
    read = [
        (printable(file), clean_name(label), SPLIT_NAMES[split.lower()])
        for file, (_, label, split) in zip(files, rows, strict=True)
    ]
    return file_set(
        root,
        printable(path.stem),
        read,
        similar_names=similar_names,
        notes=_doubts(Counter(label for _, label, _ in read)),
        for_training=for_training,
        numbers=table.numbers,
    )


def _faults(table: Table, rows: Sequence[Cells]) -> Iterator[Fault]:
    """Find the rows whose cells say nothing that can be used."""
    for number, (file, label, split) in zip(table.numbers, rows, strict=True):
        if not file or not label:
            yield Fault(number, "path and label must not be empty")
        elif split.lower() not in SPLIT_NAMES:
            said = f"is {shown(split)!r}" if split else "the cell is empty"
            yield Fault(number, f"split must be one of train, val, test, but {said}")
        elif re.fullmatch(r"\[\s*(['\"]).*\1\s*\]", label):
            what = f"{shown(label)} is a list, not a class; an image has one label"
            yield Fault(number, what)
        elif printable(label) != label:
            yield Fault(number, f"the label {shown(label)} is not UTF-8", IN_UTF8)


def _doubts(images: Counter[str]) -> Iterator[str]:
    """Say which classes are perhaps none, of the images of each class."""
    joined = [
        label
        for label in images
        for sign in SEVERAL_LABELS
        if sign in label and all(part.strip() in images for part in label.split(sign))
    ]
    if joined:
        of_them = sum(images[label] for label in joined)
        yield (
            f"{counted(of_them, 'image has a label', 'images have labels')} made of the names of other "
            f"classes ({some(joined, 3)}). An image has one label, so each such combination is a class of "
            "its own."
        )
    for label in images:
        if label.lower() in NO_LABEL:
            yield (
                f"The class {shown(label)} ({counted(images[label], 'image', 'images')}) looks like a cell "
                "without a label. If so, remove these rows."
            )


def _missing(
    table: Table,
    rows: Sequence[Cells],
    root: Path,
    faults: Sequence[Fault],
    *,
    for_training: bool,
) -> Iterator[Fault]:
    """Find, in a table with faults, what would be refused next: missing files and unknown classes."""
    faulty = {fault.number for fault in faults}
    known = for_training and not table.faults  # a row that was left out may be of any class
    learnt = {
        same_to_people(label)
        for number, (_, label, split) in zip(table.numbers, rows, strict=True)
        if number in faulty or SPLIT_NAMES[split.lower()] == "train"
    }
    for number, (file, label, split) in zip(table.numbers, rows, strict=True):
        if number in faulty:
            continue
        if not is_there(root, file):
            yield Fault(number, f"there is no file {shown(file)}")
        elif known and same_to_people(label) not in learnt:
            yield Fault(
                number, f"the class {shown(label)} occurs in {split.lower()} but not in train"
            )


def _cells(table: Table) -> list[list[str]]:
    """Return the columns path, label and split, or say which column is missing or nearly right."""
    names = ("path", "label", "split")
    found = {name: place for name in names if (place := table.find(name)) is not None}
    missing = [name for name in ("path", "label") if name not in found]
    if missing:
        similar = [
            f"{shown(title)!r} looks like {name}"
            for name in names
            for title in table.header
            if name not in found and plain(title) not in names and looks_like(title, name)
        ]
        hint = f" {'; '.join(similar)}: rename it." if similar else ""
        if any(Path(title.strip()).suffix.lower() in IMAGE_SUFFIXES for title in table.header):
            hint = " The first row must contain the column names path and label."
        raise DataError(
            f"{table.path} needs the columns path and label (and may have split), but lacks "
            f"{' and '.join(missing)}. It has: {table.columns()}.{hint}"
        )
    if "split" not in found:
        _require_no_hidden_split(table)
    columns = [table.column(place) for place in found.values()]
    return columns if "split" in found else [*columns, ["train"] * len(table.numbers)]


def _require_no_hidden_split(table: Table) -> None:
    """Refuse a table whose split stands in a column of another name, which would be drawn anew in silence."""
    for place, title in enumerate(table.header):
        if IS_SPLIT.fullmatch(plain(title)):
            raise DataError(
                f"{table.path} has no column split, but {shown(title)!r} looks like one. Write train, val or "
                "test into a column split, or remove this one to have a split drawn."
            )
        values = {word.lower() for word in table.words(place)}
        held = sorted({SPLIT_NAMES[value] for value in values if value in SPLIT_NAMES})
        if is_slip(title, "split") or (len(held) > 1 and len(values) <= MOST_SPLITS):
            holds = f" and contains {', '.join(held)}" if held else ""
            raise DataError(
                f"{table.path} has no column split, but {shown(title)!r} looks like one{holds}. Rename it "
                "to split, or remove it to have a split drawn."
            )
