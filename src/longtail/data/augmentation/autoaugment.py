"""AutoAugment (Cubuk et al., CVPR 2019) and RandAugment (Cubuk et al., 2020) on batches.

AutoAugment: each image draws one of 25 sub-policies; each of its two operations happens with a
probability and has one of ten magnitudes. Where codes disagree: the long-tail codes use the authors'
implementation (outside is grey 128, rotation in one direction only, solarize from 256), torchvision
fills black and turns both ways. We follow the authors; their bicubic shear is nearest here, as in
torchvision.

RandAugment has two flavours under one name. `timm` (PaCo's spec): n of 15 operations with replacement,
each happening with probability 1/2, magnitude normal around m of 10. `torchvision`: n of 14
operations, always happening, at bin m of 31.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from longtail.data.augmentation import colour, geometry
from longtail.data.augmentation.draws import Draws, Numbers
from longtail.data.augmentation.operations import Strengthened, only

Slot = tuple[str, float, int]  # operation, probability, magnitude in 0..9
SubPolicy = tuple[Slot, Slot]
GREY = 128.0
IMAGENET_MEAN_LEVEL = 116.0  # of the three channels' means, timm's fill


def _table(text: str) -> tuple[SubPolicy, ...]:
    """Read `Invert .1 0 | Contrast .2 6` lines."""
    rows = []
    for line in text.strip().splitlines():
        first, second = (slot.split() for slot in line.split("|"))
        rows.append(
            (
                (first[0], float(first[1]), int(first[2])),
                (second[0], float(second[1]), int(second[2])),
            )
        )
    return tuple(rows)


CIFAR10_POLICY = _table("""
Invert .1 0 | Contrast .2 6
Rotate .7 2 | TranslateX .3 9
Sharpness .8 1 | Sharpness .9 3
ShearY .5 8 | TranslateY .7 9
AutoContrast .5 0 | Equalize .9 0
ShearY .2 7 | Posterize .3 7
Color .4 3 | Brightness .6 7
Sharpness .3 9 | Brightness .7 9
Equalize .6 0 | Equalize .5 0
Contrast .6 7 | Sharpness .6 5
Color .7 7 | TranslateX .5 8
Equalize .3 0 | AutoContrast .4 0
TranslateY .4 3 | Sharpness .2 6
Brightness .9 6 | Color .2 8
Solarize .5 2 | Invert 0 0
Equalize .2 0 | AutoContrast .6 0
Equalize .2 0 | Equalize .6 0
Color .9 9 | Equalize .6 0
AutoContrast .8 0 | Solarize .2 8
Brightness .1 3 | Color .7 0
Solarize .4 5 | AutoContrast .9 0
TranslateY .9 9 | TranslateY .7 9
AutoContrast .9 0 | Solarize .8 3
Equalize .8 0 | Invert .1 0
TranslateY .7 9 | AutoContrast .9 0
""")

IMAGENET_POLICY = _table("""
Posterize .4 8 | Rotate .6 9
Solarize .6 5 | AutoContrast .6 0
Equalize .8 0 | Equalize .6 0
Posterize .6 7 | Posterize .6 6
Equalize .4 0 | Solarize .2 4
Equalize .4 0 | Rotate .8 8
Solarize .6 3 | Equalize .6 0
Posterize .8 5 | Equalize 1 0
Rotate .2 3 | Solarize .6 8
Equalize .6 0 | Posterize .4 6
Rotate .8 8 | Color .4 0
Rotate .4 9 | Equalize .6 0
Equalize 0 0 | Equalize .8 0
Invert .6 0 | Equalize 1 0
Color .6 4 | Contrast 1 8
Rotate .8 8 | Color 1 2
Color .8 8 | Solarize .8 7
Sharpness .4 7 | Invert .6 0
ShearX .6 5 | Equalize 1 0
Color .4 0 | Equalize .6 0
Equalize .4 0 | Solarize .2 4
Solarize .6 5 | AutoContrast .6 0
Invert .6 0 | Equalize 1 0
Color .6 4 | Contrast 1 8
Equalize .8 0 | Equalize .6 0
""")

POSTERIZE_BITS = (8, 8, 7, 7, 6, 6, 5, 5, 4, 4)
# whose magnitude gets a random sign
SIGNED = frozenset(
    {"ShearX", "ShearY", "TranslateX", "TranslateY", "Color", "Contrast", "Brightness", "Sharpness"}
)


def _operations(fill: float) -> Mapping[str, Strengthened]:
    return {
        "ShearX": partial(geometry.shear_x, fill=fill),
        "ShearY": partial(geometry.shear_y, fill=fill),
        "TranslateX": partial(geometry.translate_x, fill=fill),
        "TranslateY": partial(geometry.translate_y, fill=fill),
        "Rotate": partial(geometry.rotate, fill=fill),
        "Color": colour.saturation,
        "Contrast": colour.contrast,
        "Brightness": colour.brightness,
        "Sharpness": colour.sharpness,
        "Posterize": colour.posterize,
        "Solarize": colour.solarize,
        "SolarizeAdd": colour.solarize_add,
        "AutoContrast": colour.autocontrast,
        "Equalize": colour.equalize,
        "Invert": colour.invert,
    }


def autoaugment_strength(name: str, magnitude: int, sign: Numbers, size: int) -> Numbers:
    """Return the parameter of an operation at `magnitude` (0..9) for images of `size` pixels.

    Args:
        name: Operation.
        magnitude: Bin of ten.
        sign: -1 or 1 per image, [B]; used by signed operations.
        size: Side in pixels.
    """
    share = magnitude / 9
    one = np.ones_like(sign)
    if name in ("ShearX", "ShearY"):
        return 0.3 * share * sign
    if name in ("TranslateX", "TranslateY"):
        return 150 / 331 * size * share * sign
    if name == "Rotate":
        # torchvision's angle counts counter-clockwise, the authors' as well
        return 30 * share * one
    if name in ("Color", "Contrast", "Brightness", "Sharpness"):
        return 1 + 0.9 * share * sign
    if name == "Posterize":
        return POSTERIZE_BITS[magnitude] * one
    if name == "Solarize":
        return 256 * (1 - share) * one
    return one


def autoaugment(
    images: Tensor, draws: Draws, *, policy: tuple[SubPolicy, ...] = CIFAR10_POLICY
) -> Tensor:
    """Apply one sub-policy to every image, grouped so that each operation runs once a slot."""
    chosen = draws.integers(len(policy))
    operations = _operations(GREY)
    for slot in range(2):
        luck, sign = draws.uniform(), draws.sign()
        strength, name = np.ones(draws.size), np.full(draws.size, "", dtype=object)
        for number, sub_policy in enumerate(policy):
            operation, probability, magnitude = sub_policy[slot]
            drawn = (chosen == number) & (luck < probability)
            name[drawn] = operation
            values = autoaugment_strength(operation, magnitude, sign, images.shape[-1])
            strength[drawn] = values[drawn]
        images = _by_name(images, name, strength, operations)
    return images


def randaugment(
    images: Tensor, draws: Draws, *, number: int = 2, magnitude: float = 10, deviation: float = 0.5
) -> Tensor:
    """Apply timm's RandAugment, `rand-n{number}-m{magnitude}-mstd{deviation}`."""
    operations = _operations(IMAGENET_MEAN_LEVEL)
    names = np.array(list(operations), dtype=object)
    for _ in range(number):
        name = names[draws.integers(len(names))]
        name[~draws.chance(0.5)] = ""
        level = np.clip(draws.normal(magnitude, deviation), 0, 10) / 10
        strength = _timm_strength(name, level, draws.sign(), images.shape[-1])
        images = _by_name(images, name, strength, operations)
    return images


