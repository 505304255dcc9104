"""Which class distribution logits assume after a training with these losses, weights and samplers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from longtail.adjust import distribution
from longtail.config import Options
from longtail.core.batch import Position
from longtail.core.counts import ClassCounts
from longtail.core.stage import Sampling
from longtail.data.sampling.samplers import class_probability
from longtail.losses import inverse_bias
from longtail.methods.ingredients.class_weights import ClassWeightOptions
from longtail.methods.ingredients.losses import (
    BalancedSoftmaxOptions,
    CrossEntropyOptions,
    InverseSoftmaxOptions,
    LADEOptions,
    LogitAdjustedOptions,
)
from longtail.methods.ingredients.mixing import MixingOptions, mixing_streams


def log_prior_left(loss: Options, counts: ClassCounts) -> Tensor | None:
    """Return what a loss leaves of the class prior in the logits, as a change of log pi, float64 [C].

    CE(z + b, y) fits z + b, so z carries -b. None for losses that are no likelihood of the labels (focal,
    margins, smoothing, noise): what their logits assume is not known.
    """
    log_prior = counts.log_prior(torch.float64)
    if isinstance(loss, CrossEntropyOptions) and loss.label_smoothing == 0:
        return torch.zeros_like(log_prior)
    if isinstance(loss, BalancedSoftmaxOptions | LADEOptions):  # LADE's term has the same minimum
        return -log_prior
    if isinstance(loss, LogitAdjustedOptions):
        return -loss.tau * log_prior
    if isinstance(loss, InverseSoftmaxOptions):
        return -inverse_bias(counts, loss.reversal)
    return None


def assumed(
    counts: ClassCounts,
    at: Position,
    *,
    losses: Sequence[Options] = (CrossEntropyOptions(),),
    sampling: Sampling | None = None,
    weighting: ClassWeightOptions | None = None,
    mixing: MixingOptions | None = None,
) -> Tensor | None:
    """Return the class distribution that logits assume after training, float64 [C], or None if unknown.

    Labels that are drawn with probability q_c and weigh w_c in CE(z + b, y) are fitted by logits that assume
    q w exp(-b), normalised; the mean of the logits of several losses assumes the geometric mean.

    Args:
        counts: Training images per class.
        at: Where training ended.
        losses: Of the heads whose logits are averaged.
        sampling: Of the stage, as it was in the last epoch; instance-balanced if not given.
        weighting: Class weights of the losses, counted where they have started.
        mixing: Of pairs. Partners of the same batch leave the shares of the classes as they are; others
            do not.
    """
    left = [log_prior_left(loss, counts) for loss in losses]
    known = [change for change in left if change is not None]
    if len(known) < len(left) or mixing_streams(mixing):
        return None
    drawn = class_probability(sampling or Sampling(), counts, at.epoch, at.epochs)
    log_shares = torch.from_numpy(drawn).log() + torch.stack(known).mean(dim=0)
    if weighting is not None and weighting.has_started(at):
        log_shares = log_shares + weighting.build(counts).double().log()
    return distribution(log_shares)
