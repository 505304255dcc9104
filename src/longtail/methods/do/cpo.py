"""CPO, collaborative parameter optimisation: what stage t draws and which loss it trains with.

    t        Y_t      p_t of a class y                             alpha_t of a class y
    1        many     n_y / N (the data as they are)               1
    2..T-1   medium   rho in Y_t, 1 - rho elsewhere   (eq. 1)      rho in Y_t, 1 - rho elsewhere
    T        few      1 / n_y                                      R(pi)_y: frequencies in reverse order

    loss     CE(F(x) - log alpha_t, y)                (eq. 2, 3)

All weights of earlier stages take part, frozen. Readings of the text:
- p_t is a ratio of classes, then an image of the class is drawn evenly: as a weight of images, stage 1 would
  see 96 % many-shot images of CIFAR-100-LT. Table 8's uniform sampling is rho = 0.5.
- alpha_t is a vector over classes; as printed it is a number and changes nothing. See `losses.compensation`.
- R reverses by rank of the count: by class number it has no meaning where numbers are not sorted by count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from longtail.core.counts import ClassCounts
from longtail.core.groups import GROUP_NAMES, ShotGroups
from longtail.core.stage import Sampling
from longtail.data.sampling.samplers import group_preferred
from longtail.losses import compensated_cross_entropy, cross_entropy, preference, reversed_prior
from longtail.methods.do.options import DOOptions

UPPER_MEDIUM_ABOVE = 50  # images; where four stages divide the medium group


@dataclass(frozen=True)
class ClassGroup:
    """The classes that a stage prefers.

    Attributes:
        classes: Y_t, bool [C].
        shot: `many` is trained as the data are, `few` by the reversed frequencies.
    """

    classes: Tensor
    shot: Literal["many", "medium", "few"]


def class_groups(
    groups: ShotGroups, counts: ClassCounts, sequence: str
) -> tuple[dict[int, ClassGroup], tuple[str, ...]]:
    """Return Y_t by t = 1..T, of the groups that hold a class, and notes.

    Args:
        groups: Shot groups; by rank of the count if one of them is empty.
        counts: Training images per class.
        sequence: Option of DO.
    """
    notes: tuple[str, ...] = ()
    if empty := groups.empty_groups():
        groups = ShotGroups.from_counts(counts, "index")
        notes = (
            (
                f"DO: no class is {' or '.join(empty)} shot, so its stages group the classes by rank of "
                "the training count."
            ),
        )
    many, medium, few = (groups.mask(name) for name in GROUP_NAMES)
    upper = medium & (torch.tensor(counts.values) > UPPER_MEDIUM_ABOVE)
    masks = {
        "many-few": [many, few],
        "four": [many, upper, medium & ~upper, few],
    }.get(sequence, [many, medium, few])
    masks = [mask for mask in masks if bool(mask.any())]
    found = [ClassGroup(mask, "medium") for mask in masks]
    found[-1] = ClassGroup(masks[-1], "few")
    found[0] = ClassGroup(masks[0], "many")
    if sequence == "many-few-medium":
        found[1:] = found[:0:-1]
    return dict(enumerate(found, start=1)), notes


def sampling_of(group: ClassGroup, options: DOOptions) -> Sampling:
    """Return p_t (eq. 1)."""
    if group.shot == "many":
        return Sampling()
    if group.shot == "few":
        return Sampling(name=options.rare_sampling)
    weights = group_preferred(group.classes.cpu().numpy(), options.rho)
    return Sampling(name="weights", weights=tuple(weights.tolist()))


def alpha_of(group: ClassGroup, options: DOOptions, counts: ClassCounts) -> Tensor:
    """Return alpha_t (eq. 3), float64 [C]."""
    if group.shot == "many":
        return torch.ones(len(counts), dtype=torch.float64)
    if group.shot == "few":
        return reversed_prior(counts)
    return preference(group.classes, options.rho)


def stage_loss(
    logits: Tensor, labels: Tensor, t: int, log_alpha: Tensor, options: DOOptions
) -> Tensor:
    """Return the loss of stage t (eq. 2) for each image, [B].

    Args:
        logits: [B, C].
        labels: int64 [B].
        t: 1..T; stage 1 is plain cross-entropy.
        log_alpha: Of this stage, [C].
        options: Say how the text is read.
    """
    if t == 1:
        return cross_entropy(logits, labels, reduction="none")
    return compensated_cross_entropy(logits, labels, log_alpha, options.compensation)
