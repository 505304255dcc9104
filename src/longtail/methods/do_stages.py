"""What the stages of DO prefer, how they sample, with which margins, and how much they release."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from longtail.core.counts import ClassCounts
from longtail.core.errors import ConfigError
from longtail.core.groups import GROUP_NAMES, ShotGroups
from longtail.core.stage import Sampling
from longtail.data.samplers import group_preferred
from longtail.losses import preference, reversed_prior
from longtail.methods.do_options import DOOptions
from longtail.models.allotment import NORMALISATION

SEARCHED = 0.9  # the search releases 0, 10, ..., 90 %
TOLERANCE = 0.015  # accuracy that the rule `tolerance` of the search may give away
TOP_MEDIUM_ABOVE = 50  # pictures; where four stages divide the medium group

Part = Literal["train", "measure", "release", "choose", "statistics", "settle"]


def parts_of(count: int, options: DOOptions) -> list[tuple[int, Part]]:
    """Return group 0..T-1 and part of each stage of the training, in order.

    Args:
        count: T.
        options: Say which parts there are.
    """
    if options.networks == "separate":
        return [(t, "train") for t in range(count)]
    there: dict[Part, bool] = {
        "train": True,
        "measure": options.importance_refresh != "step",
        "release": True,
        "choose": options.release == "search",
        "statistics": options.recalibrate,
        "settle": True,
    }
    parts = [part for part, wanted in there.items() if wanted]
    releasing: list[tuple[int, Part]] = [(t, part) for t in range(count - 1) for part in parts]
    return [*releasing, (count - 1, "train"), (count - 1, "settle")]


@dataclass(frozen=True)
class Preferred:
    """What a stage prefers.

    Attributes:
        classes: Y_t, bool [C].
        kind: `first` is trained as the data are, `rare` by the reversed frequencies.
    """

    classes: Tensor
    kind: Literal["first", "middle", "rare"]


def preferred_groups(
    groups: ShotGroups, counts: ClassCounts, sequence: str
) -> tuple[list[Preferred], tuple[str, ...]]:
    """Return the groups of the stages that hold a class, in order, and remarks.

    Args:
        groups: Shot groups; by rank of the count if one of them is empty.
        counts: Training pictures per class.
        sequence: Option of DO.
    """
    remarks: tuple[str, ...] = ()
    if empty := groups.empty_groups():
        groups = ShotGroups.from_counts(counts, "index")
        remarks = (
            f"DO: no class is {' or '.join(empty)} shot, so its stages go by rank of the training count.",
        )
    many, medium, few = (groups.mask(name) for name in GROUP_NAMES)
    upper = medium & (torch.tensor(counts.values) > TOP_MEDIUM_ABOVE)
    by_frequency = {
        "many-few": [many, few],
        "four": [many, upper, medium & ~upper, few],
    }.get(sequence, [many, medium, few])
    by_frequency = [mask for mask in by_frequency if bool(mask.any())]
    kinds: list[Literal["first", "middle", "rare"]] = ["middle"] * len(by_frequency)
    kinds[-1] = "rare"
    kinds[0] = "first"
    found = [Preferred(mask, kind) for mask, kind in zip(by_frequency, kinds, strict=True)]
    if sequence == "many-few-medium":
        found[1:] = found[:0:-1]
    return found, remarks


def sampling_of(group: Preferred, options: DOOptions, counts: ClassCounts) -> Sampling:
    """Return p_t."""
    reading = options.sampling
    if group.kind == "first" or (group.kind == "middle" and reading == "natural"):
        return Sampling()
    if group.kind == "rare":
        return Sampling(name=options.rare_sampling)
    if reading == "uniform" or reading == "natural":
        return Sampling(name="weights", weights=(1.0,) * len(counts))
    weights = group_preferred(group.classes.cpu().numpy(), options.rho, counts, reading)
    return Sampling(name="weights", weights=tuple(weights.tolist()))


def retraining_of(sampling: Sampling, group: Preferred, options: DOOptions) -> Sampling:
    """Return what retrains the weights that a release leaves: `sampling` of its stage, or classes alike."""
    if options.retraining == "uniform" and group.kind != "first":
        return Sampling(name="weights", weights=(1.0,) * len(group.classes))
    return sampling


def compensation_of(group: Preferred, options: DOOptions, counts: ClassCounts) -> Tensor:
    """Return a_t, float64 [C]."""
    if group.kind == "first":
        return torch.ones(len(counts), dtype=torch.float64)
    if group.kind == "rare":
        by_number = counts.prior(torch.float64).flip(0)
        return reversed_prior(counts) if options.reverse == "rank" else by_number
    others = 1.0 if options.compensation == "vector-one" else None
    return preference(group.classes, options.rho, others=others)


def share_to_release(t: int, options: DOOptions) -> float:
    """Return the share of the weights of stage t, from 0, that is released after it."""
    if options.release == "search":
        return SEARCHED
    gamma = options.release[t]
    if options.release_of == "free":
        return gamma
    free = 1.0
    for earlier in range(t):
        free *= share_to_release(earlier, options)
    return max(0.0, 1 - (1 - gamma) / free)


def release_schedule(step: int, steps: int, final: float, per_tenth: int = 10) -> float:
    """Return the share of a stage's weights that is released after `step` (from 0) of `steps`.

    Eq. 4, tenth by tenth: gamma_j + (gamma_i - gamma_j) (1 - k / D)^3, k = 1..D, D = `per_tenth`, from 0 to
    `final`. With other than D steps for every tenth, steps stand still or take several of its steps at once;
    the last reaches `final` exactly.
    """
    tenths, taken = _steps_taken(step, steps, final, per_tenth)
    whole, part = divmod(taken, per_tenth)
    reached = whole + (1 - (1 - part / per_tenth) ** 3)
    return final * reached / tenths


def begins_tenth(step: int, steps: int, final: float, per_tenth: int = 10) -> bool:
    """Say whether the first release towards another tenth of the schedule is made at `step`."""
    if step == 0:
        return True
    before, now = (_steps_taken(s, steps, final, per_tenth)[1] for s in (step - 1, step))
    return (now - 1) // per_tenth > (before - 1) // per_tenth


def _steps_taken(step: int, steps: int, final: float, per_tenth: int) -> tuple[int, int]:
    """Return the tenths of a release and how many of its D steps for each are taken after `step`."""
    tenths = max(1, round(final / 0.1))
    return tenths, min(tenths * per_tenth, -(-(step + 1) * tenths * per_tenth // steps))


def choose_level(curve: Sequence[float], rule: str) -> int:
    """Return the place of the chosen share in a curve of accuracies at 0, 10, ... % released.

    "Highest variation" of the paper is `at-drop`: where the largest fall between neighbours ends, or
    `before-drop`, where it begins. `tolerance` is the largest share that costs at most 1.5 points.
    """
    if rule == "tolerance":
        return max(i for i, value in enumerate(curve) if value >= curve[0] - TOLERANCE)
    falls = [before - after for before, after in pairwise(curve)]
    steepest = falls.index(max(falls))
    return steepest if rule == "before-drop" else steepest + 1


def trained_in(t: int, network: nn.Module, options: DOOptions) -> tuple[str, ...]:
    """Name what stage t trains of the live network."""
    place = "allotment.network"
    if t == 0 or (options.norm != "frozen" and options.classifier != "frozen"):
        return (place,)
    frozen = tuple(
        f"{name}." for name, module in network.named_modules()
        if (options.norm == "frozen" and isinstance(module, NORMALISATION))
        or (options.classifier == "frozen" and name == "1")
    )  # fmt: skip
    names = (name for name, _ in network.named_parameters())
    return tuple(f"{place}.{name}" for name in names if not name.startswith(frozen))


def check_statistics(network: nn.Module) -> None:
    """Refuse a network without normalisation that follows the batches.

    Raises:
        ConfigError: If it has none.
    """
    if not any(name.endswith("running_mean") for name, _ in network.named_buffers()):
        raise ConfigError(
            "recalibrate takes the statistics of batch normalisation anew, and this network has none; "
            "leave it out."
        )
