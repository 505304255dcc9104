"""What lies below a folder: image files, and everything else by name and reason, so that nothing vanishes."""

from __future__ import annotations

import os
import stat
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePath

from longtail.core.errors import ConfigError, DataError
from longtail.core.names import shown
from longtail.data.images.decode import IMAGE_SUFFIXES

# images and films that are not read; their owner wants to know
OTHER_SUFFIXES = frozenset(
    {
        ".tga", ".qoi", ".sgi", ".pcx", ".dcx", ".ras", ".psd", ".ico", ".icns", ".dds", ".xbm",
        ".xpm", ".avif", ".avifs", ".heic", ".heif", ".jxl", ".svg", ".svgz", ".eps", ".ps", ".pdf",
        ".ai", ".exr", ".hdr", ".pfm", ".fits", ".fit", ".dcm", ".wmf", ".emf", ".raw", ".cr2", ".cr3",
        ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf", ".mp4", ".mov", ".avi", ".mkv", ".mpg",
        ".mpeg",
    }
)  # fmt: skip
# where systems and programs keep what is theirs: thumbnails, deleted files, indexes
SYSTEM_NAMES = frozenset(
    {
        "@eadir", "@recycle", "#recycle", "#snapshot", "__macosx", "__pycache__", "lost+found",
        "$recycle.bin", "recycler", "system volume information", "thumbs.db", "ehthumbs.db",
        "desktop.ini", "icon\r",
    }
)  # fmt: skip
ARCHIVES = frozenset({".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar"})
NAMED = 3  # of what was left out, in a sentence


class Reason(StrEnum):
    """Why something was left out; the worst first."""

    OTHER_FORMAT = "Images in unsupported formats (convert them to JPEG or PNG)"
    UNKNOWN = "Files whose extension is not an image format"
    OUTSIDE = "Images outside the class folders"
    EMPTY = "Class folders without images"
    SPECIAL = "Pipes, sockets and devices"
    BROKEN = "Links that lead nowhere"
    AGAIN = "Links to files that are already listed"
    HIDDEN = "Hidden files and folders"
    SYSTEM = "Files and folders of other programs"


@dataclass(frozen=True)
class LeftOut:
    """A file or folder that is not read.

    Attributes:
        path: Where it is.
        reason: Why.
    """

    path: Path
    reason: Reason


@dataclass(frozen=True)
class Listing:
    """What lies in or below a folder.

    Attributes:
        images: Files that are images by their ending, sorted. A link that leads nowhere is among them, so
            that it is named as damaged.
        real: The file behind each of them, without any link on the way.
        folders: Visible folders directly below, sorted.
        left_out: Everything else. What lies in a folder that is left out is not counted.
    """

    images: tuple[Path, ...]
    real: tuple[Path, ...]
    folders: tuple[Path, ...]
    left_out: tuple[LeftOut, ...]


def list_images(folder: Path, *, deep: bool = True) -> Listing:
    """List the image files below a folder, or in it; links are followed, loops are not.

    A file that is reached twice is listed once, by its own name rather than by a link's.

    Args:
        folder: Any folder.
        deep: Whether to look into the folders below.

    Raises:
        DataError: If a folder cannot be read; hidden folders and those of other programs are not tried.
    """
    walk = _Walk(deep=deep)
    walk.enter(folder, Path(os.path.realpath(folder)))
    below = tuple(sorted(walk.below))
    while walk.folders or walk.links:
        # links come last: what has a name of its own is listed by that
        if walk.folders:
            walk.enter(*walk.folders.pop())
        else:
            walk.follow(walk.links.popleft())
    if walk.unreadable:
        named = "; ".join(f"{shown(str(p))} ({why})" for p, why in walk.unreadable[:NAMED])
        more = f" and {len(walk.unreadable) - NAMED} more" if len(walk.unreadable) > NAMED else ""
        raise DataError(
            f"These folders or links cannot be read: {named}{more}. Change their permissions, or move "
            "them elsewhere."
        )
    listed = sorted(walk.images.items(), key=lambda entry: str(entry[1]))
    return Listing(
        tuple(path for _, path in listed),
        tuple(real for real, _ in listed),
        below,
        tuple(sorted(walk.left_out, key=lambda left: str(left.path))),
    )


def describe_left_out(left_out: Iterable[LeftOut], root: Path | None = None) -> tuple[str, ...]:
    """Return one sentence per reason, with a number and examples, the worst first.

    Args:
        left_out: What was left out.
        root: Folder that names are shown relative to.
    """
    groups: dict[Reason, list[Path]] = {}
    for left in left_out:
        groups.setdefault(left.reason, []).append(left.path)
    sentences = []
    for reason in Reason:
        if paths := groups.get(reason):
            endings = reason in (Reason.OTHER_FORMAT, Reason.UNKNOWN)
            kinds = f" ({_endings(paths)})" if endings else ""
            named = ", ".join(_relative(path, root) for path in sorted(paths)[:NAMED])
            words = f"for example {named}" if len(paths) > NAMED else named
            sentences.append(f"{reason} were left out: {len(paths):,}{kinds}: {words}.")
    return tuple(sentences)


