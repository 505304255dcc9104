"""Augmentation on the device, with parameters of its own for every picture of a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from longtail.core.errors import ConfigError

PADDING_SHARE = 8  # CIFAR's published crop pads 4 pixels of 32


@dataclass(frozen=True)
class Draws:
    """Uniform random numbers for the pictures of one process.

    The numbers of the joint batch are drawn and this process's places are kept, so that a picture
    gets the same augmentation for any number of processes.

    Attributes:
        generator: On the device of the pictures.
        size: Pictures of this process.
        rank: Of this process.
        world: Number of processes.
    """

    generator: torch.Generator
    size: int
    rank: int = 0
    world: int = 1

    def uniform(self) -> Tensor:
        """Return one number in [0, 1) per picture, float32 [B]."""
        joint = torch.rand(
            self.size * self.world, generator=self.generator, device=self.generator.device
        )
        return joint[self.rank :: self.world]

    def integers(self, high: int) -> Tensor:
        """Return one integer in 0..high-1 per picture, int64 [B]."""
        return (self.uniform() * high).long().clamp_(max=high - 1)


Operation = Callable[[Tensor, Draws], Tensor]


def random_crop(images: Tensor, draws: Draws) -> Tensor:
    """Shift every picture by up to an eighth of its side, black where nothing is.

    Equals zero padding followed by a random crop of the old size.

    Args:
        images: [B, 3, S, S], any dtype.
        draws: One vertical and one horizontal shift per picture.
    """
    size = images.shape[-1]
    padding = size // PADDING_SHARE
    padded = F.pad(images, (padding,) * 4)
    windows = padded.unfold(2, size, 1).unfold(3, size, 1)  # [B, 3, 2p+1, 2p+1, S, S], a view
    top, left = draws.integers(2 * padding + 1), draws.integers(2 * padding + 1)
    return windows[torch.arange(len(images), device=images.device), :, top, left]


def random_flip(images: Tensor, draws: Draws) -> Tensor:
    """Mirror every picture with probability one half, [B, 3, H, W]."""
    flipped = (draws.uniform() < 0.5)[:, None, None, None]
    return torch.where(flipped, images.flip(3), images)


@dataclass(frozen=True)
class Policy:
    """What happens to a training picture.

    Attributes:
        resized_crop: Whether files are cut at random when they are decoded (else the centre).
        operations: What happens on the device, in order.
    """

    operations: tuple[Operation, ...] = ()
    resized_crop: bool = False

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """Apply the device operations to uint8 or float pictures [B, 3, S, S]."""
        for operation in self.operations:
            images = operation(images, draws)
        return images


POLICIES: dict[str, Policy] = {
    "none": Policy(),
    "crop": Policy((random_crop,)),
    "crop-flip": Policy((random_crop, random_flip)),
    "resized-crop-flip": Policy((random_flip,), resized_crop=True),
}


def find_policy(name: str) -> Policy:
    """Return the policy called `name`.

    Raises:
        ConfigError: If there is none.
    """
    try:
        return POLICIES[name]
    except KeyError:
        raise ConfigError(
            f"There is no augmentation policy {name!r}; there are {', '.join(sorted(POLICIES))}."
        ) from None


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Return (images / 255 - mean) / std as float32, from uint8 [B, 3, H, W]."""
    scale = torch.tensor(std, device=images.device) * 255
    shift = torch.tensor(mean, device=images.device) * 255
    return (images.float() - shift[:, None, None]) / scale[:, None, None]
