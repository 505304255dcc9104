"""From an image file to RGB pixels, whatever its mode; or to one sentence on what is wrong."""

from __future__ import annotations

import importlib.util
import io
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin, UnidentifiedImageError
from simplejpeg import decode_jpeg
from torch import Tensor

from longtail.core.errors import DataError
from longtail.core.regular_files import kind_of
from longtail.data.images.colour_modes import (
    Facts,
    PixelError,
    array_to_rgb,
    has_more_frames,
    has_other_profile,
    to_rgb,
)
from longtail.data.images.memory import DECODING
from longtail.data.images.resize import (
    Fit,
    cut_part,
    draw_part,
    fitted,
    resized,
    to_view,
    view_side,
)

_AVIF = importlib.util.find_spec("PIL.AvifImagePlugin") is not None  # of newer versions of Pillow
IMAGE_SUFFIXES = frozenset(
    {
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".mpo",
        ".jp2",
        ".j2k",
        ".j2c",
        ".jpc",
        ".jpf",
        ".jpx",
        ".png",
        ".apng",
        ".webp",
        ".bmp",
        ".dib",
    }
    | {".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm", ".pnm"}
    | ({".avif", ".avifs"} if _AVIF else set())
)
# no other decoder of Pillow is asked: that of PostScript starts a program; JPEG stands for MPO too
FORMATS = (
    *("JPEG", "JPEG2000", "PNG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "PPM"),
    *(("AVIF",) if _AVIF else ()),
)
# Large images in pieces of 64 MiB: the system gets them back at once; the usual ones of 16 MiB stay with
# the thread that decoded them (measured with glibc: 700 MB for each thread after a bomb).
Image.core.set_block_size(2**26)  # type: ignore[attr-defined]
# Above this a file is more likely an attack or a mistake than an image to classify.
MOST_PIXELS = 2 * 89_478_485  # where Pillow refuses as well
MOST_SIDE = 2**18  # beyond it a head is damaged
MOST_BYTES = 2**31
MOST_CHUNKS = 300_000  # of a PNG, looked through for one; encoders make them 8 kB or larger
MOST_SCANS = 200  # of a progressive JPEG, which is decoded anew by each; encoders write about ten
# memory that decoding takes at its peak, for each pixel: by libjpeg-turbo, and by Pillow with conversion
JPEG_BYTES, BYTES = 8, 16
ORIENTATION = 0x0112  # EXIF tag; by its value rows and columns are swapped, then axes are mirrored
SWAPPED = (5, 6, 7, 8)
MIRRORED = {2: (2,), 3: (1, 2), 4: (1,), 6: (2,), 7: (1, 2), 8: (1,)}  # axes of [3, H, W]
JPEG = ("JPEG", "MPO")  # the second holds several, of a stereo camera or a phone
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
ZIP_MAGIC = b"PK\x03\x04"
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


class BadImageError(DataError):
    """A file that cannot be read as an image.

    Attributes:
        path: The file.
        reason: What is wrong, without the path.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason


class ImageFile:
    """An image file whose head was read; its pixels are decoded when they are asked for.

    Attributes:
        path: The file.
        width: In pixels, of the image when it stands upright.
        height: Likewise.

    Args:
        path: The file.
        bit_depth: Bits that values of more than 8 bits really use (12 of a camera, in files of 16); None
            where the files say it themselves.

    Raises:
        BadImageError: If the file is missing, empty, no image, no regular file (a pipe or a device is
            never opened), or larger than `MOST_PIXELS` or `MOST_BYTES`.
    """

    def __init__(self, path: Path, *, bit_depth: int | None = None) -> None:
        self.path, self._bit_depth = path, bit_depth
        with _in_words(path), _stream(path) as stream, _opened(stream, path) as image:
            self.width, self.height = _upright_size(image, stream)
            self._orientation = _orientation(image, stream)
            self._plain_jpeg = image.format in JPEG and image.mode in ("RGB", "L")
            self._stored = image.size
            self._of_jpeg = Facts(
                more_frames=has_more_frames(image), profile=has_other_profile(image)
            )
            self._size = stream.size

    @cached_property
    def content(self) -> bytes:
        """Bytes of the file."""
        with _in_words(self.path):
            return self.path.read_bytes()

    def reduction(self, size: int, fit: Fit) -> int:
        """Return how many times smaller it may be decoded for the test view: no side smaller than shown."""
        return max(1, min(self.width, self.height) // view_side(size, fit))

    @contextmanager
    def held(self, *, reduce: int = 1) -> Iterator[None]:
        """Hold the memory that decoding takes; decoders that do not fit beside others wait."""
        pixels = self._stored[0] * self._stored[1]
        needed = JPEG_BYTES * pixels // reduce**2 if self._plain_jpeg else BYTES * pixels
        with DECODING.reserve(self._size + needed):
            yield

    def pixels(self, *, reduce: int = 1) -> Tensor:
        """Decode completely, in RGB and upright by the EXIF tag, uint8 [3, H, W]; see `decode`."""
        return self.decode(reduce=reduce)[0]

    def decode(self, *, reduce: int = 1) -> tuple[Tensor, Facts]:
        """Decode completely, in RGB and upright by the EXIF tag.

        Grey, palette, CMYK, transparent (over white) and 16-bit images are converted, see
        `longtail.data.images.colour_modes`; of an animation the first frame counts. Call it inside `held`.

        Args:
            reduce: A JPEG may be decoded at a size that is so many times smaller, or nearly
                (faster; other formats ignore it).

        Returns:
            uint8 [3, H, W], and what else the file holds.

        Raises:
            BadImageError: If the file is damaged, or does not say what its values mean.
        """
        with _in_words(self.path):
            if self._plain_jpeg and (decoded := self._decode_jpeg(reduce)) is not None:
                pixels = torch.from_numpy(decoded).permute(2, 0, 1)
                return _turned(pixels, self._orientation), self._of_jpeg
            with _opened(io.BytesIO(self.content), self.path) as image:
                if reduce > 1:
                    image.draft("RGB", (image.width // reduce, image.height // reduce))
                # Pillow turns a TIFF itself
                turn = 1 if image.format == "TIFF" else self._orientation
                made, facts = to_rgb(image, self._bit_depth, self.content)
                facts = replace(facts, in_part=self._plain_jpeg)  # the stricter decoder refused it
            return _turned(torch.from_numpy(made).permute(2, 0, 1), turn), facts

    def _decode_jpeg(self, reduce: int) -> NDArray[np.uint8] | None:
        """Decode by libjpeg-turbo directly, the same pixels as Pillow's; None for what it refuses."""
        if self.content.count(b"\xff\xda") > MOST_SCANS:
            raise BadImageError(self.path, f"more than {MOST_SCANS} scans")
        width, height = self._stored
        scale = max(power for power in (1, 2, 4, 8) if power <= max(1, reduce))
        try:
            decoded: NDArray[np.uint8] = decode_jpeg(
                self.content,
                min_width=-(-width // scale),
                min_height=-(-height // scale),
                min_factor=scale,
            )
        except ValueError:
            return None  # Pillow has the last word: it reads some damaged files, and says what is wrong
        return decoded


def image_pixels(image: Image.Image | NDArray[Any], bit_depth: int | None) -> tuple[Tensor, Facts]:
    """Convert an image in memory as one of a file is, see `ImageFile.decode`.

    Args:
        image: Of Pillow, or an array uint8 or uint16, [H, W], [H, W, 1] or [H, W, 3] in RGB.
        bit_depth: As of `ImageFile`.

    Raises:
        BadImageError: If it is damaged, or does not say what its values mean.
    """
    path = Path("image")
    with _in_words(path):
        if isinstance(image, np.ndarray):
            made, facts = array_to_rgb(image, bit_depth)
            return torch.from_numpy(made).permute(2, 0, 1), facts
        if image.width * image.height > MOST_PIXELS or not image.width * image.height:
            raise BadImageError(path, f"{image.width} x {image.height} pixels")
        turn = 1 if image.format == "TIFF" else image.getexif().get(ORIENTATION, 1)
        made, facts = to_rgb(image, bit_depth)
        return _turned(torch.from_numpy(made).permute(2, 0, 1), turn), facts


def read_size(path: Path) -> tuple[int, int]:
    """Read the upright width and height of an image without reading all of the file.

    Raises:
        BadImageError: As for `ImageFile`.
    """
    with _in_words(path), _stream(path) as stream, _opened(stream, path) as image:
        return _upright_size(image, stream)


def read_view(
    path: Path, size: int, *, fit: Fit = "crop", bit_depth: int | None = None
) -> NDArray[np.uint8]:
    """Read an image and make it the square that a network sees, uint8 [3, size, size]; see `to_view`."""
    file = ImageFile(path, bit_depth=bit_depth)
    reduce = file.reduction(size, fit)
    with file.held(reduce=reduce):
        return to_view(file.pixels(reduce=reduce), size, fit)


def read_fitted(path: Path, side: int, *, bit_depth: int | None = None) -> NDArray[np.uint8]:
    """Read an image and reduce its shorter side to `side`, uint8 [3, H, W]; see `fitted`."""
    file = ImageFile(path, bit_depth=bit_depth)
    wide, high = fitted(file.width, file.height, side)
    reduce = max(1, min(file.width, file.height) // side)
    with file.held(reduce=reduce):
        return resized(file.pixels(reduce=reduce), high, wide)


def read_crop(
    path: Path,
    size: int,
    generator: np.random.Generator,
    *,
    area: tuple[float, float],
    fit: Fit = "crop",
    bit_depth: int | None = None,
) -> NDArray[np.uint8]:
    """Read a random part of an image, see `draw_part`, uint8 [3, size, size].

    The part is chosen first, so that a JPEG is decoded no larger than the part needs.
    """
    file = ImageFile(path, bit_depth=bit_depth)
    box = draw_part(file.width, file.height, generator, area=area, fit=fit)
    # with twice the pixels that are needed, cutting at whole ones moves the part by little
    reduce = max(1, min(box[2], box[3]) // (2 * size))
    with file.held(reduce=reduce):
        pixels = file.pixels(reduce=reduce)
        scale = pixels.shape[2] / file.width, pixels.shape[1] / file.height
        left, top = round(box[0] * scale[0]), round(box[1] * scale[1])
        wide, high = max(1, round(box[2] * scale[0])), max(1, round(box[3] * scale[1]))
        return cut_part(pixels, (left, top, wide, high), size, fit)


@contextmanager
def _stream(path: Path) -> Iterator[_Bounded]:
    """Open a regular file that is not larger than `MOST_BYTES`."""
    if kind := kind_of(path):
        raise BadImageError(path, f"it is {kind}, not a file")
    with _Bounded(path) as stream:
        if stream.size > MOST_BYTES:
            raise BadImageError(path, f"more than the limit of {MOST_BYTES:,} bytes")
        yield stream


class _Bounded(io.BufferedReader):
    """A file of which no more is asked than it has: a damaged head may ask for 4 GB of a file of 2 kB."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self.size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self.size - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


@contextmanager
def _opened(stream: BinaryIO, path: Path) -> Iterator[Image.Image]:
    """Read the head of a file that is not empty and not too large."""
    if stream.seek(0, os.SEEK_END) == 0:
        raise BadImageError(path, "the file is empty (0 bytes)")
    stream.seek(0)
    try:
        image = Image.open(stream, formats=FORMATS)
    except UnidentifiedImageError as error:
        raise BadImageError(path, _unknown(stream)) from error
    try:
        width, height = image.size
        if width * height > MOST_PIXELS:
            raise BadImageError(
                path, f"{width} x {height} pixels are more than the limit of {MOST_PIXELS}"
            )
        if max(width, height) > MOST_SIDE:
            raise BadImageError(
                path, f"{width} x {height} pixels: no side may have more than {MOST_SIDE}"
            )
        yield image
    finally:
        image.close()  # its pixels too: images are in cycles of references and would stay for a while


def _unknown(stream: BinaryIO) -> str:
    """Say what is known of a file that no decoder takes."""
    stream.seek(0)
    magic = stream.read(4)
    if magic == ZIP_MAGIC:
        return "a zip file, not an image; unpack it first"
    if magic in TIFF_MAGIC:
        return (
            "this kind of TIFF is not supported (damaged, or unusual bands, bits or compression); "
            "save it as RGB or grey with 8 or 16 bits"
        )
    return "not an image in a known format"


def _upright_size(image: Image.Image, stream: BinaryIO) -> tuple[int, int]:
    width, height = image.size
    # Pillow turns the size of a TIFF itself
    turned = image.format != "TIFF" and _orientation(image, stream) in SWAPPED
    return (height, width) if turned else (width, height)


def _orientation(image: Image.Image, stream: BinaryIO) -> int:
    """Return the EXIF tag of an image whose head was read.

    In a PNG it may stand behind the pixels, where Pillow decodes all of them to find it, outside of any
    budget: here the chunks are skipped instead.
    """
    if not isinstance(image, PngImagePlugin.PngImageFile):
        return int(image.getexif().get(ORIENTATION, 1))
    exif = Image.Image.getexif(image)
    if ORIENTATION not in exif and (late := _png_chunk(stream, b"eXIf")):
        exif = Image.Exif()
        exif.load(b"Exif\0\0" + late)
    return int(exif.get(ORIENTATION, 1))


def _png_chunk(stream: BinaryIO, wanted: bytes) -> bytes:
    """Return the content of the first chunk of a kind; empty if there is none."""
    stream.seek(len(PNG_MAGIC))
    for _ in range(MOST_CHUNKS):
        if len(head := stream.read(8)) < 8:
            break
        size, kind = struct.unpack(">I4s", head)
        if kind == wanted:
            return stream.read(size)
        stream.seek(size + 4, os.SEEK_CUR)
    return b""


def _turned(pixels: Tensor, orientation: int) -> Tensor:
    """Turn stored pixels [3, H, W] upright."""
    if orientation in SWAPPED:
        pixels = pixels.transpose(1, 2)
    return pixels.flip(MIRRORED[orientation]) if orientation in MIRRORED else pixels


@contextmanager
def _in_words(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises into one sentence."""
    try:
        yield
    except BadImageError:
        raise
    except MemoryError as error:
        raise BadImageError(path, "decoding it needs more memory than there is") from error
    except PixelError as error:
        raise BadImageError(path, str(error)) from error
    except FileNotFoundError as error:
        raise BadImageError(path, "the file does not exist") from error
    except Image.DecompressionBombError as error:
        raise BadImageError(path, f"more pixels than the limit of {MOST_PIXELS}") from error
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:  # of the system, not of a decoder
            raise BadImageError(path, f"cannot be read ({error.strerror})") from error
        # decoders of damaged files raise nearly anything: OSError, SyntaxError, struct.error, ...
        raise BadImageError(path, f"damaged ({type(error).__name__}: {error})") from error
