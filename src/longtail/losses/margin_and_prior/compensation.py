"""Compensation loss of DO (AAAI 2024, eq. 2 and 3), in every reading of its text.

    L = CE(z - log a_t, y)

The paper writes a_1 = 1, a_2 = rho (one number), a_3 = R(pi)[y], R the reverse order. A number subtracted
from all logits changes nothing, so the text must be read otherwise:

    vector       a_t has one entry per class, mirrored from the sampling: rho on the preferred group and
                 1 - rho elsewhere in stage 2; the frequencies given in reverse order in stage 3. Preferred
                 classes get a margin (default: it has the paper's signatures)
    target       log a_t(y) is subtracted from the logit of the label only: a bonus, not a margin
    scalar       as written: equal to cross-entropy
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from longtail.core.counts import ClassCounts
from longtail.losses.softmax.adjusted_softmax import adjusted_cross_entropy

Reading = Literal["vector", "target", "scalar"]


def compensated_cross_entropy(
    logits: Tensor, labels: Tensor, log_alpha: Tensor, reading: Reading = "vector"
) -> Tensor:
    """Return the loss of each image, [B].

    Args:
        logits: [B, C].
        labels: int64 [B].
        log_alpha: log a_t, [C]; see `reversed_prior` and `preference`.
        reading: How the text is read.
    """
    if reading == "scalar":
        return adjusted_cross_entropy(logits, labels)
    if reading == "target":
        return adjusted_cross_entropy(logits, labels, margin=log_alpha)
    return adjusted_cross_entropy(logits, labels, bias=-log_alpha)


def reversed_prior(counts: ClassCounts) -> Tensor:
    """Return R(pi), float64 [C]: the class of rank r gets the frequency of rank C + 1 - r.

    By rank of the count, never by class number; twice applied it is pi (without ties).
    """
    prior = counts.prior(torch.float64)
    ranking = list(counts.ranking())
    reverse = torch.empty_like(prior)
    reverse[ranking] = prior[ranking[::-1]]
    return reverse


def preference(preferred: Tensor, rho: float) -> Tensor:
    """Return rho on the preferred classes and 1 - rho elsewhere, float64 [C].

    Args:
        preferred: bool [C].
        rho: In (0, 1); at 0.5 nothing is preferred.
    """
    return torch.where(preferred, rho, 1 - rho).double()
