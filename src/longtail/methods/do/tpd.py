"""TPD: after CPO, decide by Taylor importance which weights stage t keeps, and release the others.

    E_w      = mean over y in Y_t of (w g_w^y)^2        importance; g^y: gradient of the mean loss of class y
    gamma_k  = gamma_j + (gamma_i - gamma_j) (1 - k / D)^3        from one tenth to the next, k = 1..D (eq. 4)

For each tenth of the way to gamma_t: E anew, from every training image of Y_t; then D times: release the
least important weights until the share gamma_k is released, and retrain once what is left. So gamma_t = 0.5
takes 50 iterations and 0.8 takes 80, with D = 10. Kept weights are frozen for ever; released ones are drawn
anew and belong to stage t + 1.

Readings of the text:
- g is the gradient of cross-entropy on images without augmentation, with normalisation in evaluation mode.
- All weights of the stage are ranked together, and gamma_t is a share of them (only these can be released).
- While it releases, a stage trains with its own sampler and loss, at the learning rate of stages 2..T: that
  of stage 1 has ended at 0.
- "Highest variation": the share at which the largest fall of accuracy is seen; see `choose_share`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from longtail.core.errors import ConfigError
from longtail.core.stage import Sampling
from longtail.methods.do.options import DOOptions
from longtail.models.allotment import Allotment, flatten
from longtail.models.importance import class_gradients, score

SEARCHED = 0.9  # the search releases 0, 10, ..., 90 %
TOLERANCE = 0.015  # accuracy that the rule `tolerance` may give away


def importance(
    allotment: Allotment,
    t: int,
    classes: Tensor,
    batches: Iterable[tuple[Tensor, Tensor]],
    options: DOOptions,
) -> Tensor:
    """Return E of all allotted weights in their order, float32 [P].

    Args:
        allotment: In eval mode; its live weights are measured, as stage t sees them.
        t: 1..T.
        classes: Y_t, bool [C].
        batches: Images [B, 3, H, W] and labels [B], class by class.
        options: Say by which criterion.

    Raises:
        ConfigError: If no image is of these classes.
    """
    live = {name: w.detach() for name, w in allotment.live_weights(t).items()}
    if options.importance == "magnitude":
        return flatten({name: weight.abs() for name, weight in live.items()})
    if options.importance == "random":
        return torch.cat([torch.rand_like(weight).flatten() for weight in live.values()])
    total, measured = torch.zeros_like(flatten(live)), 0
    for _, gradients in class_gradients(live, allotment.logits_with, _of(classes, batches)):
        total += flatten(
            {name: score(w, gradients[name], options.importance) for name, w in live.items()}
        )
        measured += 1
    if not measured:
        raise ConfigError("No training image belongs to the classes that this stage of DO prefers.")
    return total / measured


def gamma_of(t: int, options: DOOptions) -> float:
    """Return gamma_t, the share of the weights of stage t = 1..T-1 that is released; its end in a search."""
    return SEARCHED if options.release == "search" else options.release[t - 1]


def tenths_of(gamma: float) -> int:
    """Return how many times the importance is measured on the way to gamma."""
    return max(1, round(gamma / 0.1))


def gamma_after(tenth: int, k: int, gamma: float, steps: int) -> float:
    """Return the share that is released after iteration k of one tenth (eq. 4).

    Args:
        tenth: 1..`tenths_of(gamma)`.
        k: 1..steps.
        gamma: Where the last tenth ends.
        steps: Delta t, iterations of a tenth.
    """
    begin, end = (gamma * n / tenths_of(gamma) for n in (tenth - 1, tenth))
    return end + (begin - end) * float((1 - k / steps) ** 3)


def retraining_of(sampling: Sampling, t: int, classes: int, options: DOOptions) -> Sampling:
    """Return what stage t draws while it releases: `sampling`, its own, or classes alike."""
    if options.retraining == "uniform" and t > 1:
        return Sampling(name="weights", weights=(1.0,) * classes)
    return sampling


def choose_share(curve: Sequence[float], rule: str) -> int:
    """Return the place of gamma in a curve of accuracies at 0, 10, ... % released.

    Args:
        curve: At least two values.
        rule: `highest-variation`: where the largest fall between neighbours ends (in the paper a marked drop
            is seen at the value that it sets); `before-variation`: where that fall begins; `tolerance`: the
            largest share that costs at most 1.5 points.
    """
    if rule == "tolerance":
        return max(i for i, value in enumerate(curve) if value >= curve[0] - TOLERANCE)
    falls = [before - after for before, after in pairwise(curve)]
    steepest = falls.index(max(falls))
    return steepest if rule == "before-variation" else steepest + 1


def _of(
    classes: Tensor, batches: Iterable[tuple[Tensor, Tensor]]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the images of some classes."""
    for images, labels in batches:
        own = classes.to(labels.device)[labels]
        if bool(own.any()):
            yield images[own], labels[own]
