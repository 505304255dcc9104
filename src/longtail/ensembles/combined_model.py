"""Several trained models as one method that predicts; it is not trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from longtail.core.errors import ConfigError
from longtail.core.names import visible
from longtail.ensembles.combination import Combination
from longtail.methods.method import Method

PLAIN = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)  # mean and deviation that leave pixels in 0..1 as they are


@dataclass(frozen=True)
class Member:
    """A trained model.

    Attributes:
        method: In eval mode.
        classes: Names of its logits, C.
        mean: Of the pixels in 0..1, by channel.
        std: Likewise.
    """

    method: Method
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Combined(Method):
    """Predicts what a combination makes of the sub-models of several models.

    It takes images in 0..1, because each member has its own normalisation.

    Args:
        members: The models.
        combination: For all their sub-models, T.
        classes: Names of the logits, C; those of the members in any order.

    Raises:
        ConfigError: If a member has other classes.
    """

    order: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self, members: Sequence[Member], combination: Combination, classes: tuple[str, ...]
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList([member.method for member in members])
        self.combination = combination
        order = torch.stack([order_of(member.classes, classes) for member in members])
        self.register_buffer("order", order)
        self.register_buffer("mean", _channels([member.mean for member in members]))
        self.register_buffer("std", _channels([member.std for member in members]))

    def sub_model_logits(self, images: Tensor) -> Tensor:
        """Return the logits of all sub-models, [B, T, C], for images in 0..1."""
        found = []
        for place, member in enumerate(self.members):
            assert isinstance(member, Method)
            own = member.sub_model_logits((images - self.mean[place]) / self.std[place])
            found.append(own.index_select(2, self.order[place]))
        return torch.cat(found, dim=1)

    def predict(self, images: Tensor) -> Tensor:
        """Map images in 0..1, [B, 3, H, W], to logits [B, C]."""
        clean = self.sub_model_logits(images)
        mirror = self.sub_model_logits(images.flip(3)) if self.combination.needs_mirror else clean
        scores: Tensor = self.combination(clean, mirror)
        return scores


def order_of(own: Sequence[str], wanted: Sequence[str]) -> Tensor:
    """Return where each wanted class is among a model's own, int64 [C].

    Raises:
        ConfigError: If they are other classes.
    """
    if set(own) != set(wanted):
        odd = ", ".join(visible(name) for name in sorted(set(own) ^ set(wanted))[:5])
        raise ConfigError(
            f"An ensemble needs models with the same classes; only one of these has: {odd}."
        )
    place = {name: number for number, name in enumerate(own)}
    return torch.tensor([place[name] for name in wanted])


def _channels(values: Sequence[tuple[float, ...]]) -> Tensor:
    return torch.tensor(values)[:, :, None, None]
