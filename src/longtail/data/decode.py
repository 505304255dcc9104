"""From a picture file to RGB pixels, whatever its mode; or to one sentence on what is wrong."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from simplejpeg import decode_jpeg
from torch import Tensor
from torch.nn import functional as F

from longtail.core.errors import DataError

PICTURE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}
)
# Above this a file is more likely an attack or a mistake than a picture to classify.
MOST_PIXELS = 2 * 89_478_485  # where Pillow refuses as well
ORIENTATION = 0x0112  # EXIF tag; by its value rows and columns are swapped, then axes are mirrored
SWAPPED = (5, 6, 7, 8)
MIRRORED = {2: (2,), 3: (1, 2), 4: (1,), 6: (2,), 7: (1, 2), 8: (1,)}  # axes of [3, H, W]
JPEG = ("JPEG", "MPO")  # the second holds several, of a stereo camera or a phone


class BadPictureError(DataError):
    """A file that cannot be read as a picture.

    Attributes:
        path: The file.
        reason: What is wrong, without the path.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason


class PictureFile:
    """A picture file in memory; its pixels are decoded when they are asked for.

    Attributes:
        path: The file.
        content: Its bytes.
        width: In pixels, of the picture when it stands upright.
        height: Likewise.

    Raises:
        BadPictureError: If the file is missing, empty, no picture, or larger than `MOST_PIXELS`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _in_words(path):
            self.content = path.read_bytes()
            with _opened(BytesIO(self.content), path) as picture:
                self.width, self.height = _upright_size(picture)
                self._orientation = picture.getexif().get(ORIENTATION, 1)
                self._plain_jpeg = picture.format in JPEG and picture.mode in ("RGB", "L")
                self._stored = picture.size

    def pixels(self, *, reduce: int = 1) -> Tensor:
        """Decode completely, in RGB and upright by the EXIF tag, uint8 [3, H, W].

        Grey, palette, CMYK, transparent (over white) and 16-bit pictures are converted; of an
        animation the first frame counts.

        Args:
            reduce: A JPEG may be decoded at a size that is so many times smaller, or nearly
                (faster; other formats ignore it).

        Raises:
            BadPictureError: If the file is damaged.
        """
        with _in_words(self.path):
            if self._plain_jpeg and (decoded := self._decode_jpeg(reduce)) is not None:
                return _turned(torch.from_numpy(decoded).permute(2, 0, 1), self._orientation)
            with _opened(BytesIO(self.content), self.path) as picture:
                if reduce > 1:
                    picture.draft("RGB", (picture.width // reduce, picture.height // reduce))
                picture.load()
                upright = _to_rgb(ImageOps.exif_transpose(picture))
            return torch.from_numpy(np.array(upright)).permute(2, 0, 1)

    def _decode_jpeg(self, reduce: int) -> NDArray[np.uint8] | None:
        """Decode by libjpeg-turbo directly, the same pixels as Pillow's; None for what it refuses."""
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


def read_size(path: Path) -> tuple[int, int]:
    """Read the upright width and height of a picture without reading all of the file.

    Raises:
        BadPictureError: If the file is missing, empty, no picture, or larger than `MOST_PIXELS`.
    """
    with _in_words(path), path.open("rb") as stream, _opened(stream, path) as picture:
        return _upright_size(picture)


def read_square(path: Path, size: int, *, margin: float = 1.0) -> NDArray[np.uint8]:
    """Read a picture and make it a square, see `to_square`."""
    file = PictureFile(path)
    reduce = min(file.width, file.height) // round(size * margin)
    return to_square(file.pixels(reduce=reduce), size, margin=margin)


