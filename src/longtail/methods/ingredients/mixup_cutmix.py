"""Pair mixing in the two-label form, which works with every loss on hard labels.

mixup   (Zhang et al., ICLR 2018, arXiv 1710.09412): x' = lam x + (1 - lam) x[perm].
cutmix  (Yun et al., ICCV 2019, arXiv 1905.04899): a box of x[perm] replaces that of x; lam is the
        share of x that is left, computed again from the clipped box.
Loss: lam L(z, y) + (1 - lam) L(z, y[perm]). For cross-entropy this equals the soft-label form; for
margins and focal factors, which depend on a hard label, only this form is defined.
CMO     (Park et al., CVPR 2022, arXiv 2112.00412): cutmix whose partners come from a second stream of
        images that draws all classes equally often, so that rare objects lie on frequent backgrounds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from longtail.core.to_device import send

Images = tuple[Tensor, Tensor]  # [B, 3, H, W] and labels int64 [B]
Box = tuple[int, int, int, int]  # top, bottom, left, right


@dataclass(frozen=True)
class Mixed:
    """A mixed batch.

    Attributes:
        images: [B, 3, H, W].
        labels: int64 [B], of the first image of each pair.
        partners: int64 [B], of the second.
        share: lam, the weight of `labels`, scalar in [0, 1].
    """

    images: Tensor
    labels: Tensor
    partners: Tensor
    share: Tensor

    def loss(self, label_loss: Callable[[Tensor], Tensor]) -> Tensor:
        """Return lam L(labels) + (1 - lam) L(partners)."""
        own, other = label_loss(self.labels), label_loss(self.partners)
        return self.share * own + (1 - self.share) * other


def mixup(
    images: Tensor,
    labels: Tensor,
    alpha: float,
    generator: np.random.Generator,
    partners: Images | None = None,
) -> Mixed:
    """Mix images [B, 3, H, W] with share lam ~ Beta(alpha, alpha), one for the batch.

    The draw is made on the host and costs no synchronisation with a GPU.

    Args:
        images: The first of each pair.
        labels: int64 [B].
        alpha: Above 0.
        generator: Of the draws.
        partners: The second of each pair with their labels; the same images in another order if not
            given.
    """
    share = float(generator.beta(alpha, alpha))
    others, other_labels = partners or (images, labels)
    order = _order(images, partners, generator)
    mixed = share * images + (1 - share) * others[order]
    return Mixed(mixed, labels, other_labels[order], torch.tensor(share))


def cutmix(
    images: Tensor,
    labels: Tensor,
    alpha: float,
    generator: np.random.Generator,
    partners: Images | None = None,
) -> Mixed:
    """Replace a box of every image [B, 3, H, W] by that of another, lam ~ Beta(alpha, alpha).

    The box has sqrt(1 - lam) of the height and of the width, its centre is uniform, and what lies
    outside is cut off. Arguments as of `mixup`.
    """
    left = 1 - float(generator.beta(alpha, alpha))
    box = drawn_box(images, left, generator)
    others, other_labels = partners or (images, labels)
    order = _order(images, partners, generator)
    mixed, share = with_box(images, others, box, order)
    return Mixed(mixed, labels, other_labels[order], torch.tensor(share))


def drawn_box(images: Tensor, area: float, generator: np.random.Generator) -> Box:
    """Draw where a box lies in images [B, 3, H, W], one for the batch.

    Args:
        images: For their height and width.
        area: Share of an image before what lies outside is cut off, in [0, 1].
        generator: Of the centre.
    """
    height, width = images.shape[-2:]
    side = area**0.5
    return (*_span(height, side, generator), *_span(width, side, generator))


def with_box(
    images: Tensor, others: Tensor, box: Box, rows: Tensor | slice = slice(None)
) -> tuple[Tensor, float]:
    """Return images [B, 3, H, W] with the box of `others[rows]` in them, and the share of `images` left."""
    top, bottom, left, right = box
    height, width = images.shape[-2:]
    mixed = images.clone()  # never paste from a view of the tensor that is written
    mixed[:, :, top:bottom, left:right] = others[rows, :, top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)


def _order(
    images: Tensor, partners: Images | None, generator: np.random.Generator
) -> Tensor | slice:
    """Return the rows of the partners: of another stream as they come, of the same images shuffled."""
    if partners is not None:
        return slice(None)
    return send(generator.permutation(len(images)), images.device)


def _span(size: int, side: float, generator: np.random.Generator) -> tuple[int, int]:
    centre = int(generator.integers(size))
    half = int(size * side) // 2
    return max(0, centre - half), min(size, centre + half)
