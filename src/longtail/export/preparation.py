"""How an image file becomes what a model takes, in plain Pillow and NumPy: model cards show this source.

The pixels are those of `longtail.data.images.decode.read_view`, with which a run is evaluated and `longtail
predict` predicts. A test compares both, and every export does on files of the run.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from longtail.data.images.resize import Fit, view_side


def open_rgb(path: Path | str, side: int) -> Image.Image:
    """Decode upright; a large JPEG at 1/2, 1/4 or 1/8, with no side below `side`."""
    opened = Image.open(path)
    opened.draft("RGB", (side, side))
    image = ImageOps.exif_transpose(opened)
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"{path}: more than 8 bits for each value")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = np.asarray(image.getchannel("A"))
        if alpha.min() < alpha.max():  # laid on white
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def crop(image: Image.Image, size: int, side: int) -> Image.Image:
    """Resize the shorter side to `side` and cut the centre."""
    scale = side / min(image.size)
    width, height = (max(side, round(length * scale)) for length in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    return image.crop((left, top, left + size, top + size))


def pad(image: Image.Image, size: int, side: int) -> Image.Image:
    """Resize the longer side to `size` and pad to a square."""
    longer = max(image.size)
    scale = size / longer
    width, height = (max(1, round(length * scale)) for length in image.size)
    left, top = (round(-((length - longer) // 2) * scale) for length in image.size)
    square = Image.new("RGB", (size, size), (124, 116, 104))
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    square.paste(image, (min(left, size - width), min(top, size - height)))
    return square


def squash(image: Image.Image, size: int, side: int) -> Image.Image:
    """Resize without keeping the shape."""
    return image.resize((size, size), Image.Resampling.BILINEAR)


MADE_BY: dict[Fit, Callable[[Image.Image, int, int], Image.Image]] = {
    "crop": crop, "pad": pad, "squash": squash,
}  # fmt: skip


def prepare(path: Path | str, size: int, fit: Fit = "crop") -> NDArray[np.float32]:
    """Return the pixels of a file as an exported model takes them, float32 [3, size, size] in 0..1.

    Args:
        path: An image with 8 bits for each value.
        size: Side of the model's input in pixels.
        fit: What happens to an image that is no square.

    Raises:
        ValueError: If the file has more bits, whose meaning it does not say.
        OSError: If Pillow cannot read it.
    """
    side = view_side(size, fit)
    square = MADE_BY[fit](open_rgb(path, side), size, side)
    return np.asarray(square, dtype=np.float32).transpose(2, 0, 1) / np.float32(255)


def program(size: int, fit: Fit = "crop") -> str:
    """Return a Python program with a function `prepare(path)` that does the same without longtail."""
    parts = [_source(open_rgb), _source(MADE_BY[fit])]
    last = f'''\
        def prepare(path):
            """Return float32 [3, {size}, {size}] in 0..1."""
            square = {fit}(open_rgb(path, {view_side(size, fit)}), {size}, {view_side(size, fit)})
            return np.asarray(square, dtype=np.float32).transpose(2, 0, 1) / 255
        '''
    imports = "import numpy as np\nfrom PIL import Image, ImageOps\n"
    return "\n\n".join([imports, *(part + "\n" for part in parts), textwrap.dedent(last)])


def _source(function: Callable[..., object]) -> str:
    """Return the source of a function without annotations, which a program needs no imports for."""
    head, body = inspect.getsource(function).split("\n", 1)
    names = ", ".join(inspect.signature(function).parameters)
    assert head.startswith(f"def {function.__name__}("), "the head is one line"
    return f"def {function.__name__}({names}):\n{body}".rstrip("\n")
