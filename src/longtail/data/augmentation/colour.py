"""Colour operations on batches, each image with a strength of its own.

Images are uint8 [B, 3, H, W]; strengths are NumPy arrays [B]. Every operation equals torchvision's
functional of the same name for the same parameter (tests compare them). Results of arithmetic are
truncated to whole levels, as there.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from longtail.core.to_device import send

Strength = NDArray[np.float64]
LUMA = (0.2989, 0.587, 0.114)


def per_image(values: Strength, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return `values` [B] on the device of `images`, shaped [B, 1, 1, 1]."""
    return send(values, images.device, dtype)[:, None, None, None]


def brightness(images: Tensor, factor: Strength) -> Tensor:
    """Multiply by `factor`; 0 is black, 1 the image."""
    return _levels(images * per_image(factor, images))


def contrast(images: Tensor, factor: Strength) -> Tensor:
    """Blend with the mean grey of the image; 0 is that grey, 1 the image."""
    mean = _grey(images).mean(dim=(1, 2, 3), keepdim=True)
    return _blend(images, mean, factor)


def saturation(images: Tensor, factor: Strength) -> Tensor:
    """Blend with the grey image; 0 is grey, 1 the image. (`Color` of AutoAugment.)"""
    return _blend(images, _grey(images), factor)


def sharpness(images: Tensor, factor: Strength) -> Tensor:
    """Blend with a smoothed image; 0 is smooth, 1 the image, 2 sharper. Borders stay."""
    if min(images.shape[-2:]) <= 2:
        return images
    exact = images.float()
    kernel = torch.full((3, 3), 1 / 13, device=images.device)
    kernel[1, 1] = 5 / 13
    smooth = F.conv2d(exact, kernel.expand(3, 1, 3, 3), groups=3).round_()
    inner = exact[:, :, 1:-1, 1:-1]
    inner += (smooth - inner) * (1 - per_image(factor, images))
    return _levels(exact)


def hue(images: Tensor, shift: Strength) -> Tensor:
    """Turn the hue by `shift` of the colour circle, in [-0.5, 0.5]."""
    red, green, blue = (images.float() / 255).unbind(1)  # [B, H, W]
    low, high = torch.aminmax(torch.stack((red, green, blue)), dim=0)
    span = high - low
    safe = torch.where(span == 0, torch.ones_like(span), span)
    sector = torch.where(
        high == red,
        (green - blue) / safe,
        torch.where(high == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    turned = (sector / 6 + per_image(shift, images)[:, :, :, 0]).remainder(1.0) * 6
    # channel c of HSV -> RGB: v - span * clamp(min(k, 4 - k), 0, 1), k = (offset + 6 h) mod 6
    channels = []
    for offset in (5.0, 3.0, 1.0):
        k = (offset + turned).remainder(6.0)
        channels.append(high - span * torch.minimum(k, 4 - k).clamp(0, 1))
    # to whole levels as torchvision converts floats: 255.999 x, truncated
    return (torch.stack(channels, dim=1) * (256 - 1e-3)).clamp_(0, 255).to(images.dtype)


def grey(images: Tensor) -> Tensor:
    """Return the grey image in three equal channels."""
    return _grey(images).to(images.dtype).expand_as(images)


def posterize(images: Tensor, bits: Strength) -> Tensor:
    """Keep the highest `bits` (0..8) of every level."""
    kept = (256 - (1 << (8 - bits.astype(np.int64)))).astype(np.float64)
    return images & per_image(kept, images, torch.uint8)


def solarize(images: Tensor, threshold: Strength) -> Tensor:
    """Invert levels of at least `threshold`."""
    return torch.where(images >= per_image(threshold, images), 255 - images, images)


def solarize_add(images: Tensor, amount: Strength) -> Tensor:
    """Add `amount` to levels below 128. Source: timm's RandAugment."""
    added = (images.float() + per_image(amount, images)).clamp_(0, 255).to(images.dtype)
    return torch.where(images < 128, added, images)


def autocontrast(images: Tensor, _strength: Strength) -> Tensor:
    """Stretch every channel of every image to 0..255."""
    from torchvision.transforms.v2 import functional  # takes seconds to import

    stretched: Tensor = functional.autocontrast(images)
    return stretched


def equalize(images: Tensor, _strength: Strength) -> Tensor:
    """Flatten the histogram of every channel of every image."""
    from torchvision.transforms.v2 import functional  # takes seconds to import

    flat: Tensor = functional.equalize(images)
    return flat


def invert(images: Tensor, _strength: Strength) -> Tensor:
    """Return 255 - level."""
    return 255 - images


def gaussian_blur(images: Tensor, sigma: Strength, kernel_size: int) -> Tensor:
    """Blur each image with its own standard deviation in pixels; borders are mirrored.

    A separable filter is a product with a banded matrix from each side, so that every
    image of a batch can have a kernel of its own in one batched product.
    """
    radius = kernel_size // 2
    offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=torch.float32)
    width = per_image(sigma, images)[:, :, 0, 0]  # [B, 1]
    kernel = torch.exp(-0.5 * (offsets / width) ** 2)
    kernel = kernel / kernel.sum(dim=1, keepdim=True)  # [B, 2 radius + 1]
    rows, columns = (_band(kernel, size, radius) for size in images.shape[-2:])
    blurred = rows[:, None] @ images.float() @ columns[:, None].transpose(2, 3)
    return blurred.round_().clamp_(0, 255).to(images.dtype)


def _band(kernel: Tensor, size: int, radius: int) -> Tensor:
    """Return the matrices [B, size, size] that filter a line with mirrored borders."""
    place = torch.arange(size, device=kernel.device)
    source = place[:, None] + torch.arange(-radius, radius + 1, device=kernel.device)
    source = source.abs()
    source = torch.where(source >= size, 2 * (size - 1) - source, source)  # [size, 2 radius + 1]
    matrix = torch.zeros(len(kernel), size, size, device=kernel.device)
    expanded = source.expand(len(kernel), *source.shape)
    return matrix.scatter_add_(2, expanded, kernel[:, None, :].expand_as(expanded))


def _grey(images: Tensor) -> Tensor:
    """Return whole levels of luma as float32 [B, 1, H, W]."""
    red, green, blue = images.unbind(1)
    luma = red * LUMA[0]
    luma = luma.add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])
    return luma.floor_()[:, None]


def _blend(images: Tensor, other: Tensor, factor: Strength) -> Tensor:
    share = per_image(factor, images)
    return _levels(images * share + other * (1 - share))


def _levels(exact: Tensor) -> Tensor:
    return exact.clamp_(0, 255).to(torch.uint8)
