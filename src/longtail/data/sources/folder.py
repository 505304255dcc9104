"""The reader of a folder: its folders are the classes, or train, val and test with classes in each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from longtail.core.errors import DataError
from longtail.core.names import clean_name, printable, shown
from longtail.data.sources.file_set import SPLIT_NAMES, FileSet, OnSimilarNames, Row, file_set
from longtail.data.sources.folder_contents import (
    LeftOut,
    Listing,
    Reason,
    list_images,
)
from longtail.data.sources.folder_level import (
    holders,
    no_images,
    perhaps_below,
    refuse_one_too_high,
)
from longtail.data.sources.hugging_face import is_hugging_face, read_hugging_face


def read_folder(
    root: Path,
    *,
    similar_names: OnSimilarNames = "error",
    kept: bool = False,
    for_training: bool = True,
) -> FileSet:
    """Read `root/CLASS/...` or `root/{train,val,test}/CLASS/...`; classes are folder names.

    Without split folders everything is train; split it with `longtail.data.splits.hold_out`. A folder
    that is called as a split but holds no folders is a class beside others (a train, say). A folder of the
    library `datasets` is read as such.

    Args:
        root: The folder.
        similar_names: What becomes of classes whose names differ only in capitals or kinds of space.
        kept: Whether a run was trained on the folder already, so that links may put a file into two classes.
        for_training: As of `file_set`; a folder to train on needs a train folder beside val and test.

    Raises:
        DataError: If there is no such folder or it cannot be read, no image is in it, one class only,
            a class that occurs in another split but not in train, or a file in two classes or splits.
    """
    _require_folder(root)
    if is_hugging_face(root):
        return read_hugging_face(root, similar_names=similar_names, for_training=for_training)
    top = list_images(root, deep=False)
    parts, notes = _split_folders(top.folders)
    if parts and "train" not in parts.values() and for_training:
        raise DataError(f"{root} has the splits {', '.join(sorted(parts))} but no train folder.")
    if len(set(parts.values())) != len(parts):
        raise DataError(f"{root} has two folders for the same split: {', '.join(sorted(parts))}.")
    tops = {name: list_images(root / name, deep=False) for name in parts}
    loose = [top, *tops.values()]
    loose += [list_images(folder) for folder in top.folders if parts and folder.name not in parts]
    rows: list[Row] = []
    left_out = [left for listing in loose for left in listing.left_out]
    left_out += [LeftOut(path, Reason.OUTSIDE) for listing in loose for path in listing.images]
    empty: dict[tuple[str, str], Path] = {}
    real: dict[Path, tuple[str, Path]] = {}
    spelt: dict[str, set[str]] = {}
    below: dict[str, set[str]] = {}  # the folders in each class that hold its images
    sources = [(parts[n], f) for n, listing in tops.items() for f in listing.folders]
    for split, folder in sources if parts else [("train", folder) for folder in top.folders]:
        inside = list_images(folder)
        label = clean_name(folder.name)
        left_out += inside.left_out
        if not inside.images:
            empty[split, label] = folder
            continue
        spelt.setdefault(label, set()).add(folder.name)
        below.setdefault(label, set()).update(holders(folder, inside.images))
        if not kept:
            _require_one_place(inside, f"{split}/{label}", real)
        rows += [(printable(p.relative_to(root).as_posix()), label, split) for p in inside.images]
    known = {(split, label) for _, label, split in rows}
    left_out += [LeftOut(p, Reason.EMPTY) for place, p in empty.items() if place not in known]
    if not rows:
        raise DataError(no_images(root, left_out))
    if not parts and not kept:
        refuse_one_too_high(root, top.folders, below)
    name = printable(root.resolve().name)
    notes += [*_merged(spelt), *perhaps_below(below)]
    found = file_set(
        root, name, rows, similar_names=similar_names, notes=notes, for_training=for_training
    )
    return replace(found, left_out=tuple(left_out))


def _require_folder(root: Path) -> None:
    try:
        there = root.is_dir()
    except OSError as error:
        raise DataError(f"{root} cannot be read ({error.strerror}).") from error
    if not there:
        raise DataError(f"{shown(str(root))} is not a folder.")


def _require_one_place(inside: Listing, place: str, real: dict[Path, tuple[str, Path]]) -> None:
    """Refuse a file that links put into two classes or splits."""
    for path, file in zip(inside.images, inside.real, strict=True):
        other, first = real.setdefault(file, (place, path))
        if other != place:
            raise DataError(
                f"{shown(str(first))} and {shown(str(path))} are the same file, through a link. An image "
                "has one label and one split; remove one of the two."
            )


def _merged(spelt: dict[str, set[str]]) -> list[str]:
    several = [label for label, names in sorted(spelt.items()) if len(names) > 1]
    if not several:
        return []
    return [
        (
            "Folders whose names look the same (different Unicode forms, spaces at an end) count as "
            f"one class: {', '.join(several[:4])}."
        )
    ]


def _split_folders(folders: Sequence[Path]) -> tuple[dict[str, str], list[str]]:
    """Return the folders that are splits, by name, none if they are classes; and what to say of it."""
    named = {f.name: SPLIT_NAMES[f.name.lower()] for f in folders if f.name.lower() in SPLIT_NAMES}
    # seg_train and seg_test, images-train and images-val, train2017
    near = {f.name: s for f in folders if f.name not in named and (s := _split_in(f.name))}
    inside = {
        f.name: {below.name for below in list_images(f, deep=False).folders}
        for f in folders
        if f.name in {**named, **near}
    }
    if named and not any(inside[name] for name in named) and len(named) < len(folders):
        return {}, []
    both = {**named, **near}
    train = set().union(*(inside[name] for name, split in both.items() if split == "train"))
    if not near or not train or len(set(both.values())) < 2:
        return named, []
    strange = [name for name in near if not inside[name] & train]
    if strange and not named:
        raise DataError(
            f"{', '.join(sorted(near))} are named like splits, but {', '.join(strange)} has no class "
            "folder with the same name as in train. Expected train/CLASS/image.jpg and "
            "test/CLASS/image.jpg; if they are classes, rename them."
        )
    read_as = {name: split for name, split in near.items() if name not in strange}
    said = ", ".join(f"{name} as {split}" for name, split in sorted(read_as.items()))
    return named | read_as, [
        f"Folders were taken as splits because of their names: {said}."
    ] * bool(said)


def _split_in(name: str) -> str | None:
    """Return the split that one word of a name means."""
    found = {SPLIT_NAMES[w] for w in re.split(r"[^a-z]+", name.lower()) if w in SPLIT_NAMES}
    return found.pop() if len(found) == 1 else None
