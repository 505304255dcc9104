"""Correct logits for another class distribution, known or estimated.

A classifier trained on class probabilities pi answers as if they held for ever. Subtracting log pi
makes it balanced (post-hoc logit adjustment, Menon et al., ICLR 2021, arXiv 2007.07314, eq. 8); adding
the log of a known deployment prior makes it right for that one. An unknown deployment prior can be
estimated from unlabelled test pictures by expectation-maximisation (Saerens, Latinne and
Decaestecker, Neural Computation 2002): that uses the test inputs together and is transductive.
"""

from __future__ import annotations

import torch
from torch import Tensor

from longtail.core.counts import ClassCounts
from longtail.core.errors import DataError

SMALLEST = 1e-30  # share of a class that is ruled out


def logit_adjust(logits: Tensor, class_counts: ClassCounts, tau: float = 1.0) -> Tensor:
    """Return z - tau log pi.

    Never use it on a model that was trained with balanced softmax, class weights or a balanced
    sampler: that corrects twice.

    Args:
        logits: [B, C], of a model trained with plain cross-entropy.
        class_counts: Training pictures of the C classes.
        tau: 0 changes nothing, 1 is the balanced classifier.
    """
    _same_classes(logits, len(class_counts))
    return logits - tau * class_counts.log_prior(logits.dtype).to(logits.device)


def shift_prior(logits: Tensor, trained: Tensor, deployed: Tensor) -> Tensor:
    """Return z + log(deployed / trained), right for the deployed class distribution.

    Args:
        logits: [B, C].
        trained: Prior that the logits assume, [C]: the training prior, or 1 / C for a model that
            training or adjustment has balanced.
        deployed: Prior to be right for, [C]; zeros rule a class out.

    Raises:
        DataError: If a prior is no distribution over the C classes.
    """
    for name, prior in (("trained", trained), ("deployed", deployed)):
        _same_classes(logits, len(prior))
        if (prior < 0).any() or not torch.isclose(prior.sum(), prior.new_ones(()), atol=1e-4):
            raise DataError(f"The {name} prior must be at least 0 and sum to 1.")
    return logits + (deployed.to(logits) / trained.to(logits)).log()


def deployment_shift(class_counts: ClassCounts, deployed: Tensor, *, balanced: bool) -> Tensor:
    """Return what to add to the logits of a model for another class distribution, [C].

    Args:
        class_counts: Training pictures of the C classes.
        deployed: Class distribution in use, [C]; any positive factor is divided out.
        balanced: Whether training or adjustment has corrected for the class counts, so that the model
            answers as if all classes were alike.

    Raises:
        DataError: If the distribution has another number of classes.
    """
    if len(deployed) != len(class_counts):
        raise DataError(f"The prior has {len(deployed)} entries for {len(class_counts)} classes.")
    assumed = assumed_prior(class_counts, balanced=balanced)
    # infinities of classes that are ruled out would break averages downstream
    wanted = deployed.double().clamp_min(SMALLEST)
    return shift_prior(torch.zeros(1, len(assumed)), assumed, wanted / wanted.sum())[0]


def assumed_prior(class_counts: ClassCounts, *, balanced: bool) -> Tensor:
    """Return the class distribution that a model assumes, float64 [C]: alike if it is balanced."""
    prior = class_counts.prior(torch.float64)
    return torch.full_like(prior, 1 / len(prior)) if balanced else prior


def estimate_prior(
    logits: Tensor, trained: Tensor, *, iterations: int = 1000, tolerance: float = 1e-8
) -> Tensor:
    """Estimate the class distribution of unlabelled pictures, [C]. Transductive.

    Repeats: shift the predictions to the current prior, average them, take that as the prior.

    Args:
        logits: Of all pictures, [N, C]. They should be calibrated.
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
