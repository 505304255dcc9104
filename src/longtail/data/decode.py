"""From a picture file to RGB pixels, whatever its mode; or to one sentence on what is wrong."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from longtail.core.errors import DataError

PICTURE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}
)
# Above this a file is more likely an attack or a mistake than a picture to classify.
MOST_PIXELS = 2 * 89_478_485  # where Pillow refuses as well


class BadPictureError(DataError):
    """A file that cannot be read as a picture.

    Attributes:
        path: The file.
        reason: What is wrong, without the path.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason


def open_rgb(path: Path, *, at_least: int | None = None) -> Image.Image:
    """Read a picture completely and return it in mode RGB, turned upright by its EXIF tag.

    Grey, palette, CMYK, transparent (over white) and 16-bit pictures are converted; of an animation
    the first frame counts.

    Args:
        path: The file.
        at_least: If given, a JPEG may be decoded at a reduced size whose shorter side is still at
            least this many pixels (faster; other formats ignore it).

    Raises:
        BadPictureError: If the file is missing, empty, truncated, no picture, or larger than
            `MOST_PIXELS`.
    """
    try:
        if path.stat().st_size == 0:
            raise BadPictureError(path, "the file is empty (0 bytes)")
        with warnings.catch_warnings():
            # Pillow warns at half the size that we refuse; damaged EXIF blocks warn as well
            warnings.simplefilter("ignore")
            with Image.open(path) as picture:
                width, height = picture.size
                if width * height > MOST_PIXELS:
                    raise BadPictureError(
                        path, f"{width} x {height} pixels are more than the limit of {MOST_PIXELS}"
                    )
                if at_least is not None:
                    scale = max(1, min(width, height) // at_least)
                    picture.draft("RGB", (width // scale, height // scale))
                picture.load()
                return _to_rgb(ImageOps.exif_transpose(picture))
    except BadPictureError:
        raise
    except FileNotFoundError as error:
        raise BadPictureError(path, "the file does not exist") from error
    except UnidentifiedImageError as error:
        raise BadPictureError(path, "not a picture in any known format") from error
    except Image.DecompressionBombError as error:
        raise BadPictureError(path, f"more pixels than the limit of {MOST_PIXELS}") from error
    except Exception as error:
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


def to_square(picture: Image.Image, size: int, *, margin: float = 1.0) -> NDArray[np.uint8]:
    """Resize the shorter side to `size * margin`, cut the centre, return uint8 [3, size, size].

    With `margin` 256 / 224 this is the usual test transform of ImageNet.
    """
    side = round(size * margin)
    width, height = picture.size
    scale = side / min(width, height)
    target = (max(side, round(width * scale)), max(side, round(height * scale)))
    if picture.size != target:
        picture = picture.resize(target, Image.Resampling.BILINEAR)
    left, top = (target[0] - size) // 2, (target[1] - size) // 2
    pixels = np.asarray(picture.crop((left, top, left + size, top + size)))
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def random_resized_crop(
    picture: Image.Image,
    size: int,
    generator: np.random.Generator,
    *,
    area: tuple[float, float] = (0.08, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
) -> NDArray[np.uint8]:
    """Cut a random part and resize it, uint8 [3, size, size].

    Area share uniform in `area`, aspect log-uniform in `aspect`; after ten vain tries the largest
    centred part with an allowed aspect, as torchvision's RandomResizedCrop does.
    """
    width, height = picture.size
    for _ in range(10):
        pixels = width * height * generator.uniform(*area)
        ratio = float(np.exp(generator.uniform(np.log(aspect[0]), np.log(aspect[1]))))
        w, h = round((pixels * ratio) ** 0.5), round((pixels / ratio) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            left = int(generator.integers(width - w + 1))
            top = int(generator.integers(height - h + 1))
            break
    else:
        ratio = min(max(width / height, aspect[0]), aspect[1])
        w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
        left, top = (width - w) // 2, (height - h) // 2
    box = (left, top, left + w, top + h)
    resized = picture.resize((size, size), Image.Resampling.BILINEAR, box=box)
    return np.ascontiguousarray(np.asarray(resized).transpose(2, 0, 1))
