"""A queue of labelled features in buffers: it is saved, restored and moved with its method."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longtail.core.counts import ClassCounts

Start = Literal["published", "unit-rows", "empty"]


class LabelledQueue(nn.Module):
    """The last K features with their labels; the oldest are overwritten.

    Until it is full, it holds what `start` says:
        published   normal numbers with unit *columns*, so rows are short, and random labels: fake
                    positives for the first K / B steps (a known oversight of the released code)
        unit-rows   random directions and random labels
        empty       label -1, which losses leave out

    Args:
        size: K.
        width: d.
        counts: Classes; random labels are drawn by rank, so that class order carries no meaning.
        start: See above.
    """

    features: Tensor
    labels: Tensor
    place: Tensor

    def __init__(self, size: int, width: int, counts: ClassCounts, start: Start) -> None:
        super().__init__()
        drawn = torch.randn(size, width)
        features = F.normalize(drawn, dim=0 if start == "published" else 1)
        labels = torch.tensor(counts.ranking())[torch.randint(len(counts), (size,))]
        if start == "empty":
            features, labels = torch.zeros_like(features), torch.full_like(labels, -1)
        self.register_buffer("features", features)  # [K, d]
        self.register_buffer("labels", labels)  # int64 [K]
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))

    def __len__(self) -> int:
        return len(self.labels)

    @torch.no_grad()
    def append(self, features: Tensor, labels: Tensor) -> None:
        """Put features [B, d] and labels [B] in the place of the oldest; of more than K, the last."""
        features, labels = features[-len(self) :], labels[-len(self) :]
        steps = torch.arange(len(labels), device=self.labels.device)
        rows = (self.place + steps) % len(self)
        self.features[rows] = features.to(self.features.dtype)
        self.labels[rows] = labels
        self.place.copy_((self.place + len(labels)) % len(self))
