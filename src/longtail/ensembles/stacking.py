"""Combine sub-models by a few weights that are fitted on held-out images. Ours.

    s_c = sum_t w_t,g(c) log p_t(c | x) + b_g(c)        g(c) is the shot group of class c

A weight per sub-model and group, an offset per group: so few numbers because held-out images of rare
classes are few. Every class counts alike. It costs what averaging costs, and sees neither test labels nor
other test images.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from longtail.core.groups import GROUP_NAMES, ShotGroups
from longtail.core.precision import at_least_float32

STEPS = 200  # of L-BFGS at most
DECAY = 1e-3  # pull to the average


@dataclass(frozen=True)
class Stacking:
    """Weights of sub-models.

    Attributes:
        weights: Of each sub-model for each class, [T, C]; equal in a group.
        offsets: Of each class, [C].
    """

    weights: Tensor
    offsets: Tensor

    def __call__(self, logits: Tensor) -> Tensor:
        """Return scores [N, C] from the logits of the sub-models, [N, T, C]."""
        log_p = at_least_float32(logits).log_softmax(dim=2)
        return (log_p * self.weights).sum(dim=1) + self.offsets

    def by_group(self, groups: ShotGroups) -> dict[str, dict[str, object]]:
        """Return the weights and the offset of each group that has a class."""
        found: dict[str, dict[str, object]] = {}
        for name in GROUP_NAMES:
            mask = groups.mask(name)
            if bool(mask.any()):  # all classes of a group are alike
                weights, offset = self.weights[:, mask][:, 0], self.offsets[mask][0]
                found[name] = {"weights": weights.tolist(), "offset": float(offset)}
        return found

    @classmethod
    def average(cls, count: int, classes: int) -> Stacking:
        """Return the stacking that averages `count` sub-models: what a fit begins with."""
        return cls(torch.full((count, classes), 1 / count), torch.zeros(classes))


def fit_stacking(logits: Tensor, labels: Tensor, groups: ShotGroups) -> Stacking:
    """Fit a stacking on images that no sub-model was trained on.

    Args:
        logits: Of the sub-models, float [N, T, C].
        labels: int64 [N].
        groups: Of the classes.
    """
    logits = at_least_float32(logits)
    masks = [groups.mask(name) for name in GROUP_NAMES if bool(groups.mask(name).any())]
    member = torch.stack(masks).to(logits)  # [G, C]
    count = logits.shape[1]
    weights = torch.full((count, len(member)), 1 / count).to(logits).requires_grad_()
    offsets = torch.zeros(len(member)).to(logits).requires_grad_()
    seen = torch.bincount(labels, minlength=member.shape[1]).to(logits)
    each = (1 / seen.clamp_min(1))[labels]
    optimizer = torch.optim.LBFGS([weights, offsets], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        scores = Stacking(weights @ member, offsets @ member)(logits)
        losses = F.cross_entropy(scores, labels, reduction="none")
        pull = (weights - 1 / count).square().sum() + offsets.square().sum()
        value = (losses * each).sum() / each.sum() + DECAY * pull
        torch.autograd.backward(value)
        return value

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    return Stacking((weights @ member).detach(), (offsets @ member).detach())