def fitted(width: int, height: int, side: int) -> tuple[int, int]:
    """Return width and height after the shorter one is reduced to `side`; smaller pictures stay."""
    scale = min(1.0, side / min(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def read_fitted(path: Path, side: int) -> NDArray[np.uint8]:
    """Read a picture and reduce its shorter side to `side`, uint8 [3, H, W]; see `fitted`."""
    file = PictureFile(path)
    wide, high = fitted(file.width, file.height, side)
    return _resized(file.pixels(reduce=min(file.width, file.height) // side), high, wide)


def read_crop(
    path: Path, size: int, generator: np.random.Generator, *, area: tuple[float, float]
) -> NDArray[np.uint8]:
    """Read a random part of a picture, see `random_resized_crop`.

    The part is chosen first, so that a JPEG is decoded no larger than the part needs.
    """
    file = PictureFile(path)
    box = draw_box(file.width, file.height, generator, area=area)
    # with twice the pixels that are needed, cutting at whole ones moves the part by little
    pixels = file.pixels(reduce=min(box[2], box[3]) // (2 * size))
    scale = pixels.shape[2] / file.width, pixels.shape[1] / file.height
    left, top = round(box[0] * scale[0]), round(box[1] * scale[1])
    wide, high = max(1, round(box[2] * scale[0])), max(1, round(box[3] * scale[1]))
    return _resized(pixels[:, top : top + high, left : left + wide], size, size)


def to_square(pixels: Tensor, size: int, *, margin: float = 1.0) -> NDArray[np.uint8]:
    """Resize the shorter side to `size * margin`, cut the centre, return uint8 [3, size, size].

    With `margin` 256 / 224 this is the usual test transform of ImageNet.

    Args:
        pixels: uint8 [3, H, W].
        size: In pixels.
        margin: At least 1.
    """
    side = round(size * margin)
    height, width = pixels.shape[1:]
    scale = side / min(width, height)
    wide, high = max(side, round(width * scale)), max(side, round(height * scale))
    left, top = (wide - size) // 2, (high - size) // 2
    whole = _resized(pixels, high, wide)
    return np.ascontiguousarray(whole[:, top : top + size, left : left + size])


def random_resized_crop(
    pixels: Tensor,
    size: int,
    generator: np.random.Generator,
    *,
    area: tuple[float, float] = (0.08, 1.0),
) -> NDArray[np.uint8]:
    """Cut a random part, see `draw_box`, and resize it, uint8 [3, size, size].

    Args:
        pixels: uint8 [3, H, W].
        size: In pixels.
        generator: Source of the part.
        area: Share of the picture's area.
    """
    height, width = pixels.shape[1:]
    left, top, wide, high = draw_box(width, height, generator, area=area)
    return _resized(pixels[:, top : top + high, left : left + wide], size, size)


def draw_box(
    width: int,
    height: int,
    generator: np.random.Generator,
    *,
    area: tuple[float, float] = (0.08, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
) -> tuple[int, int, int, int]:
    """Draw a part of a picture: left, top, width, height.

    Area share uniform in `area`, aspect log-uniform in `aspect`; after ten vain tries the largest
    centred part with an allowed aspect, as torchvision's RandomResizedCrop does.
    """
    for _ in range(10):
        pixels = width * height * generator.uniform(*area)
        ratio = float(np.exp(generator.uniform(np.log(aspect[0]), np.log(aspect[1]))))
        w, h = round((pixels * ratio) ** 0.5), round((pixels / ratio) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            left = int(generator.integers(width - w + 1))
            top = int(generator.integers(height - h + 1))
            return left, top, w, h
    ratio = min(max(width / height, aspect[0]), aspect[1])
    w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
    return (width - w) // 2, (height - h) // 2, w, h


def _resized(pixels: Tensor, height: int, width: int) -> NDArray[np.uint8]:
    """Resize uint8 [3, H, W] bilinearly with antialiasing, as Pillow does."""
    if pixels.shape[1:] == (height, width):
        return np.ascontiguousarray(pixels.numpy())
    resized = F.interpolate(pixels[None], (height, width), mode="bilinear", antialias=True)
    return np.ascontiguousarray(resized[0].numpy())


@contextmanager
def _opened(stream: BinaryIO, path: Path) -> Iterator[Image.Image]:
    """Read the head of a file that is not empty and not too large."""
    if stream.seek(0, os.SEEK_END) == 0:
        raise BadPictureError(path, "the file is empty (0 bytes)")
    stream.seek(0)
    with Image.open(stream) as picture:
        width, height = picture.size
        if width * height > MOST_PIXELS:
            raise BadPictureError(
                path, f"{width} x {height} pixels are more than the limit of {MOST_PIXELS}"
            )
        yield picture


def _upright_size(picture: Image.Image) -> tuple[int, int]:
    width, height = picture.size
    # Pillow turns the size of a TIFF itself
    turned = picture.format != "TIFF" and picture.getexif().get(ORIENTATION) in SWAPPED
    return (height, width) if turned else (width, height)


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
    except BadPictureError:
        raise
    except FileNotFoundError as error:
        raise BadPictureError(path, "the file does not exist") from error
    except UnidentifiedImageError as error:
        raise BadPictureError(path, "not a picture in any known format") from error
    except Image.DecompressionBombError as error:
        raise BadPictureError(path, f"more pixels than the limit of {MOST_PIXELS}") from error
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:  # of the system, not of a decoder
            raise BadPictureError(path, f"cannot be read ({error.strerror})") from error
        # decoders of damaged files raise nearly anything: OSError, SyntaxError, struct.error, ...
        raise BadPictureError(path, f"damaged ({type(error).__name__}: {error})") from error


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16") or picture.mode == "I":
        values = np.asarray(picture).astype(np.int64)
        if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
            raise ValueError("32-bit integer pixels outside 0..65535")
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if picture.mode == "F":
        raise ValueError("floating-point pixels have no known range; save it as 8 or 16 bit")
    if picture.has_transparency_data:
        over_white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(over_white, picture.convert("RGBA")).convert("RGB")
    return picture.convert("RGB")
