"""A folder that was meant to be the one above or below it: what shows it, and what is said then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from longtail.core.errors import DataError
from longtail.core.names import shown
from longtail.core.words import counted
from longtail.data.sources.file_set import SPLIT_NAMES
from longtail.data.sources.folder_contents import LeftOut, Reason, describe_left_out, list_images

DIRECTLY = ""  # stands for the class folder itself among the folders that hold its images
NAMED = 4  # folders in a sentence
SEVERAL = 3  # folders of images that look like classes
# the files by which a folder is known as one that longtail wrote: an inspection, labels, runs
OURS = ("findings.json", "labels.html", "config.yaml", "*/config.yaml", "*/*/config.yaml")


def holders(folder: Path, images: Sequence[Path]) -> set[str]:
    """Return the folders in `folder` below which its images lie; `DIRECTLY` for images beside them."""
    inside = (path.relative_to(folder).parts for path in images)
    return {parts[0] if len(parts) > 1 else DIRECTLY for parts in inside}


def perhaps_below(below: Mapping[str, set[str]]) -> list[str]:
    """Say so if the classes may be one level deeper.

    Args:
        below: Class -> `holders` of its images.

    Returns:
        A sentence if the same folders are in all classes, or several in one class only, and no image beside.
    """
    shared = set.intersection(*below.values()) if below else set()
    if len(shared) > 1 and DIRECTLY not in set.union(*below.values()):
        return [
            f"The classes are {_list(below)}, and each contains the same folders ({_list(shared)}). If those "
            "are the classes, move them up, or list the images in a table."
        ]
    nested = _nested(below)
    flat = [name for name, inside in below.items() if inside == {DIRECTLY}]
    if len(nested) == 1 and len(flat) == len(below) - 1 and len(below[nested[0]]) >= SEVERAL:
        return [
            f"The classes are {_list(below)}, and only {shown(nested[0])} contains folders of images "
            f"({_list(below[nested[0]])}). If those are the classes, name that folder instead."
        ]
    return []


def refuse_one_too_high(root: Path, folders: Sequence[Path], below: Mapping[str, set[str]]) -> None:
    """Refuse a folder of which one would-be class is the collection of images that was meant.

    A class may have folders below it. So it is refused only if that class has split folders, or if a folder
    beside it was written by longtail and it has more folders than there are classes.

    Args:
        root: The folder.
        folders: In it.
        below: Would-be class -> `holders` of its images.

    Raises:
        DataError: In words, with the folder that was meant.
    """
    nested = _nested(below)
    meant = [name for name in nested if _has_splits(below[name])]
    if not meant and len(nested) == 1 and len(below[nested[0]]) >= max(SEVERAL, len(below)):
        meant = nested if any(map(_is_ours, folders)) else []
    if len(meant) == 1:
        raise DataError(
            f"{shown(meant[0])} in {shown(str(root))} contains folders of images itself "
            f"({_list(below[meant[0]])}). Did you mean {shown(str(root / meant[0]))}? If {_list(below)} are "
            "the classes, list the images in a table."
        )


def _nested(below: Mapping[str, set[str]]) -> list[str]:
    return [name for name, inside in below.items() if len(inside) > 1 and DIRECTLY not in inside]


def _has_splits(inside: set[str]) -> bool:
    splits = {SPLIT_NAMES.get(name.lower()) for name in inside}
    return "train" in splits and len(splits) > 1 and None not in splits


def _is_ours(folder: Path) -> bool:
    return any(any(folder.glob(pattern)) for pattern in OURS)


def _list(names: set[str] | Mapping[str, object]) -> str:
    some = ", ".join(map(shown, sorted(names)[:NAMED]))
    return f"{some}, ..." if len(names) > NAMED else some


def no_images(root: Path, left_out: Sequence[LeftOut]) -> str:
    """Say what lies in a folder that has no images of a class.

    Args:
        root: The folder.
        left_out: What lies there.
    """
    if (root / "config.yaml").is_file() and (root / "checkpoints").is_dir():
        return (
            f"{shown(str(root))} is a run folder, not a folder of images; config.yaml in it says where its "
            "images are."
        )
    direct = [e for e in left_out if e.reason is Reason.OUTSIDE and e.path.parent == root]
    if direct:
        lie = counted(len(direct), "image lies", "images lie")
        said = f"{lie} directly in {shown(str(root))}, without class folders."
        if _is_collection(root.absolute().parent):
            return f"{said} Did you mean {shown(str(root.parent))}?"
        return f"{said} Expected {shown(str(root))}/CLASS/image.jpg, or a table of the images."
    found = " ".join(describe_left_out(left_out, root))
    tables = [e.path for e in left_out if e.path.suffix.lower() in (".csv", ".parquet", ".pq")]
    hint = f" If {tables[0]} lists them, name that table instead." if tables else ""
    return (
        f"{root} contains no images. Expected {root}/CLASS/image.jpg or "
        f"{root}/train/CLASS/image.jpg.{hint} {found}"
    ).strip()


def _is_collection(folder: Path) -> bool:
    """Say whether at least two folders in it hold images, and longtail wrote none of its folders."""
    found = 0
    try:
        folders = list_images(folder, deep=False).folders
        if any(map(_is_ours, folders)):
            return False
        for below in folders:
            found += bool(list_images(below, deep=False).images)
            if found > 1:
                return True
    except DataError:  # a folder that cannot be read
        return False
    return False
