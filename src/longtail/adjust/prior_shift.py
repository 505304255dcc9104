"""Correct logits for another class distribution, known or estimated.

A classifier trained on class probabilities pi predicts as if they held for ever. Subtracting log pi
makes it balanced (post-hoc logit adjustment, Menon et al., ICLR 2021, arXiv 2007.07314, eq. 8); adding
the log of a known deployment prior makes it right for that one. An unknown deployment prior can be
estimated from unlabelled test images by expectation-maximisation (Saerens, Latinne and
Decaestecker, Neural Computation 2002): that uses the test inputs together and is transductive.

The algebra: logits that assume the class distribution A are z = log p(x | y) + log A + c(x). Adding d to
them gives logits that assume A exp(d), normalised; the mean of the logits of several models assumes the
geometric mean of their distributions, normalised.
"""

from __future__ import annotations

import torch
from torch import Tensor

from longtail.core.counts import ClassCounts
from longtail.core.errors import DataError
from longtail.core.precision import at_least_float32

SMALLEST = 1e-30  # share of a class that is ruled out
LOWEST = -690.0  # log of 1e-300, nearly the smallest float64 that keeps its digits


def logit_adjust(logits: Tensor, class_counts: ClassCounts, tau: float = 1.0) -> Tensor:
    """Return z - tau log pi, in at least float32.

    Never use it on a model that was trained with balanced softmax, class weights or a balanced
    sampler: that corrects twice.

    Args:
        logits: [B, C], of a model trained with plain cross-entropy.
        class_counts: Training images of the C classes.
        tau: 0 changes nothing, 1 is the balanced classifier.
    """
    _same_classes(logits, len(class_counts))
    z = at_least_float32(logits)
    return z - tau * class_counts.log_prior(z.dtype).to(z.device)


def shift_prior(logits: Tensor, trained: Tensor, deployed: Tensor) -> Tensor:
    """Return z + log(deployed / trained), right for the deployed class distribution, in at least float32.

    Args:
        logits: [B, C].
        trained: Prior that the logits assume, [C], positive: the training prior, or 1 / C for a model that
            training or adjustment has balanced.
        deployed: Prior to be right for, [C]; zeros rule a class out.

    Raises:
        DataError: If a prior is no distribution over the C classes, or the trained one holds a zero.
    """
    for name, prior in (("trained", trained), ("deployed", deployed)):
        _same_classes(logits, len(prior))
        if (prior < 0).any() or not torch.isclose(prior.sum(), prior.new_ones(()), atol=1e-4):
            raise DataError(f"The {name} prior must be at least 0 and sum to 1.")
    if (trained == 0).any():
        raise DataError(
            "The trained prior must be above 0 for every class: a class that the model never saw has no "
            "logit that could be shifted."
        )
    z = at_least_float32(logits)
    return z + (deployed.to(z) / trained.to(z)).log()


def deployment_shift(assumed: Tensor, deployed: Tensor) -> Tensor:
    """Return what to add to the logits of a model for another class distribution, float64 [C].

    Shifts compose: from A to B and then from B to C is from A to C, but for rounding.

    Args:
        assumed: Class distribution that the logits assume, [C]; positive.
        deployed: Class distribution in use, [C]; any positive factor is divided out. See `in_use`.

    Raises:
        DataError: If the two have other numbers of classes, or `deployed` is no distribution.
    """
    if len(deployed) != len(assumed):
        raise DataError(f"The prior has {len(deployed)} entries for {len(assumed)} classes.")
    assumed = assumed.double()
    return shift_prior(torch.zeros_like(assumed)[None], assumed, in_use(deployed))[0]


def in_use(deployed: Tensor) -> Tensor:
    """Return the distribution that `deployment_shift` leads to, float64 [C]: no share is quite 0.

    Infinities of classes that are ruled out would break averages downstream.

    Raises:
        DataError: If a share is negative, infinite or NaN, or all of them are 0.
    """
    shares = deployed.double()
    if not (shares.isfinite() & (shares >= 0)).all() or not (shares > 0).any():
        raise DataError(
            "The deployed prior must hold a share of at least 0 for every class, not all of them 0, but got "
            f"{[round(share, 6) for share in shares.tolist()[:20]]}."
        )
    wanted = shares.clamp_min(SMALLEST)
    return wanted / wanted.sum()


def distribution(log_shares: Tensor) -> Tensor | None:
    """Return the class distribution with these logarithms, up to a constant, float64 [C].

    None if a class has a share below 1e-300: no number holds it, so the distribution counts as unknown.
    """
    log_share = log_shares.double().log_softmax(dim=0)
    return log_share.exp() if bool((log_share > LOWEST).all()) else None


def estimate_prior(
    logits: Tensor, trained: Tensor, *, iterations: int = 1000, tolerance: float = 1e-8
) -> Tensor:
    """Estimate the class distribution of unlabelled images, [C]. Transductive.

    Repeats: shift the predictions to the current prior, average them, take that as the prior.

    Args:
        logits: Of all images, [N, C]. They should be calibrated.
        trained: Prior that the logits assume, [C].
        iterations: At most this many.
        tolerance: Stops when no class moves by more.
    """
    _same_classes(logits, len(trained))
    probability = logits.double().softmax(dim=1)
    assumed = trained.double().to(logits.device)
    prior = assumed
    for _ in range(iterations):
        shifted = probability * (prior / assumed)
        updated = (shifted / shifted.sum(dim=1, keepdim=True)).mean(dim=0)
        moved = (updated - prior).abs().max()
        prior = updated
        if moved < tolerance:
            break
    return prior.to(trained.dtype)


def _same_classes(logits: Tensor, num_classes: int) -> None:
    if logits.shape[-1] != num_classes:
        raise DataError(f"The logits have {logits.shape[-1]} classes, the prior has {num_classes}.")