def randaugment_torchvision(
    images: Tensor, draws: Draws, *, number: int = 2, magnitude: int = 9
) -> Tensor:
    """Apply torchvision's RandAugment at bin `magnitude` of 31; outside is black."""
    operations = dict(_operations(0.0))
    for absent in ("SolarizeAdd", "Invert"):
        del operations[absent]
    names = np.array([*operations, ""], dtype=object)  # the last does nothing
    share = magnitude / 30
    for _ in range(number):
        name, sign = names[draws.integers(len(names))], draws.sign()
        strength = np.ones(draws.size)
        rules: Mapping[str, Numbers] = {
            "ShearX": 0.3 * share * sign,
            "ShearY": 0.3 * share * sign,
            "TranslateX": 150 / 331 * images.shape[-1] * share * sign,
            "TranslateY": 150 / 331 * images.shape[-1] * share * sign,
            "Rotate": 30 * share * sign,
            "Posterize": np.full(draws.size, float(8 - round(magnitude / (30 / 4)))),
            "Solarize": np.full(draws.size, 255 * (1 - share)),
        }
        for operation in names:
            drawn = name == operation
            values = rules.get(operation, 1 + 0.9 * share * sign)
            strength[drawn] = values[drawn]
        images = _by_name(images, name, strength, operations)
    return images


def _timm_strength(name: NDArray[np.object_], level: Numbers, sign: Numbers, size: int) -> Numbers:
    """Return parameters for levels in 0..1: specification of PaCo, A2.4."""
    rules: Mapping[str, Callable[[], Numbers]] = {
        "ShearX": lambda: 0.3 * level * sign,
        "ShearY": lambda: 0.3 * level * sign,
        "TranslateX": lambda: 0.45 * level * sign * size,
        "TranslateY": lambda: 0.45 * level * sign * size,
        "Rotate": lambda: 30 * level * sign,
        "Posterize": lambda: np.floor(4 * level),
        "Solarize": lambda: np.floor(256 * level),
        "SolarizeAdd": lambda: np.floor(110 * level),
    }
    strength = 0.1 + 1.8 * level  # factor of colour, contrast, brightness, sharpness
    for operation, rule in rules.items():
        drawn = name == operation
        strength[drawn] = rule()[drawn]
    return strength


def _by_name(
    images: Tensor,
    name: NDArray[np.object_],
    strength: Numbers,
    operations: Mapping[str, Strengthened],
) -> Tensor:
    for operation in sorted(set(name.tolist()) - {""}):
        images = only(images, name == operation, operations[operation], strength)
    return images
