"""How an image of any shape becomes the square that a network sees."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Fit = Literal["crop", "pad", "squash"]
# what `pad` puts around an image: the mean colour of ImageNet, about 0 after normalisation
PADDING = (124, 116, 104)
# an image that is longer than so many squares is cut before it is resized
LONGEST = 4
TEST_MARGIN = 256 / 224  # of ImageNet's test transform; small images are not cut
SMALL_SIDE = 64
LARGE_SIDE = 224


def chosen_size(side: int) -> int:
    """Choose the side of the network's input for images whose typical shorter side is `side`, in pixels."""
    if side > SMALL_SIDE:
        return LARGE_SIDE
    return max(8, -(-side // 8) * 8)


def view_margin(size: int) -> float:
    """Return how much larger than the network's input a test image is before its centre is cut."""
    return TEST_MARGIN if size > SMALL_SIDE else 1.0


def view_side(size: int, fit: Fit = "crop") -> int:
    """Return the side in pixels below which no side is reduced before the test view is made."""
    return round(size * view_margin(size)) if fit == "crop" else size


def describe_view(size: int, fit: Fit = "crop") -> str:
    """Say how an image file of any size becomes the square that the network sees."""
    side = view_side(size, fit)
    decoded = (
        "a JPEG decoded at the smallest of 1/1, 1/2, 1/4 and 1/8 of its size that leaves no side below "
        f"{side} (Pillow: image.draft('RGB', ({side}, {side})) before the pixels are read), transparency "
        "laid on white, "
    )
    if fit == "pad":
        return (
            f"{decoded}longer side resized to {size} (bilinear, antialiased), the rest of {size} x {size} "
            f"filled with RGB {PADDING}"
        )
    if fit == "squash":
        return (
            f"{decoded}resized to {size} x {size} without keeping its shape (bilinear, antialiased)"
        )
    return f"{decoded}shorter side resized to {side} (bilinear, antialiased), centre crop of {size} x {size}"


def shown_share(width: int, height: int, size: int, fit: Fit = "crop") -> float:
    """Return the share of an image's area that the test view shows, in (0, 1]."""
    if fit != "crop":
        return 1.0
    return min(width, height) / max(width, height) / view_margin(size) ** 2


def fitted(width: int, height: int, side: int) -> tuple[int, int]:
    """Return width and height after the shorter one is reduced to `side`; smaller images stay."""
    scale = min(1.0, side / min(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def to_view(pixels: Tensor, size: int, fit: Fit = "crop") -> NDArray[np.uint8]:
    """Make the square of the test view, uint8 [3, size, size], see `describe_view`.

    Args:
        pixels: uint8 [3, H, W].
        size: In pixels.
        fit: What happens to an image that is no square.
    """
    if fit == "crop":
        return to_square(pixels, size, margin=view_margin(size))
    if fit == "squash":
        return resized(pixels, size, size)
    height, width = pixels.shape[1:]
    longer = max(width, height)
    around = (width - longer) // 2, (height - longer) // 2, longer, longer
    return _padded(pixels, size, around)


def to_square(pixels: Tensor, size: int, *, margin: float = 1.0) -> NDArray[np.uint8]:
    """Resize the shorter side to `size * margin`, cut the centre, return uint8 [3, size, size].

    With `margin` 256 / 224 this is the usual test transform of ImageNet.

    Args:
        pixels: uint8 [3, H, W].
        size: In pixels.
        margin: At least 1.
    """
    side = round(size * margin)
    scale = side / min(pixels.shape[1:])
    wanted = [max(side, round(length * scale)) for length in pixels.shape[1:]]
    for axis in (1, 2):
        pixels, wanted[axis - 1] = _shortened(pixels, axis, wanted[axis - 1])
    high, wide = wanted
    left, top = (wide - size) // 2, (high - size) // 2
    whole = resized(pixels, high, wide)
    return np.ascontiguousarray(whole[:, top : top + size, left : left + size])


def _shortened(pixels: Tensor, axis: int, wanted: int) -> tuple[Tensor, int]:
    """Cut off the ends of a very long image, which the centre does not show: resizing them would be in vain.

    Returns:
        The middle of the image, and the length to which it is resized instead of `wanted`.
    """
    length, shorter = pixels.shape[axis], min(pixels.shape[1:])
    if length <= LONGEST * shorter:
        return pixels, wanted

    def new_length(kept: int) -> int:  # as odd or even as before: the same centre
        return wanted % 2 + 2 * round((kept * wanted / length - wanted % 2) / 2)

    # among some lengths the one whose scale is nearest to that of the whole
    first = (LONGEST - 2) * shorter
    choices = range(first + (length - first) % 2, min(length, first + shorter + 2) + 1, 2)
    kept = min(choices, key=lambda kept: abs(new_length(kept) / kept - wanted / length))
    return pixels.narrow(axis, (length - kept) // 2, kept), new_length(kept)


def random_resized_crop(
    pixels: Tensor,
    size: int,
    generator: np.random.Generator,
    *,
    area: tuple[float, float] = (0.08, 1.0),
    fit: Fit = "crop",
) -> NDArray[np.uint8]:
    """Cut a random part, see `draw_part`, and resize it, uint8 [3, size, size].

    Args:
        pixels: uint8 [3, H, W].
        size: In pixels.
        generator: Source of the part.
        area: Share of the area of the image, or of the square that it is fitted to.
        fit: As of the test view.
    """
    height, width = pixels.shape[1:]
    return cut_part(pixels, draw_part(width, height, generator, area=area, fit=fit), size, fit)


Box = tuple[int, int, int, int]  # left, top, width, height


def draw_part(
    width: int,
    height: int,
    generator: np.random.Generator,
    *,
    area: tuple[float, float] = (0.08, 1.0),
    fit: Fit = "crop",
) -> Box:
    """Draw a part of an image: left, top, width, height in its pixels.

    With `squash` the part has an allowed aspect (see `draw_box`) in the squashed square. With `pad` it is
    one of the padded square: it may reach beyond the image, but holds all of its shorter side that fits in.
    """
    if fit == "crop" or width == height:
        return draw_box(width, height, generator, area=area)
    side = max(width, height)
    left, top, wide, high = draw_box(side, side, generator, area=area)
    if fit == "squash":
        x, y = width / side, height / side
        return (
            min(round(left * x), width - 1), min(round(top * y), height - 1),
            max(1, round(wide * x)), max(1, round(high * y)),
        )  # fmt: skip
    left, top = left - (side - width) // 2, top - (side - height) // 2
    left = min(max(left, min(0, width - wide)), max(0, width - wide))
    top = min(max(top, min(0, height - high)), max(0, height - high))
    return left, top, wide, high


def cut_part(pixels: Tensor, box: Box, size: int, fit: Fit = "crop") -> NDArray[np.uint8]:
    """Resize the part of uint8 [3, H, W] inside `box` to uint8 [3, size, size]."""
    left, top, wide, high = box
    if fit == "pad":
        return _padded(pixels, size, box)
    return resized(pixels[:, top : top + high, left : left + wide], size, size)


def draw_box(
    width: int,
    height: int,
    generator: np.random.Generator,
    *,
    area: tuple[float, float] = (0.08, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
) -> Box:
    """Draw a part of an image: left, top, width, height.

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


def resized(pixels: Tensor, height: int, width: int) -> NDArray[np.uint8]:
    """Resize uint8 [3, H, W] bilinearly with antialiasing, as Pillow does."""
    if pixels.shape[1:] == (height, width):
        return np.ascontiguousarray(pixels.numpy())
    made = F.interpolate(pixels[None], (height, width), mode="bilinear", antialias=True)
    return np.ascontiguousarray(made[0].numpy())


def _padded(pixels: Tensor, size: int, box: Box) -> NDArray[np.uint8]:
    """Resize what `box` holds of an image; where it reaches beyond, there is padding."""
    height, width = pixels.shape[1:]
    left, top, wide, high = box
    first_x, last_x = max(0, left), min(width, left + wide)
    first_y, last_y = max(0, top), min(height, top + high)
    x, y = size / wide, size / high
    inner_wide = min(size, max(1, round((last_x - first_x) * x)))
    inner_high = min(size, max(1, round((last_y - first_y) * y)))
    to_x = min(size - inner_wide, round((first_x - left) * x))
    to_y = min(size - inner_high, round((first_y - top) * y))
    square = torch.tensor(PADDING, dtype=torch.uint8)[:, None, None].repeat(1, size, size)
    inside = resized(pixels[:, first_y:last_y, first_x:last_x], inner_high, inner_wide)
    square[:, to_y : to_y + inner_high, to_x : to_x + inner_wide] = torch.from_numpy(inside)
    return square.numpy()
