"""Augmentation policies by the names that papers use."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from longtail.core.errors import ConfigError
from longtail.core.to_device import send
from longtail.data.augmentation.autoaugment import (
    IMAGENET_POLICY,
    autoaugment,
    randaugment,
    randaugment_torchvision,
)
from longtail.data.augmentation.draws import Draws
from longtail.data.augmentation.operations import (
    Operation,
    colour_jitter,
    cutout,
    mirror,
    random_blur,
    random_crop,
    random_flip,
    random_grey,
    random_resized_crop,
    random_rotation,
)


@dataclass(frozen=True)
class Policy:
    """What happens to a training image.

    Attributes:
        operations: In order; uint8 in, uint8 out.
        resized_crop: Area of a random resized crop that comes first: files are cut when they are
            decoded, images in memory on the device. None for policies without.
        widens: Whether the smallest area grows to the whole image until the last epoch, slowly at first.
    """

    operations: tuple[Operation, ...] = ()
    resized_crop: tuple[float, float] | None = None
    widens: bool = False

    def at(self, epoch: int, epochs: int) -> Policy:
        """Return the policy of an epoch, from 0: with the smallest area that it has then.

        1 - sqrt(1 - t^2) of the way from the first smallest area to the largest, t = epoch / (epochs - 1), in
        utils/transforms.py of shijxcs/LIFT-plus@2e73e60.
        """
        if not self.widens or self.resized_crop is None:
            return self
        t = epoch / (epochs - 1) if epochs > 1 else 0.0
        low, high = self.resized_crop
        smallest = low + (1 - math.sqrt(1 - t * t)) * (high - low)
        return replace(self, resized_crop=(smallest, high), widens=False)

    def __call__(self, images: Tensor, draws: Draws, *, is_cut: bool = False) -> Tensor:
        """Augment uint8 images [B, 3, S, S].

        Args:
            images: May be overwritten.
            draws: Random numbers.
            is_cut: Whether the resized crop has happened already.
        """
        if self.resized_crop and not is_cut:
            images = random_resized_crop(images, draws, area=self.resized_crop)
        for operation in self.operations:
            images = operation(images, draws)
        return images


_JITTER = colour_jitter
_GREY_AND_BLUR: tuple[Operation, ...] = (random_grey, random_blur)
_ALL = (0.08, 1.0)

POLICIES: dict[str, Policy] = {
    "none": Policy(),
    "crop": Policy((random_crop,)),
    # CIFAR's standard: zero padding by an eighth, flip
    "crop-flip": Policy((random_crop, random_flip)),
    "reflect-crop-flip": Policy((partial(random_crop, mode="reflect"), random_flip)),
    # RIDE, SADE, BalPoE
    "crop-flip-rotate": Policy((random_crop, random_flip, random_rotation)),
    # balanced softmax and later on CIFAR: the CIFAR-10 policy, also for CIFAR-100
    "autoaugment-cutout": Policy((random_crop, random_flip, autoaugment, cutout)),
    "crop-flip-autoaugment": Policy((random_crop, random_flip, autoaugment)),
    "resized-crop-flip": Policy((random_flip,), _ALL),
    # LIFT+: strong crops first, nearly whole images at the end, and nothing else
    "minimal-crop": Policy((), _ALL, widens=True),
    # Decoupling on ImageNet-LT and Places-LT
    "resized-crop-flip-jitter": Policy((random_flip, _JITTER), _ALL),
    "autoaugment-imagenet": Policy(
        (random_flip, partial(autoaugment, policy=IMAGENET_POLICY)), _ALL
    ),
    # PaCo: second view on CIFAR, both views of the plain rows on ImageNet-LT
    "sim-cifar": Policy(
        (random_flip, partial(colour_jitter, hue=0.1, probability=0.8), *_GREY_AND_BLUR),
        (0.2, 1.0),
    ),
    # SADE and DO: the views of test-time learning on CIFAR
    "sade": Policy(
        (
            random_crop,
            partial(colour_jitter, hue=0.1, probability=0.8),
            random_grey,
            partial(random_blur, probability=0.2),
            random_flip,
        )
    ),
    "mirror": Policy((mirror,)),
    "sim": Policy((_JITTER, *_GREY_AND_BLUR, random_flip), _ALL),
    # BCL and ProCo: both views of the contrast, on images of any size
    "sim-without-blur": Policy(
        (random_flip, partial(colour_jitter, hue=0.1, probability=0.8), random_grey), _ALL
    ),
    "randaugment": Policy((random_flip, _JITTER, randaugment), _ALL),
    "stacked-randaugment": Policy((random_flip, _JITTER, *_GREY_AND_BLUR, randaugment), _ALL),
    "stacked-randaugment-3": Policy(
        (random_flip, _JITTER, *_GREY_AND_BLUR, partial(randaugment, number=3)), _ALL
    ),
    # m 12 is beyond the scale: nearly every magnitude is the largest, 10
    "stacked-randaugment-3-12": Policy(
        (random_flip, _JITTER, *_GREY_AND_BLUR, partial(randaugment, number=3, magnitude=12)), _ALL
    ),
    "crop-flip-randaugment": Policy((random_crop, random_flip, randaugment)),
    "crop-flip-randaugment-torchvision": Policy(
        (random_crop, random_flip, randaugment_torchvision)
    ),
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
            f"There is no augmentation policy {name!r}; choose from {', '.join(sorted(POLICIES))}."
        ) from None


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Return (images / 255 - mean) / std as float32 in channels_last, from uint8 [B, 3, H, W]."""
    width = images.shape[3]
    constants = 255 * np.array((mean, std), dtype=np.float32)  # [2, 3]
    shift, scale = send(np.tile(constants, (1, width)), images.device)
    pixels = images.contiguous(memory_format=torch.channels_last).float()
    # whole rows of an image at once: broadcasting over three channels is slow on a CPU
    pixels.permute(0, 2, 3, 1).flatten(2).sub_(shift).div_(scale)
    return pixels
