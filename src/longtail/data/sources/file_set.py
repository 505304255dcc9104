"""Labelled image files: what every reader of a folder, table or list returns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from longtail.core.errors import DataError
from longtail.core.manifest import SPLITS, Manifest
from longtail.core.names import alike, same_to_people, shown, some
from longtail.data.images.below import FilesBelow
from longtail.data.images.file_checks import Checked
from longtail.data.images.unreadable import REFUSED, REFUSED_IN_RUN, describe_unreadable
from longtail.data.sources.folder_contents import LeftOut, describe_left_out

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
MOST_LETTERS = 200  # of the name of a class
OnSimilarNames = Literal["error", "merge", "keep"]
OnBadImage = Literal["error", "skip"]
Row = tuple[str, str, str]  # path relative to the root, label, split


@dataclass(frozen=True)
class FileSet:
    """Labelled files below one folder.

    Attributes:
        manifest: With paths relative to `root`, see `longtail.core.names.printable`.
        root: The folder.
        left_out: What lies below the folder and is not read.
        notes: What else a user should know.
        numbers: Row of each image in its table, by `ids` of the manifest, int64 [N]; None of a folder.
    """

    manifest: Manifest
    root: Path
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    numbers: NDArray[np.int64] | None = field(default=None, compare=False)

    def files(self) -> FilesBelow:
        """Return the file of every image."""
        return FilesBelow(self.root, self.manifest.paths)

    def describe(self) -> tuple[str, ...]:
        """Return what a user should know of the files: one sentence per kind."""
        return (*self.notes, *describe_left_out(self.left_out, self.root))


def file_set(
    root: Path,
    name: str,
    rows: Sequence[Row],
    *,
    similar_names: OnSimilarNames = "error",
    notes: Iterable[str] = (),
    for_training: bool = True,
    numbers: Sequence[int] | None = None,
) -> FileSet:
    """Return the files of a folder or table as a set, sorted by path.

    Args:
        root: Folder that the paths start from.
        name: For people.
        rows: Path, label (see `clean_name`) and split of every image; paths are distinct.
        similar_names: What becomes of classes whose names differ only in capitals or kinds of space.
        notes: What a user should know.
        for_training: Whether a model is to be trained on them: there must be two classes, all in train.
        numbers: Of the rows in a table, for messages.

    Raises:
        DataError: If there is one class only, one that does not occur in train, or two that are the same to
            people.
    """
    _require_names(name, {label for _, label, _ in rows})
    rows, more = _with_similar_names(name, rows, similar_names)
    seen = {label for _, label, split in rows if split == "train" or not for_training}
    classes = tuple(sorted(seen))
    unknown = sorted({label for _, label, _ in rows} - set(classes))
    if unknown:
        where = sorted({split for _, label, split in rows if label in unknown})
        named = _with_places(unknown[:8], rows, numbers)
        raise DataError(
            f"{name}: these classes occur in {' and '.join(where)} but not in train, so no model can "
            f"learn them: {', '.join(named)}. Add training images or remove them."
        )
    if len(classes) < 2 and for_training:
        below = sorted({"/".join(path.split("/")[1:-1]) for path, _, _ in rows} - {""})
        inside = ", ".join(map(repr, below[:3])) + ", ..." * (len(below) > 3)
        hint = f" If its folders {inside} are the classes, name the folder that contains them."
        raise DataError(
            f"{name} has only one class ({classes[0]!r}); a classifier needs at least two. "
            f"Expected one folder (or label) per class.{hint if len(below) > 1 else ''}"
        )
    order = sorted(range(len(rows)), key=rows.__getitem__)
    rows = [rows[place] for place in order]
    number = {label: index for index, label in enumerate(classes)}
    manifest = Manifest(
        name,
        classes,
        np.arange(len(rows)),
        np.array([number[label] for _, label, _ in rows]),
        np.array([SPLITS.index(split) for _, _, split in rows], dtype=np.int8),
        tuple(file for file, _, _ in rows),
    )
    listed = None if numbers is None else np.array(numbers, dtype=np.int64)[order]
    return FileSet(manifest, root, notes=(*notes, *more), numbers=listed)


def _with_places(
    labels: Sequence[str], rows: Sequence[Row], numbers: Sequence[int] | None
) -> list[str]:
    """Return names of classes with the rows of a table that they stand in, if it is one."""
    if numbers is None:
        return [*labels]
    found: dict[str, list[str]] = {label: [] for label in labels}
    for number, (_, label, _) in zip(numbers, rows, strict=True):
        if label in found:
            found[label].append(str(number))
    return [
        f"{label} ({'row' if len(places) == 1 else 'rows'} {some(places, 3)})"
        for label, places in found.items()
    ]


def _require_names(name: str, labels: set[str]) -> None:
    """Refuse names of classes that no table, page or terminal shows as they are."""
    for label in sorted(labels):
        if len(label) > MOST_LETTERS or not all(c.isprintable() or c == "\u00a0" for c in label):
            raise DataError(
                f"{name}: '{shown(label, 60)}' cannot be a class name: it has more than {MOST_LETTERS} "
                "characters, or invisible characters."
            )


def _with_similar_names(
    name: str, rows: Sequence[Row], rule: OnSimilarNames
) -> tuple[Sequence[Row], tuple[str, ...]]:
    groups = alike(label for _, label, _ in rows)
    if not groups or rule == "keep":
        return rows, ()
    sizes = Counter(label for _, label, _ in rows)
    found = "; ".join(" and ".join(f"{n!r} ({sizes[n]:,})" for n in group) for group in groups[:4])
    if rule == "error":
        raise DataError(
            f"{name} has classes whose names differ only in case or spaces: {found}. Rename them, or "
            "set data.on_similar_names=merge if they are the same class, =keep if they are not (data "
            "inspect: --on-similar-names)."
        )
    # the usual spelling wins
    chosen = {same_to_people(g[0]): max(g, key=lambda n: (sizes[n], n)) for g in groups}
    merged = [(p, chosen.get(same_to_people(label), label), s) for p, label, s in rows]
    return merged, (f"Classes whose names differ only in case or spaces were merged: {found}.",)


def without_bad_images(
    file_set: FileSet,
    checked: Sequence[Checked],
    on_bad_image: OnBadImage,
    *,
    of_run: bool = False,
) -> tuple[FileSet, tuple[tuple[str, str], ...]]:
    """Leave damaged images out, or refuse them all at once.

    Args:
        file_set: The images.
        checked: What is known of each.
        on_bad_image: Which of both.
        of_run: Whether a run has chosen already, and no option can change it.

    Returns:
        The readable images, and (path, reason) of each one left out.

    Raises:
        DataError: If `on_bad_image` is `error` and a file is damaged, or nothing is left of a
            class.
    """
    paths = file_set.manifest.paths
    bad = tuple((path, c.reason) for path, c in zip(paths, checked, strict=True) if c.reason)
    if not bad:
        return file_set, ()
    if on_bad_image == "error":
        at = file_set.numbers
        rows = [int(i) for i, c in zip(file_set.manifest.ids, checked, strict=True) if c.reason]
        placed = [
            (f"{file_set.root / path}{'' if at is None else f' (row {at[row]})'}", reason)
            for row, (path, reason) in zip(rows, bad, strict=True)
        ]
        action = REFUSED_IN_RUN if of_run else REFUSED
        raise DataError(describe_unreadable(placed, len(paths), action, as_list=True))
    good = np.array([row for row, c in enumerate(checked) if not c.reason], dtype=np.int64)
    kept = file_set.manifest.take(good)
    kept.class_counts()  # names the classes that lost their last image
    return replace(file_set, manifest=kept), bad
