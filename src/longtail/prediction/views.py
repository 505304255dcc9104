"""Several parts of a test image, whose logits are averaged (LIFT: test-time ensembling).

The image is enlarged by 24 of 224 pixels; the parts are its four corners and its centre, and for `ten-crop`
their mirror images too. Each part is as large as the image was: five parts cost five times as much.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from longtail.methods.method import Method

Crops = Literal["five-crop", "ten-crop"]
CROPS: tuple[str, ...] = get_args(Crops)
EXPAND = 24 / 224  # of LIFT: 248 pixels for parts of 224
TIMES = {"five-crop": 5, "ten-crop": 10}


def crop_views(images: Tensor, crops: Crops, side: int | None = None) -> list[Tensor]:
    """Return parts of images, each [B, 3, side, side]: corners from the upper left on, the centre, mirrored.

    Args:
        images: [B, 3, S, S].
        crops: Which.
        side: Of a part, in pixels; S if not given. A network that enlarges its images itself (`enlarge_to`)
            takes parts of that side, so that they are resized once.
    """
    side = side or images.shape[-1]
    large = side + round(side * EXPAND)
    whole = F.interpolate(images, (large, large), mode="bilinear", align_corners=False)
    far, middle = large - side, round((large - side) / 2)
    places = [(0, 0), (0, far), (far, 0), (far, far), (middle, middle)]
    wholes = [whole] if crops == "five-crop" else [whole, whole.flip(3)]
    return [one[:, :, y : y + side, x : x + side] for one in wholes for y, x in places]


class MeanOfCrops(Method):
    """A trained method that predicts the mean of the logits of several parts of an image.

    Args:
        method: In eval mode.
        crops: Which parts.
    """

    def __init__(self, method: Method, crops: Crops) -> None:
        super().__init__()
        self.method, self.crops = method, crops
        sides = [getattr(module, "enlarge_to", None) for module in method.modules()]
        self.side: int | None = max((side for side in sides if side is not None), default=None)

    def predict(self, images: Tensor) -> Tensor:
        """Return the mean logits [B, C]."""
        parts = crop_views(images, self.crops, self.side)
        return torch.stack([self.method.predict(part) for part in parts]).mean(dim=0)
