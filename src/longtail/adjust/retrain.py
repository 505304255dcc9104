"""Train a classifier again on features that were computed once (Kang et al., ICLR 2020).

The backbone never runs, where the published procedure runs it for every epoch. Images are drawn
class-balanced; SGD without Nesterov's form, the learning rate falls along a cosine once per epoch.

`longtail.methods.decoupling` has the same two as stages of a run. Here there is no run: the features may be
of any network, and nothing of the engine (checkpoints, precision, processes) is needed. A test holds the two
loops against each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from longtail.core.counts import ClassCounts
from longtail.core.errors import DataError
from longtail.core.precision import at_least_float32
from longtail.core.rng import torch_generator
from longtail.core.stage import Sampling
from longtail.data.sampling.samplers import EpochSampler

MOMENTUM = 0.9
LEARNING_RATE_OF_512 = 0.2
CLASS_BALANCED = Sampling(name="class-balanced")


def scaled_learning_rate(batch_size: int) -> float:
    """Return the published learning rate of stage 2, 0.2 at a batch of 512, scaled linearly."""
    return LEARNING_RATE_OF_512 * batch_size / 512


@dataclass(frozen=True, kw_only=True)
class Retraining:
    """How a classifier is trained on features.

    Attributes:
        epochs: Passes of floor(N / B) steps; 10 for cRT, 5 for LWS in the released code.
        batch_size: B; at most N is used.
        learning_rate: Peak; 0.2 B / 512 if not given.
        weight_decay: Of everything that is trained.
        sampling: How images are drawn.
        seed: Of the initial classifier and of the draws.
    """

    epochs: int = 10
    batch_size: int = 512
    learning_rate: float | None = None
    weight_decay: float = 5e-4
    sampling: Sampling = CLASS_BALANCED
    seed: int = 0


def retrain_classifier(
    features: Tensor, labels: Tensor, class_counts: ClassCounts, how: Retraining
) -> tuple[Tensor, Tensor]:
    """Train a new linear classifier (cRT) and return its weight [C, D] and bias [C].

    Both start at U(-1/sqrt D, 1/sqrt D).

    Args:
        features: Of the training images, float [N, D].
        labels: int64 [N].
        class_counts: Their histogram over the C classes.
        how: Epochs, batch and the like.

    Raises:
        DataError: If features, labels and counts do not fit each other.
    """
    _check(features, labels, class_counts)
    bound = features.shape[1] ** -0.5
    generator = torch_generator(how.seed, "classifier")
    drawn = torch.empty(len(class_counts), features.shape[1] + 1)
    drawn.uniform_(-bound, bound, generator=generator)
    drawn = drawn.to(at_least_float32(features[:1]))
    weight, bias = drawn[:, :-1].contiguous(), drawn[:, -1].contiguous()

    def loss(rows: Tensor) -> Tensor:
        logits = F.linear(at_least_float32(features.index_select(0, rows)), weight, bias)
        return F.cross_entropy(logits, labels[rows])

    _descend([weight, bias], loss, labels, class_counts, how)
    return weight.detach(), bias.detach()


def learn_scales(
    logits: Tensor, labels: Tensor, class_counts: ClassCounts, how: Retraining
) -> Tensor:
    """Train one factor per class of the logits (LWS) and return them, [C]; they start at one.

    Weight decay pulls the factors towards zero, as in the released code.

    Args:
        logits: Of the training images, bias included, float [N, C].
        labels: int64 [N].
        class_counts: Their histogram over the C classes.
        how: Epochs (5 in the released code), batch and the like.

    Raises:
        DataError: If logits, labels and counts do not fit each other.
    """
    _check(logits, labels, class_counts)
    if logits.shape[1] != len(class_counts):
        raise DataError(f"There are {logits.shape[1]} logits but {len(class_counts)} classes.")
    scales = torch.ones_like(at_least_float32(logits[0]))

    def loss(rows: Tensor) -> Tensor:
        return F.cross_entropy(scales * logits.index_select(0, rows), labels[rows])

    _descend([scales], loss, labels, class_counts, how)
    return scales.detach()


def _descend(
    parameters: list[Tensor],
    loss: Callable[[Tensor], Tensor],
    labels: Tensor,
    class_counts: ClassCounts,
    how: Retraining,
) -> None:
    """Minimise `loss(rows)` over the drawn rows, in place."""
    batch_size = min(how.batch_size, len(labels))
    peak = how.learning_rate
    if peak is None:
        peak = scaled_learning_rate(batch_size)
    sampler = EpochSampler(
        labels.cpu().numpy(), class_counts, how.sampling, batch_size=batch_size,
        epochs=how.epochs, seed=how.seed,
    )  # fmt: skip
    for parameter in parameters:
        parameter.requires_grad_()
    optimizer = torch.optim.SGD(
        parameters, lr=peak, momentum=MOMENTUM, weight_decay=how.weight_decay, foreach=True
    )
    for epoch in range(how.epochs):
        optimizer.param_groups[0]["lr"] = 0.5 * peak * (1 + math.cos(math.pi * epoch / how.epochs))
        for rows in torch.from_numpy(sampler.batches(epoch)).to(labels.device):
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss(rows))
            optimizer.step()


def _check(inputs: Tensor, labels: Tensor, class_counts: ClassCounts) -> None:
    if inputs.ndim != 2 or len(inputs) != len(labels):
        raise DataError(
            f"Features or logits must be [N, width] with N labels, but they have shape "
            f"{list(inputs.shape)} and there are {len(labels)} labels."
        )
    found = torch.bincount(labels.cpu(), minlength=len(class_counts)).tolist()
    if tuple(found) != class_counts.values:
        raise DataError("The labels do not match the class counts.")
