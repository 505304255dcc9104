"""Readers of the published list files of ImageNet-LT, Places-LT and iNaturalist."""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np

from longtail.core.errors import DataError
from longtail.core.manifest import SPLITS, Manifest
from longtail.data.sources.file_set import FileSet

LIST_FILES = {
    "imagenet-lt": {s: f"ImageNet_LT_{s}.txt" for s in ("train", "val", "test")},
    "places-lt": {s: f"Places_LT_{s}.txt" for s in ("train", "val", "test")},
    # iNaturalist 2018 has no test labels: its published val list plays the role of test
    "inaturalist2018": {"train": "iNaturalist18_train.txt", "test": "iNaturalist18_val.txt"},
}


def find_lists(name: str, folder: Path) -> dict[str, Path]:
    """Return the published list file of each split of a benchmark, plain or `.gz`.

    Raises:
        DataError: If one is not in the folder.
    """
    lists = {}
    for split, file in LIST_FILES[name].items():
        there = next((p for p in (folder / file, folder / f"{file}.gz") if p.exists()), None)
        if there is None:
            raise DataError(
                f"{name} needs the published list {file} in {folder}; name its folder with "
                "data.lists=DIR and the folder of the images with data.root=DIR."
            )
        lists[split] = there
    return lists


def read_lists(name: str, root: Path, lists: dict[str, Path]) -> FileSet:
    """Read published list files, one `path label` a line (ImageNet-LT, Places-LT, iNaturalist).

    The lists were made on other people's machines, so as many leading folders of the paths are
    dropped as it takes to find the first image of each list below `root`.

    Args:
        name: For people.
        root: Folder of the images.
        lists: List file of each split, plain text or `.gz`.

    Raises:
        DataError: If a line is malformed, a label has no name of its own, or the first image of a
            list is nowhere below `root`.
    """
    rows: list[tuple[str, int, str]] = []
    for split, path in lists.items():
        entries = list_entries(path)
        dropped = _prefix_to_drop(entries[0][0], root, path)
        rows += [(file.split("/", dropped)[-1], label, split) for file, label in entries]
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
        file, _, label = line.rpartition(" ")
        if not file or not label.isdigit():
            raise DataError(f"{path}, line {number}: expected `path label`, but got {line!r}.")
        entries.append((file.rstrip(), int(label)))
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
            folders.setdefault(label, set()).add(file.rpartition("/")[0])
    for label, found in folders.items():
        folders[label] = {"/".join(PurePosixPath(folder).parts[1:]) for folder in found}
    num_classes = max(folders) + 1
    names = [min(folders.get(label, {""})) for label in range(num_classes)]
    clear = all(len(found) == 1 for found in folders.values()) and len(set(names)) == num_classes
    return tuple(names if clear and all(names) else map(str, range(num_classes)))


def _lines(path: Path) -> list[str]:
    if path.suffix == ".gz":
        with gzip.open(path, "rt", encoding="utf-8") as stream:
            lines = stream.read().splitlines()
    else:
        lines = path.read_text(encoding="utf-8").splitlines()
    return [stripped for line in lines if (stripped := line.strip())]


def _prefix_to_drop(file: str, root: Path, source: Path) -> int:
    parts = file.split("/")
    for dropped in range(len(parts)):
        if root.joinpath(*parts[dropped:]).is_file():
            return dropped
    raise DataError(
        f"The first image of {source.name}, {file}, is not below {root}, with or without its "
        "leading folders. Set the folder of the images with data.root=DIR."
    )
