"""What a trained model predicts: files, folders, lists of files, and images in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from longtail.core.errors import DataError
from longtail.core.names import from_printable, printable
from longtail.core.regular_files import kind_of
from longtail.core.table_cells import plain_cell
from longtail.data.images.decode import BadImageError, ImageFile, image_pixels
from longtail.data.images.file_checks import Checked
from longtail.data.images.resize import Fit, to_view
from longtail.data.sources.folder_contents import LeftOut, describe_left_out, list_images
from longtail.data.sources.table_files import open_table

TABLES = (".csv", ".parquet", ".pq")
LISTS = (*TABLES, ".txt")

ImageSource = Path | str | Image.Image | NDArray[Any]


@dataclass(frozen=True)
class ImageInputs:
    """Images, in the order of the predictions.

    Attributes:
        items: A path, an image of Pillow, or an array [H, W] or [H, W, 3] each.
        left_out: What lies in the named folders and is left out.
    """

    items: tuple[Path | Image.Image | NDArray[Any], ...]
    left_out: tuple[LeftOut, ...] = ()

    def __len__(self) -> int:
        """Number of images."""
        return len(self.items)

    def names(self) -> list[str]:
        """Return the path of each, or `image 0` by its place."""
        return [
            printable(str(item)) if isinstance(item, Path) else f"image {place}"
            for place, item in enumerate(self.items)
        ]

    def describe_left_out(self) -> tuple[str, ...]:
        """Return one sentence per reason on what is left out, with numbers and names."""
        return describe_left_out(self.left_out)


def collect(sources: ImageSource | Sequence[ImageSource]) -> ImageInputs:
    """Return the images in `sources`.

    Folders stand for all visible images below them, sorted; a table (`.csv` or `.parquet` with a column
    `path`) or a list (`.txt`, one path a line) for the files that it names, relative to its own folder or
    else to the working folder. Any other file is an image whatever its name is. A missing file becomes a row
    with its error.

    Raises:
        DataError: If a folder holds no image, a table no column `path`, or an array is no image.
    """
    if isinstance(sources, np.ndarray) and sources.dtype.kind in "UO":
        sources = sources.tolist()  # paths, as pandas gives them
    if hasattr(sources, "columns"):  # a data frame, which yields the names of its columns
        raise DataError("Give the column of a data frame that holds the paths: frame['path'].")
    one = isinstance(sources, Path | str | Image.Image | np.ndarray)
    given = [sources] if one or not isinstance(sources, Iterable) else sources
    items: list[Path | Image.Image | NDArray[Any]] = []
    left_out: list[LeftOut] = []
    for source in given:
        if isinstance(source, Image.Image):
            items.append(source)
        elif isinstance(source, np.ndarray):
            items += _images(source)
        elif not isinstance(source, Path | str):
            raise DataError(
                f"Give paths, Pillow images or arrays [H, W, 3] of uint8, not {type(source).__name__}."
            )
        elif str(source).startswith(("http://", "https://")):
            raise DataError(f"{source} is a web address: download the image and give the file.")
        elif Path(source).is_dir():
            listing = list_images(Path(source))
            items += listing.images
            left_out += listing.left_out
            if not listing.images:
                raise DataError(f"There are no images in {source}.")
        elif Path(source).suffix.lower() in LISTS:
            items += _listed(Path(source))
        else:
            items.append(Path(source))
    return ImageInputs(tuple(items), tuple(left_out))


def _images(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield the image, or the images, of an array."""
    several = array.ndim == 4
    for image in array if several else [array]:
        if image.dtype not in (np.uint8, np.uint16):
            raise DataError(
                f"An array of {image.dtype} does not say which value is white: give uint8, 0 to 255."
            )
        if image.ndim == 3 and image.shape[0] == 3 and image.shape[2] not in (1, 3):
            raise DataError(
                f"An array of shape {tuple(image.shape)} has the colours first: put them last, [H, W, 3]."
            )
        if image.size == 0 or not (
            image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3))
        ):
            raise DataError(
                f"An array of shape {tuple(image.shape)} is not an image: give [H, W] or [H, W, 3], RGB."
            )
        yield image


def _listed(path: Path) -> list[Path]:
    """Return the files that a table or a list names."""
    try:
        if kind := kind_of(path):
            raise DataError(f"{path} is {kind}, not a list of images.")
        if path.suffix.lower() in TABLES:
            table = open_table(path)
            place = table.find("path")
            if place is None:
                raise DataError(f"{path} needs a column path; it has: {table.columns()}.")
            lines = table.column(place)
        else:
            # as Python itself reads names that are no UTF-8
            lines = path.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}).") from error
    named = [line.strip() for line in lines if line.strip()]
    if not named:
        raise DataError(f"{path} lists no images.")
    return [_found(line, path.parent) for line in named]


def _found(line: str, folder: Path) -> Path:
    """Return the file that a line means; the first guess where there is none."""
    plain = plain_cell(line)
    names = dict.fromkeys((line, plain, from_printable(plain), line.strip("\"'")))
    guesses = [base / name for name in names for base in (folder, Path())]
    for guess in guesses:
        try:
            if guess.exists():
                return guess
        except (OSError, ValueError):  # too long for a name, or with a zero byte
            continue
    return guesses[0]


@dataclass(frozen=True)
class Decoded:
    """One image that is ready for the network.

    Attributes:
        view: uint8 [3, S, S]; None if it cannot be read.
        seen: What was found on the way.
    """

    view: NDArray[np.uint8] | None
    seen: Checked


def decode_view(
    item: Path | Image.Image | NDArray[Any], size: int, fit: Fit, bit_depth: int | None
) -> Decoded:
    """Decode one image to the test view; what is wrong with it is in `seen.reason`."""
    try:
        if isinstance(item, Path):
            file = ImageFile(item, bit_depth=bit_depth)
            reduce = file.reduction(size, fit)
            with file.held(reduce=reduce):
                pixels, facts = file.decode(reduce=reduce)
                view, width, height = to_view(pixels, size, fit), file.width, file.height
        else:
            pixels, facts = image_pixels(item, bit_depth)
            view, height, width = to_view(pixels, size, fit), *pixels.shape[1:]
    except BadImageError as error:
        return Decoded(None, Checked(error.reason, 0, 0, ""))
    return Decoded(view, Checked("", width, height, "", facts))
