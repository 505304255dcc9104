"""Combinations of sub-models that can be kept as one model: functions of their logits for one image.

They may see the image and its mirror image, and weights that were fitted before. What needs all test images
together, random views or a search by descent is no such function; `why_not_kept` says so.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from longtail.core.errors import ConfigError, ProtocolError
from longtail.core.groups import ShotGroups
from longtail.core.precision import at_least_float32
from longtail.ensembles.stacking import Stacking, fit_stacking
from longtail.ensembles.weights import Objective, instance_weights, weighted_sum

AVERAGE, WEIGHTED, STACKING = "average", "weighted average", "stacking"
UNBIASED, UNBIASED_VIEWS = "average without known bias", "the same over views"
OF_MIRROR = (
    "average over views",
    UNBIASED_VIEWS,
    *(
        f"instance, {o} of {what}"
        for o in ("cosine", "dot")
        for what in ("probabilities", "logits")
    ),
)
FITTED = (WEIGHTED, STACKING)
KEPT = (AVERAGE, "average of logits", UNBIASED, WEIGHTED, STACKING, *OF_MIRROR)
PASSES = 500  # of the fixed-point iteration; it gains in each
SMALLEST = 1e-30  # a weight or probability whose logarithm is finite


class Combination(nn.Module):
    """A combination of T sub-models for C classes.

    Args:
        name: One of `KEPT`.
        count: T.
        classes: C.

    Attributes:
        weights: Of the sub-models, [T]; equal unless they were fitted.
        bias: What training put into the logits of each sub-model, [T, C]; zeros unless it is taken away.
        by_class: Weights of a stacking, [T, C].
        offsets: Offsets of a stacking, [C].
    """

    weights: Tensor
    bias: Tensor
    by_class: Tensor
    offsets: Tensor

    def __init__(self, name: str, count: int, classes: int) -> None:
        super().__init__()
        if name not in KEPT:
            raise ConfigError(why_not_kept(name))
        self.name = name
        self.register_buffer("weights", torch.full((count,), 1 / count))
        self.register_buffer("bias", torch.zeros(count, classes))
        self.register_buffer("by_class", torch.full((count, classes), 1 / count))
        self.register_buffer("offsets", torch.zeros(classes))

    @property
    def needs_mirror(self) -> bool:
        """Whether it also sees the mirror image."""
        return self.name in OF_MIRROR

    @property
    def keeps_prior(self) -> bool:
        """Whether sub-models that assume one class distribution make a combination that assumes it, too."""
        return self.name not in (STACKING, UNBIASED, UNBIASED_VIEWS)

    def forward(self, clean: Tensor, mirror: Tensor) -> Tensor:
        """Return logits [B, C]; their softmax is the probability where probabilities are averaged.

        Args:
            clean: Logits of the sub-models, [B, T, C].
            mirror: For the mirror image, likewise; not looked at unless `needs_mirror`.
        """
        clean, mirror = at_least_float32(clean), at_least_float32(mirror)
        if self.name == STACKING:
            return Stacking(self.by_class, self.offsets)(clean)
        if self.name == "average of logits":
            return clean.mean(dim=1)
        if self.name.startswith("instance"):
            return self._per_image(clean, mirror)
        views = [clean, mirror] if self.needs_mirror else [clean]
        log_weights = (self.weights / len(views)).clamp_min(SMALLEST).log()[:, None]
        each = [(view - self.bias).log_softmax(dim=2) + log_weights for view in views]
        return torch.cat(each, dim=1).logsumexp(dim=1)

    def _per_image(self, clean: Tensor, mirror: Tensor) -> Tensor:
        """Weigh the sub-models of each image by what the image and its mirror image say."""
        objective = cast("Objective", self.name.removeprefix("instance, ").split()[0])
        if self.name.endswith("of logits"):
            return weighted_sum(clean, instance_weights(clean, mirror, objective=objective))
        first, second = clean.softmax(dim=2), mirror.softmax(dim=2)
        weights = instance_weights(first, second, objective=objective)
        return weighted_sum(first, weights).clamp_min(SMALLEST).log()


def why_not_kept(name: str) -> str:
    """Say why a combination cannot be written as a model."""
    if name.startswith("group"):
        why = "its weights come from all test images together"
    elif name.startswith("oracle"):
        why = "it uses the test labels"
    elif name.startswith("instance"):
        why = "it searches the weights of each image step by step, which no exported model can do"
    else:
        return f"There is no combination {name!r}. These can be written: {'; '.join(KEPT)}."
    return f"The combination {name!r} cannot be written as a model: {why}. Choose another with --combination."


def make_combination(
    name: str,
    shape: tuple[int, int],
    *,
    groups: ShotGroups,
    bias: Tensor | None = None,
    held_out: tuple[Tensor, Tensor] | None = None,
) -> Combination:
    """Return a combination, fitted where it has something to fit.

    Args:
        name: One of `KEPT`.
        shape: T and C.
        groups: Of the classes, for a stacking.
        bias: Known bias of the sub-models, [T, C].
        held_out: Logits [N, T, C] and labels [N] of images that no sub-model was trained on.

    Raises:
        ConfigError: If it cannot be kept, or the bias that it takes away is not known.
        ProtocolError: If there are no held-out images to fit it on.
    """
    made = Combination(name, *shape)
    if name in (UNBIASED, UNBIASED_VIEWS):
        if bias is None:
            raise ConfigError(
                f"The combination {name!r} removes a known bias from the logits, but for these sub-models "
                "no bias is known that differs."
            )
        made.bias.copy_(bias)
    if name in FITTED:
        if held_out is None:
            raise ProtocolError(
                f"The combination {name!r} is fitted on a val split, and there is none "
                "besides the scored one."
            )
        if name == WEIGHTED:
            made.weights.copy_(fit_average(*held_out))
        else:
            fitted = fit_stacking(*held_out, groups)
            made.by_class.copy_(fitted.weights)
            made.offsets.copy_(fitted.offsets)
    return made


def fit_average(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the weights of an average of probabilities that is most likely on held-out images, [T].

    The likelihood, in which every class counts alike, is concave in the weights; each pass of the EM
    algorithm for mixture weights raises it.

    Args:
        logits: Of the sub-models, float [N, T, C].
        labels: int64 [N].
    """
    found = at_least_float32(logits).softmax(dim=2)[torch.arange(len(labels)), :, labels].double()
    each = F.one_hot(labels, logits.shape[2]).double()
    share = (1 / each.sum(dim=0).clamp_min(1))[labels]
    share /= share.sum()
    weights = torch.full((logits.shape[1],), 1 / logits.shape[1]).to(found)
    for _ in range(PASSES):
        part = found * weights
        weights = (share[:, None] * part / part.sum(dim=1, keepdim=True).clamp_min(SMALLEST)).sum(
            dim=0
        )
        weights = weights / weights.sum()
    return weights.float()
