"""Lists in the JSON of COCO and iNaturalist: images, annotations and categories, with one label per image."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable
from pathlib import Path
from typing import Any, NamedTuple

from longtail.core.errors import DataError
from longtail.core.names import shown
from longtail.core.words import counted, shortened

SUFFIX = ".json"
PARTS = ("images", "annotations", "categories")
NAMED = 3  # images that a message names


class _Image(NamedTuple):
    id: Hashable
    file: str
    split: str | None


class _Annotation(NamedTuple):
    image: Hashable
    category: Hashable


def read_coco(path: Path) -> tuple[tuple[str, ...], list[list[str]]]:
    """Return the titles of the columns and the rows: path, label, and split where the images state one.

    Args:
        path: The file: `images` with id and file_name (and perhaps split), `annotations` with image_id and
            category_id, `categories` with id and name.

    Raises:
        DataError: If it is no such file, refers to what it does not contain, or an image has no label or
            several.
    """
    images, annotations, categories = _parts(path)
    names = _names(path, categories)
    _require_distinct(path, "image", [image.id for image in images])
    label: dict[Hashable, Hashable] = {}
    several = set()
    files = {image.id: image.file for image in images}
    for number, one in enumerate(annotations, start=1):
        if one.image not in files:
            raise _unknown(path, number, "image_id", one.image)
        if one.category not in names:
            raise _unknown(path, number, "category_id", one.category)
        if label.setdefault(one.image, one.category) != one.category:
            several.add(one.image)
    if several:
        raise DataError(
            f"{path}: {counted(len(several), 'image has', 'images have')} several labels "
            f"({_listed([files[image] for image in files if image in several])}), but an image is of one "
            "class here. Keep one annotation of each, or crop the objects to images of their own."
        )
    if bare := [image.file for image in images if image.id not in label]:
        raise DataError(
            f"{path}: {counted(len(bare), 'image has', 'images have')} no annotation ({_listed(bare)}). "
            "Annotate or remove them; `longtail predict` takes images without labels."
        )
    split = any(image.split is not None for image in images)
    rows = [[image.file, names[label[image.id]]] for image in images]
    if split:
        rows = [[*row, image.split or ""] for row, image in zip(rows, images, strict=True)]
    return ("path", "label", "split")[: 3 if split else 2], rows


def _parts(path: Path) -> tuple[list[_Image], list[_Annotation], list[dict[str, Any]]]:
    try:
        content = json.loads(path.read_bytes(), object_hook=_slim)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error}).") from error
    missing = [
        part
        for part in PARTS
        if not isinstance(content, dict) or not isinstance(content.get(part), list)
    ]
    if missing:
        raise DataError(
            f"{path} is not in the format of COCO: it has no list called {' and '.join(missing)}."
        )
    images, annotations, categories = (content[part] for part in PARTS)
    kinds = (("images", images, _Image, "id and file_name"),
             ("annotations", annotations, _Annotation, "image_id and category_id"))  # fmt: skip
    for name, entries, kind, keys in kinds:
        for number, entry in enumerate(entries, start=1):
            if not isinstance(entry, kind):
                raise DataError(f"{path}: entry {number} of {name} lacks {keys}.")
    return images, annotations, categories


def _slim(entry: dict[str, Any]) -> object:
    """Keep what is read of an image or annotation: large lists have many other keys."""
    if isinstance(entry.get("file_name"), str) and _is_key(entry.get("id")):
        split = entry.get("split")
        return _Image(entry["id"], entry["file_name"], split if isinstance(split, str) else None)
    if _is_key(entry.get("image_id")) and _is_key(entry.get("category_id")):
        return _Annotation(entry["image_id"], entry["category_id"])
    return entry


def _is_key(value: object) -> bool:
    return isinstance(value, int | str)


def _names(path: Path, categories: list[dict[str, Any]]) -> dict[Hashable, str]:
    for number, one in enumerate(categories, start=1):
        fine = isinstance(one, dict) and _is_key(one.get("id")) and isinstance(one.get("name"), str)
        if not fine:
            raise DataError(f"{path}: entry {number} of categories lacks id and name.")
    _require_distinct(path, "category", [one["id"] for one in categories])
    _require_distinct(path, "category", [one["name"] for one in categories], "name")
    return {one["id"]: one["name"] for one in categories}


def _require_distinct(path: Path, what: str, keys: list[Any], key: str = "id") -> None:
    twice = [value for value, times in Counter(keys).items() if times > 1]
    if twice:
        raise DataError(
            f"{path}: the {what} {key} {shortened(repr(twice[0]))} occurs more than once. Each {what} "
            f"needs a {key} of its own."
        )


def _unknown(path: Path, number: int, key: str, value: object) -> DataError:
    return DataError(
        f"{path}: annotation {number} has the {key} {shortened(repr(value))}, which the file does not "
        "contain."
    )


def _listed(files: list[str]) -> str:
    more = f", and {len(files) - NAMED} more" if len(files) > NAMED else ""
    return ", ".join(shown(file) for file in files[:NAMED]) + more
