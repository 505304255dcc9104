"""The files that a table names: found, each one once, or said where they would be."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from longtail.core.errors import DataError
from longtail.core.names import from_printable, printable, shown
from longtail.core.words import counted
from longtail.data.images.decode import IMAGE_SUFFIXES
from longtail.data.sources.table_files import IN_UTF8, Fault, Table, refused

TRIED = 20  # paths that are looked for elsewhere, when none is where the table says


def find_listed(table: Table, paths: Sequence[str], root: Path, *, kept: bool) -> list[str]:
    """Return the paths of a table as they are written on the disk.

    A name in composed letters finds a file in decomposed ones (macOS writes these), and one that was written
    out by `printable` its file. Files that do not exist keep their path and are named when they are checked.

    Args:
        table: For messages.
        paths: Of its rows, relative to `root` or absolute.
        root: A folder.
        kept: Whether a file may be listed twice.

    Raises:
        DataError: If none exists, with advice; or if a file is listed twice, under one name or two.
    """
    rows = [*zip(table.numbers, paths, strict=True)]
    if nul := [Fault(n, "a path must not contain NUL characters") for n, p in rows if "\0" in p]:
        raise refused(table.path, nul)
    folders = _RealFolders()
    spelt = list(paths)
    real: list[str | None] = []
    for row, path in enumerate(paths):
        found = folders.real(root / path)
        if found is None:
            spelt[row] = next((s for s in _spellings(path) if os.path.lexists(root / s)), path)
            found = folders.real(root / spelt[row]) if spelt[row] != path else None
        real.append(found)
    if not kept:
        _require_once(table, spelt, real)
    if not any(real):
        raise DataError(_not_found(table, paths, root))
    odd = [
        Fault(
            number,
            f"the path {shown(path)} is not UTF-8, and no file has these bytes as name",
            IN_UTF8,
        )
        for (number, path), found in zip(rows, real, strict=True)
        if found is None and printable(path) != path
    ]
    if odd:
        raise refused(table.path, odd)
    return spelt


def is_there(root: Path, path: str) -> bool:
    """Say whether a path of a table is one of the disk, in whatever letters."""
    return "\0" not in path and any(os.path.lexists(root / s) for s in (path, *_spellings(path)))


def _require_once(table: Table, paths: Sequence[str], real: Sequence[str | None]) -> None:
    first: dict[str, int] = {}
    twice = []
    for row, (path, found) in enumerate(zip(paths, real, strict=True)):
        if (one := first.setdefault(found or path, row)) != row:
            twice.append((one, row))
    if twice:
        rows = "; ".join(
            f"rows {table.numbers[a]} and {table.numbers[b]} ({shown(paths[a])}"
            + (")" if paths[a] == paths[b] else f" and {shown(paths[b])})")
            for a, b in twice[:4]
        )
        raise DataError(
            f"{table.path} lists {counted(len(twice), 'image', 'images')} twice: {rows}. An image has "
            "one label and one split; remove one of the two rows."
        )


class _RealFolders:
    """Finds the file behind a path; each folder on the way is looked up once."""

    def __init__(self) -> None:
        self.known: dict[str, Path] = {}

    def real(self, path: Path) -> str | None:
        """Return the path without links and detours, None if there is nothing."""
        folder, name = os.path.split(path)
        try:
            if name in ("", ".", ".."):
                return os.path.realpath(path, strict=True)
            if folder not in self.known:
                self.known[folder] = Path(os.path.realpath(folder))
            inside = self.known[folder] / name
            state = inside.lstat()
            # a link that leads nowhere is a file that does not exist
            linked = stat.S_ISLNK(state.st_mode)
            return os.path.realpath(inside, strict=True) if linked else str(inside)
        except (OSError, ValueError):
            return None


def _spellings(path: str) -> list[str]:
    forms = [unicodedata.normalize("NFD", path), unicodedata.normalize("NFC", path)]
    return forms if path.isprintable() and "\\x" not in path else [*forms, from_printable(path)]


def _not_found(table: Table, paths: Sequence[str], root: Path) -> str:
    """Say that no file is there, and where they are if they are nearby."""
    some = [
        paths[row * len(paths) // min(TRIED, len(paths))] for row in range(min(TRIED, len(paths)))
    ]
    if "\\" in some[0] and (root / some[0].replace("\\", "/")).exists():
        return (
            f"{table.path}: paths are written as on Windows, for example {shown(some[0])}. Use / "
            "instead of \\\\; Windows accepts it, too."
        )
    what = (
        f"{table.path}: none of {counted(len(paths), 'file was', 'files were')} found below "
        f"{root}, for example not {shown(some[0])}."
    )
    if "://" in some[0] and not some[0].startswith("file:"):
        return f"{what} Images are read only from files: download them first."
    folder = table.path.absolute().parent
    near = [Path.cwd(), *folder.parents, *_inside(folder)]
    for other in near:
        if any((other / path).is_file() for path in some if not Path(path).is_absolute()):
            return f"{what} They are below {other}: set data.root={other}."
    for path in some:
        parts = path.split("/")
        for dropped in range(1, len(parts)):
            if root.joinpath(*parts[dropped:]).is_file():
                prefix = shown("/".join(parts[:dropped]))
                return f"{what} They exist without {prefix}/: remove it from the paths."
    ending = next(
        (
            e
            for e in sorted(IMAGE_SUFFIXES)
            for name in (e, e.upper())
            if (root / f"{some[0]}{name}").is_file()
        ),
        "",
    )
    if ending:
        return f"{what} They exist with an extension: write {shown(some[0])}{ending}."
    if name := _in_other_capitals(root / some[0]):
        return f"{what} They exist in other capitals: write {shown(str(Path(some[0]).with_name(name)))}."
    return f"{what} Set the folder that the paths refer to: data.root=DIR."


def _in_other_capitals(path: Path) -> str:
    try:
        names = sorted(other.name for other in path.parent.iterdir())
    except OSError:
        return ""
    return next((name for name in names if name.lower() == path.name.lower()), "")


def _inside(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:
        return []
