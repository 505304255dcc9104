"""Random operations: which images are touched, and how strongly.

An operation takes uint8 images [B, 3, S, S] and draws, and returns images; it may overwrite what
it was given. Work is done only on the images that drew it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from longtail.core.to_device import send
from longtail.data.augmentation import colour, geometry
from longtail.data.augmentation.draws import Draws, Numbers

Operation = Callable[[Tensor, Draws], Tensor]
Strengthened = Callable[[Tensor, Numbers], Tensor]

CROP_TRIES = 10
ASPECT = (3 / 4, 4 / 3)


def only(
    images: Tensor, which: NDArray[np.bool_], operation: Strengthened, strength: Numbers
) -> Tensor:
    """Replace the images marked in `which` by what `operation` makes of them, in place.

    `images` must be contiguous.
    """
    rows = np.flatnonzero(which)
    if len(rows) == 0:
        return images
    if len(rows) == len(images):
        return operation(images, strength)
    index = send(rows, images.device)
    # index_select copies whole images, images[index] single bytes: twenty times slower
    changed = operation(images.index_select(0, index), strength[rows])
    _words(images).index_copy_(0, index, _words(changed.contiguous()))
    return images


def _words(images: Tensor) -> Tensor:
    """View images as rows of eight bytes where that is possible, to copy them faster."""
    flat = images.view(len(images), -1)
    return (
        flat.view(torch.int64) if images.dtype == torch.uint8 and flat.shape[1] % 8 == 0 else flat
    )


def random_crop(images: Tensor, draws: Draws, *, share: int = 8, mode: str = "constant") -> Tensor:
    """Shift every image by up to a `share`-th of its side (4 pixels of 32, the CIFAR crop)."""
    padding = images.shape[-1] // share
    high = 2 * padding + 1
    return geometry.shifted(images, draws.integers(high), draws.integers(high), padding, mode)


def mirror(images: Tensor, draws: Draws) -> Tensor:
    """Mirror every image: the second view of test-time augmentation."""
    return images.flip(3)


def random_flip(images: Tensor, draws: Draws) -> Tensor:
    """Mirror every image with probability one half."""
    which = draws.chance(0.5)
    return only(images, which, lambda chosen, _: chosen.flip(3), np.zeros(draws.size))


def random_resized_crop(
    images: Tensor, draws: Draws, *, area: tuple[float, float] = (0.08, 1.0)
) -> Tensor:
    """Cut a part with `area` share and aspect in 3/4..4/3 and resize it to the old size.

    After ten vain tries the whole image is taken, as torchvision does for square images.
    """
    size = images.shape[-1]
    boxes = np.tile(np.array([0, 0, size, size]), (draws.size, 1))
    searching = np.ones(draws.size, dtype=bool)
    for _ in range(CROP_TRIES):
        pixels = size * size * draws.uniform(*area)
        aspect = np.exp(draws.uniform(np.log(ASPECT[0]), np.log(ASPECT[1])))
        width = np.rint(np.sqrt(pixels * aspect)).astype(np.int64)
        height = np.rint(np.sqrt(pixels / aspect)).astype(np.int64)
        found = searching & (width > 0) & (width <= size) & (height > 0) & (height <= size)
        top = np.floor(draws.uniform() * (size - height + 1)).astype(np.int64)
        left = np.floor(draws.uniform() * (size - width + 1)).astype(np.int64)
        boxes[found] = np.stack([top, left, height, width], axis=1)[found]
        searching &= ~found
    return geometry.resized_crop(images, boxes, size)


def random_rotation(images: Tensor, draws: Draws, *, degrees: float = 15.0) -> Tensor:
    """Turn every image by up to `degrees` in either direction."""
    return geometry.rotate(images, draws.uniform(-degrees, degrees))


def colour_jitter(
    images: Tensor,
    draws: Draws,
    *,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.4,
    hue: float = 0.0,
    probability: float = 1.0,
) -> Tensor:
    """Change brightness, contrast, saturation and hue, in an order of its own for every image.

    Factors are uniform in 1 - s..1 + s (hue in -h..h), as torchvision's ColorJitter.
    """
    jittered = draws.chance(probability)
    changes: list[tuple[Strengthened, Numbers]] = [
        (colour.brightness, draws.uniform(1 - brightness, 1 + brightness)),
        (colour.contrast, draws.uniform(1 - contrast, 1 + contrast)),
        (colour.saturation, draws.uniform(1 - saturation, 1 + saturation)),
    ]
    if hue:
        changes.append((colour.hue, draws.uniform(-hue, hue)))
    order = draws.order(len(changes))
    for place in range(len(changes)):
        for number, (operation, strength) in enumerate(changes):
            images = only(images, jittered & (order[:, place] == number), operation, strength)
    return images


def random_grey(images: Tensor, draws: Draws, *, probability: float = 0.2) -> Tensor:
    """Make some images grey."""
    which = draws.chance(probability)
    return only(images, which, lambda chosen, _: colour.grey(chosen), np.zeros(draws.size))


def random_blur(
    images: Tensor,
    draws: Draws,
    *,
    sigma: tuple[float, float] = (0.1, 2.0),
    probability: float = 0.5,
) -> Tensor:
    """Blur some images, with standard deviations in `sigma` pixels."""
    # a kernel to three deviations, no wider than the mirrored border allows
    size = 2 * min(int(np.ceil(3 * sigma[1])), images.shape[-1] - 1) + 1
    blur = partial(colour.gaussian_blur, kernel_size=size)
    return only(images, draws.chance(probability), blur, draws.uniform(*sigma))


def cutout(images: Tensor, draws: Draws, *, share: float = 0.5) -> Tensor:
    """Blacken one square of `share` of the side (16 pixels of 32), its centre anywhere."""
    size = images.shape[-1]
    side = round(share * size)
    top, left = draws.integers(size) - side // 2, draws.integers(size) - side // 2
    return geometry.cut_out(images, top, left, side)
