"""Folders of Hugging Face's library `datasets`: what `save_to_disk` wrote, or the Parquet files of a hub set.

Their images are written out once, as the bytes that they are, into the cache folder; from then on they are
files like others: checked, named when damaged, and read in any order.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from longtail.core.errors import DataError
from longtail.core.names import clean_name, shown
from longtail.core.paths import cache_folder, set_name
from longtail.data.images.decode import IMAGE_SUFFIXES
from longtail.data.sources.file_set import SPLIT_NAMES, FileSet, OnSimilarNames, Row, file_set

SAVED = ("dataset_dict.json", "state.json")  # of several splits, and of one
INSIDE = "data"  # where hub sets keep their files
NEEDS = "needs the library datasets: pip install 'longtail[datasets]'"


def is_hugging_face(root: Path) -> bool:
    """Say whether `datasets` reads this folder: its own format, or Parquet files with images."""
    try:
        if any((root / name).is_file() for name in SAVED):
            return True
        files = _parquet_files(root)
        folders = [each.name for each in root.iterdir() if each.is_dir()] if files else []
        others = [name for name in folders if name != INSIDE and not name.startswith(".")]
        return bool(files) and not others and _holds_images(files[0])
    except OSError:
        return False


def read_hugging_face(
    root: Path, *, similar_names: OnSimilarNames = "error", for_training: bool = True
) -> FileSet:
    """Read the one column of images and its labels; classes are the names of a `ClassLabel`, or the labels.

    Args:
        root: The folder.
        similar_names: What becomes of classes whose names differ only in capitals or kinds of space.
        for_training: As of `file_set`.

    Raises:
        DataError: If `datasets` is not installed or cannot read the folder, there is no column of images and
            one of labels, a split has another name than train, val or test, or an image has no label.
    """
    cache = cache_folder()
    if cache is None:
        raise DataError(
            f"{root} holds a data set of Hugging Face, whose images are written into the cache folder, but "
            "LONGTAIL_CACHE is off. Set it to a folder."
        )
    store = cache / "hugging-face" / _key(root)
    rows: list[Row] = []
    found: dict[str, str] = {}
    for split, part in _splits(root, store).items():
        if split.lower() not in SPLIT_NAMES:
            raise DataError(
                f"{root}: there is a split {shown(split)!r}; splits must be called train, val or test."
            )
        kind = SPLIT_NAMES[split.lower()]
        if (other := found.setdefault(kind, split)) != split:
            raise DataError(
                f"{root}: the splits {shown(other)!r} and {shown(split)!r} are both {kind}; join them, or "
                "leave one out."
            )
        rows += _rows(root, store, kind, part)
    return file_set(
        store, set_name(root), rows, similar_names=similar_names, for_training=for_training
    )


def _splits(root: Path, store: Path) -> Mapping[str, Any]:
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"{root} holds a data set of Hugging Face and {NEEDS}") from error
    try:
        if not (files := _parquet_files(root)):
            found = datasets.load_from_disk(str(root))
        else:
            by_split: dict[str, list[str]] = {}
            for file in files:
                by_split.setdefault(file.stem.partition("-")[0], []).append(str(file))
            found = datasets.load_dataset(
                "parquet", data_files=by_split, cache_dir=str(store / "arrow")
            )
    except Exception as error:  # many kinds, on folders that are damaged
        raise DataError(f"{root} cannot be read by the library datasets ({error}).") from error
    return found if isinstance(found, dict) else {"train": found}


def _rows(root: Path, store: Path, split: str, part: Any) -> list[Row]:  # noqa: ANN401 - datasets is optional
    """Return the rows of a split, with its images written below `store`."""
    import datasets

    image = _column(root, part, "image", datasets.Image)
    label = _column(root, part, "label", datasets.ClassLabel)
    feature = part.features[label]
    names = feature.names if isinstance(feature, datasets.ClassLabel) else None
    labels = list(part[label])
    for number, value in enumerate(labels):
        if value is None or (names is not None and value < 0):
            raise DataError(f"{root}: image {number} of {split} has no label.")
    store.mkdir(parents=True, exist_ok=True)
    with FileLock(store / f"{split}.lock"):  # several processes of a training begin together
        if not (done := store / f"{split}.done").exists():
            encoded = part.select_columns([image]).cast_column(image, datasets.Image(decode=False))
            _write(store / split, (one[image] or {} for one in encoded))
            done.touch()
    files = sorted(file.name for file in (store / split).iterdir())
    texts = [names[value] if names is not None else str(value) for value in labels]
    return [
        (f"{split}/{file}", clean_name(text), split)
        for file, text in zip(files, texts, strict=True)
    ]


def _column(root: Path, part: Any, name: str, kind: type) -> str:  # noqa: ANN401
    """Return the column of a kind: the only one, or the one with the usual name."""
    found: list[str] = [
        column for column, feature in part.features.items() if isinstance(feature, kind)
    ]
    if name in found or (not found and name == "label" and name in part.features):
        return name
    if len(found) == 1:
        return found[0]
    what = f"has {len(found)} columns of {name}s" if found else f"has no column of {name}s"
    raise DataError(f"{root} {what}: {shown(', '.join(part.features), 300)}. Rename one to {name}.")


def _write(folder: Path, images: Iterable[Mapping[str, Any]]) -> None:
    """Write the bytes of images, numbered; an empty file where there are none, which is named as damaged."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number, known in enumerate(images):
        path = Path(known.get("path") or "")
        suffix = path.suffix.lower()
        file = folder / f"{number:08d}{suffix if suffix in IMAGE_SUFFIXES else '.jpg'}"
        if known.get("bytes") is None and path.is_file():
            file.symlink_to(path.absolute())
        else:
            file.write_bytes(known.get("bytes") or b"")


def _parquet_files(root: Path) -> list[Path]:
    return sorted([*root.glob("*.parquet"), *root.glob(f"{INSIDE}/*.parquet")])


def _holds_images(file: Path) -> bool:
    try:
        types = pq.read_schema(file).types
    except pa.ArrowException:
        return False
    return any(pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 for kind in types)


def _key(root: Path) -> str:
    """Name a folder and the state of its files."""
    digest = hashlib.sha256(os.fsencode(root.resolve()))
    for file in sorted(root.rglob("*")):
        if file.suffix in (".arrow", ".json", ".parquet") and not file.name.startswith("cache-"):
            state = file.stat()
            digest.update(f"\n{file.name} {state.st_size} {state.st_mtime_ns}".encode())
    return digest.hexdigest()[:24]