class _Walk:
    """The state of one walk through folders."""

    def __init__(self, *, deep: bool) -> None:
        self.deep = deep
        self.images: dict[Path, Path] = {}  # by the file behind it
        self.left_out: list[LeftOut] = []
        self.unreadable: list[tuple[Path, str]] = []
        self.below: list[Path] = []  # folders directly below the first one
        self.folders: list[tuple[Path, Path]] = []  # to be entered: path, real path
        self.links: deque[Path] = deque()  # to be followed
        self.entered: set[Path] = set()

    def enter(self, folder: Path, real: Path) -> None:
        """List a folder; put folders and links in it on their lists."""
        if real in self.entered:
            self.left_out.append(LeftOut(folder, Reason.AGAIN))
            return
        first = not self.entered
        self.entered.add(real)
        try:
            with os.scandir(folder) as entries:
                content = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            self.unreadable.append((folder, error.strerror or str(error)))
            return
        for entry in content:
            path = folder / entry.name
            if entry.name.startswith("."):
                self.left_out.append(LeftOut(path, Reason.HIDDEN))
            elif entry.name.lower() in SYSTEM_NAMES:
                self.left_out.append(LeftOut(path, Reason.SYSTEM))
            elif entry.is_symlink():
                leads_to_folder = _is_folder(path)
                if first and leads_to_folder:
                    self.below.append(path)
                if self.deep or not leads_to_folder:
                    self.links.append(path)
            elif entry.is_dir():
                if first:
                    self.below.append(path)
                if self.deep:
                    self.folders.append((path, real / entry.name))
            else:
                self.file(path, real / entry.name, regular=entry.is_file())

    def follow(self, link: Path) -> None:
        """List what a link leads to, unless it is listed already."""
        try:
            state = link.stat()
        except PermissionError as error:
            self.unreadable.append((link, error.strerror or str(error)))
            return
        except OSError:  # it leads nowhere, or round in a circle
            state = None
        try:
            real = Path(os.path.realpath(link))
        except OSError:  # what it leads to is gone meanwhile, as in the folders of ended processes
            real, state = link, None
        if state is None:
            self.file(link, real, regular=None)
        elif not stat.S_ISDIR(state.st_mode):
            self.file(link, real, regular=stat.S_ISREG(state.st_mode))
        else:
            self.enter(link, real)

    def file(self, path: Path, real: Path, *, regular: bool | None) -> None:
        """Take a file for an image by its ending, or leave it out; `regular` is None where none is."""
        suffix = path.suffix.lower()
        reason = None
        if regular is False:
            reason = Reason.SPECIAL
        elif suffix not in IMAGE_SUFFIXES:
            other = suffix in OTHER_SUFFIXES
            reason = Reason.OTHER_FORMAT if other else Reason.UNKNOWN
            reason = reason if regular else Reason.BROKEN
        elif real in self.images:
            reason = Reason.AGAIN
        if reason is None:
            self.images[real] = path
        else:
            self.left_out.append(LeftOut(path, reason))


def _is_folder(link: Path) -> bool:
    try:
        return link.is_dir()
    except OSError:  # named when it is followed
        return False


def _endings(paths: Sequence[Path]) -> str:
    found = Counter(shown(path.suffix.lower(), 20) or "no ending" for path in paths)
    named = ", ".join(f"{number:,} {ending}" for ending, number in found.most_common(NAMED + 1))
    return named if len(found) <= NAMED + 1 else f"{named}, ..."


def _relative(path: PurePath, root: Path | None) -> str:
    inside = root is not None and path.is_relative_to(root)
    return shown((path.relative_to(root) if inside and root else path).as_posix())


def refuse_one_file(path: Path) -> None:
    """Refuse an image or an archive where a collection of images is expected.

    Raises:
        DataError: If the path is a file that is called as one of them.
    """
    if path.suffix.lower() in ARCHIVES and path.is_file():
        raise DataError(
            f"{shown(str(path))} is an archive: unpack it first, then name the folder of images."
        )
    if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
        raise DataError(
            f"{shown(str(path))} is a single image: name the folder that contains one folder of images "
            "per class."
        )


def refuse_images_among_runs(folder: Path) -> None:
    """Refuse a folder for several runs that holds images, itself or in its folders: they would be mixed up.

    Raises:
        ConfigError: If it does. A folder of runs may hold figures.
        DataError: If it cannot be read.
    """
    if not folder.is_dir():
        return
    top = list_images(folder, deep=False)
    depths = ("config.yaml", "*/config.yaml", "*/*/config.yaml")
    runs = [below for below in top.folders if any(any(below.glob(depth)) for depth in depths)]
    inside = [] if runs else [*top.images]
    for below in (each for each in top.folders if each not in runs):
        inside += list_images(below, deep=False).images[:1]
    if inside:
        raise ConfigError(
            f"{shown(str(folder))} contains images, for example {_relative(inside[0], folder)}. Runs are not "
            "written among images: choose another folder with --out."
        )
