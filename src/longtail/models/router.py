"""A router that asks for one more expert where it may help (RIDE: Wang et al., ICLR 2021, section 3.3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longtail.core.precision import at_least_float32, unit_rows

HIDDEN = 16  # width of what it makes of the features, as in the released code


class ExpertRouter(nn.Module):
    """Decides after each expert but the last whether the next one is asked, too.

    It sees the expert's features and the largest of the mean logits so far. The layer on the features is one
    per expert, the last layer is shared.

    Args:
        width: D of the features.
        experts: E, at least 2.
        top: How many of the largest logits are looked at.

    Attributes:
        trained: Whether it was trained, and so is asked; bool, scalar.
    """

    trained: Tensor

    def __init__(self, width: int, experts: int, top: int) -> None:
        super().__init__()
        self.top = top
        self.hidden = nn.ModuleList(nn.Linear(width, HIDDEN) for _ in range(experts - 1))
        self.last = nn.Linear(HIDDEN + top, 1)
        self.register_buffer("trained", torch.zeros((), dtype=torch.bool))

    def forward(self, features: Tensor, logits: Tensor, place: int) -> Tensor:
        """Return how much another expert is wanted after expert number `place`, [B]; above 0 it is asked.

        Args:
            features: Of that expert, [B, D].
            logits: Mean of the experts so far, [B, C].
            place: From 0 to E - 2.
        """
        seen = F.relu(self.hidden[place](unit_rows(features)))
        largest = at_least_float32(logits).topk(self.top, dim=1).values
        wanted: Tensor = self.last(torch.cat([largest, seen], dim=1))
        return wanted[:, 0]


def would_help(means: Tensor, labels: Tensor) -> Tensor:
    """Return where the mean so far is wrong and a later one is right, bool [B, E - 1].

    Args:
        means: Mean logits of the first 1, 2, ..., E experts, [B, E, C].
        labels: int64 [B].
    """
    right = means.argmax(dim=2) == labels[:, None]  # [B, E]
    later = right.flip(1).cummax(dim=1).values.flip(1)  # this one or a later one
    return ~right[:, :-1] & later[:, 1:]
