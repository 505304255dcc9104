"""A router that was tried and not kept: weights of sub-models for each image, from what they predict.

    l(x) = softmax(W f(x) + b)         p = sum_t l_t(x) softmax(s_t z_t) exp(o_g(c))

f(x) holds, of each sub-model, the logarithm of the probability that it gives to each shot group, its largest
probability and its entropy; and how far each pair agrees. Fitted like `longtail.ensembles.fit_stacking`: on
held-out images, every class alike. `mixtures.py` scores it beside the stacking.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from longtail.core import ShotGroups

DECAY = 0.1  # chosen on left-out images
STEPS = 300


def features(logits: Tensor, group_of: Tensor) -> Tensor:
    """Return f(x), [N, F], of logits [N, T, C]."""
    log_p = logits.log_softmax(dim=2)
    p = log_p.exp()
    mass = torch.stack([p[..., group_of == g].sum(dim=2) for g in group_of.unique()], dim=2)
    entropy = -(p * log_p).sum(dim=2)
    first, second = torch.triu_indices(p.shape[1], p.shape[1], offset=1)
    agreement = (p[:, first] * p[:, second]).sum(dim=2)
    parts = [mass.clamp_min(1e-4).log().flatten(1), p.amax(dim=2), entropy, agreement]
    return torch.cat(parts, dim=1)


def fit_router(logits: Tensor, labels: Tensor, groups: ShotGroups) -> Callable[[Tensor], Tensor]:
    """Return a function from logits [N, T, C] to scores [N, C], fitted on held-out images."""
    group_of = torch.tensor(groups.assignment)
    known = features(logits, group_of)
    mean, deviation = known.mean(dim=0), known.std(dim=0) + 1e-6
    count = logits.shape[1]
    routing = torch.zeros(known.shape[1], count, requires_grad=True)
    preference, sharpness = (torch.zeros(count, requires_grad=True) for _ in range(2))
    offsets = torch.zeros(int(group_of.max()) + 1, requires_grad=True)
    free = [routing, preference, sharpness, offsets]
    seen = torch.bincount(labels, minlength=len(group_of)).float()
    each = (1 / seen.clamp_min(1))[labels]

    def scores(z: Tensor) -> Tensor:
        f = (features(z, group_of) - mean) / deviation
        weights = (f @ routing + preference).log_softmax(dim=1)
        log_p = (z * sharpness.exp()[:, None]).log_softmax(dim=2)
        return (log_p + weights[:, :, None]).logsumexp(dim=1) + offsets[group_of]

    optimizer = torch.optim.LBFGS(free, max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        losses = F.cross_entropy(scores(logits), labels, reduction="none")
        pull = sum(value.square().sum() for value in free)
        value = (losses * each).sum() / each.sum() + DECAY * pull
        value.backward()
        return value

    optimizer.step(loss)
    return lambda z: scores(z).detach()
