"""What methods cost that are compared, and how a budget is divided among them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from longtail.core.batch import Position
from longtail.core.words import counted
from longtail.data.data_set import DataSet
from longtail.engine import trial
from longtail.engine.optimisation import prepare_stage
from longtail.engine.pace import duration, estimate
from longtail.engine.step import StepFunction
from longtail.engine.streams import build_loaders
from longtail.recipes import RunConfig
from longtail.recipes.compared import Named, bases
from longtail.recipes.own_images import FROZEN
from longtail.runs.model import build

Equal = Literal["images", "time"]
SPARE = 1.25  # val after every epoch, checkpoints and test, as a share of the steps


def seconds_per_epoch(
    config: RunConfig,
    data: DataSet,
    device: torch.device,
    most: float = math.inf,
    note: Callable[[str], None] = lambda text: None,
) -> float:
    """Measure steps of the first stage of a method; 0 where an epoch is too short to tell.

    Args:
        config: Of the method.
        data: All splits.
        device: Where to train.
        most: Seconds of an epoch above which it need not be known better.
        note: Told how far it is, where features are computed first.
    """
    counts, side = data.manifest.class_counts(), data.images.size
    method = build(config, config.model, counts, side).to(device)
    stage = method.stages()[0]
    if stage.kind != "train":
        return 0.0
    prepare_stage(method, stage, config.training.seed, 0)
    train_set = data.split("train")
    loaders = build_loaders(
        train_set,
        config.training,
        0,
        stage,
        method,
        device,
        note,
        kept=stage.features is not None,
    )
    at = Position(config.training.seed, 0, 0, 0, stage.epochs)
    step = StepFunction(method, config.training, device)
    most /= loaders[0].steps
    found = trial.seconds_per_step(method, stage, loaders, step, config.training, at, most)
    return 0.0 if found is None else found * loaders[0].steps


@dataclass
class Cost:
    """Epochs of all stages of a method as `fixed + slope * training.epochs`, and seconds of one."""

    fixed: float
    slope: float
    later: float  # epochs of all stages but the first, at the number of epochs of the base
    least: int  # epochs of all stages, at one epoch
    count: Callable[[int], int]
    seconds: float = 0.0

    @classmethod
    def of(cls, config: RunConfig, data: DataSet) -> Cost:
        """Return what a configuration makes of a number of epochs; seconds are not measured yet."""
        counts, side = data.manifest.class_counts(), data.images.size

        def stages(epochs: int) -> list[int]:
            training = config.training.model_copy(update={"epochs": epochs})
            own = config.model_copy(update={"training": training})
            method = build(own, own.model.untrained(), counts, side)
            return [stage.epochs for stage in method.stages() if stage.kind == "train"]

        many = max(2, config.training.epochs)
        few = max(1, many // 2)
        one, other = sum(stages(few)), stages(many)
        slope = (sum(other) - one) / (many - few)
        fixed, later, least = sum(other) - slope * many, sum(other[1:]), sum(stages(1))
        return cls(fixed, slope, later, least, lambda e: sum(stages(e)))

    def trained(self, limit: float, *, shared: bool) -> float:
        """Return the epochs that are trained of so many, without a first stage that is `shared`."""
        return min(limit, self.later) if shared else limit

    def most(self, limit: float) -> int:
        """Return the most `training.epochs` that need at most so many epochs of all stages, or 0."""
        if self.slope <= 0:
            return 1 if self.least <= limit else 0
        found = math.floor((limit - self.fixed) / self.slope + 1e-9)
        while found > 0 and self.count(found) > limit:  # stages round
            found -= 1
        return max(0, found)


def measure_costs(
    costs: Mapping[str, Cost],
    first: Mapping[str, str],
    seconds: float,
    equal: Equal,
    measure: Callable[[str, float], float],
) -> None:
    """Measure each method, until it is clear that a seed of all takes longer: the others cost as much.

    Args:
        costs: What is measured is written there.
        first: Method -> the one whose first stage it takes.
        seconds: That one seed of all methods may take.
        equal: What is the same for all methods.
        measure: Returns seconds of an epoch of a method; given those above which it need not know better.
    """
    left, names, need = seconds, list(costs), max(cost.least for cost in costs.values())
    for place, name in enumerate(names):
        cost = costs[name]
        epochs = cost.trained(need, shared=name in first)
        if equal == "time":
            left, epochs = seconds / len(costs), float(cost.least)
        cost.seconds = measure(name, left / epochs if epochs else math.inf)
        if cost.seconds * epochs > left:
            known = [costs[other].seconds for other in names[: place + 1]]
            for other in names[place + 1 :]:
                costs[other].seconds = sum(known) / len(known)
            return
        left -= cost.seconds * epochs


def limits_of(
    costs: Mapping[str, Cost],
    first: Mapping[str, str],
    seconds: float,
    seeds: int,
    equal: Equal,
    most: int,
) -> dict[str, float]:
    """Return how many epochs of all stages each method may take."""
    if equal == "time":
        each = seconds / seeds / len(costs)
        return {
            n: min(float(most), each / c.seconds) if c.seconds else float(most)
            for n, c in costs.items()
        }
    limit = most
    while limit > 1 and seeds * _seconds(costs, first, limit) > seconds:
        limit -= 1
    if seeds * _seconds(costs, first, limit) > seconds:
        limit = 0
    return dict.fromkeys(costs, float(limit))


def _seconds(costs: Mapping[str, Cost], first: Mapping[str, str], limit: float) -> float:
    """Estimate one seed of all methods with so many epochs each, shared first stages counted once."""
    return sum(
        cost.seconds * cost.trained(limit, shared=name in first) for name, cost in costs.items()
    )


def epochs_within(
    costs: Mapping[str, Cost], families: Sequence[Sequence[str]], limits: Mapping[str, float]
) -> dict[str, int]:
    """Return `training.epochs` of each method: the most that fits, the same where a first stage is shared."""
    found: dict[str, int] = {}
    for family in families:
        same = min(costs[name].most(limits[name]) for name in family)
        found |= dict.fromkeys(family, same)
    return {name: found[name] for name in costs}


def too_few_epochs(costs: Mapping[str, Cost], most: int) -> str:
    """Say which method takes more epochs than a training has; empty if none does."""
    longest = max(costs, key=lambda name: costs[name].least)
    need = costs[longest].least
    if need <= most:
        return ""
    return (
        f"{longest} takes at least {counted(need, 'epoch', 'epochs')} in all stages, and a training has "
        f"{most}. Leave it out, or allow more: epochs={2 * need}."
    )


def least_seconds(costs: Mapping[str, Cost], first: Mapping[str, str], equal: Equal) -> float:
    """Return the least seconds that one seed of all methods takes, and a tenth more."""
    if equal == "time":
        return 1.1 * len(costs) * max(cost.seconds * cost.least for cost in costs.values())
    return 1.1 * _seconds(costs, first, max(cost.least for cost in costs.values()))


def too_little(
    short: Sequence[str], costs: Mapping[str, Cost], least: float, seeds: int, seconds: float
) -> str:
    """Say what the smallest budget would be.

    Args:
        short: Methods that it is not enough for.
        costs: Measured.
        least: Seconds of one seed of all methods.
        seeds: Runs of each method.
        seconds: The budget.
    """
    longest = max(costs, key=lambda name: costs[name].least)
    need = costs[longest].least
    return (
        f"--budget: {duration(seconds)} is not enough for {', '.join(short)}: "
        f"{counted(len(costs), 'method', 'methods')} with {counted(seeds, 'seed', 'seeds')} need "
        f"{estimate(math.ceil(seeds * least))} for {counted(need, 'epoch', 'epochs')} each, the least that "
        f"{longest} can take."
    )


def what_helps(
    source: str,
    methods: Sequence[Named],
    overrides: Sequence[str],
    wish: str | None,
    costs: Mapping[str, Cost],
    least: float,
    seeds: int,
    seconds: float,
) -> str:
    """Say what makes a comparison fit that takes longer than its budget.

    Args:
        source: As for `compare`, like `methods`, `overrides` and `seeds`.
        wish: Base that the user asked for.
        costs: Measured.
        least: Seconds of one seed of all methods.
        seconds: The budget.
    """
    said = [f"Allow more, or compare fewer methods{' or seeds' if seeds > 1 else ''}."]
    if seeds > 1 and least <= seconds:
        said.append(f"With --seeds 1 it is {estimate(least)}.")
    light = [method for method in methods if method.works_on_features]
    frozen = (
        len(light) > 1
        and bases(source, light, overrides, None)[0] == FROZEN
        and bases(source, methods, overrides, wish)[0] != FROZEN
    )
    # every image goes through the network once and not back, a third of what training on it once takes
    if frozen and max(cost.seconds for cost in costs.values()) / 3 <= seconds:
        others = [method.name for method in methods if not method.works_on_features]
        how = f"Without {', '.join(others)}" if others else "With --base frozen-features"
        how += " and --base" if others and wish is not None else ""
        said.append(
            f"{how}, only classifiers on frozen features are trained, which is much faster."
        )
    if len(said) == 1:
        said.append("Smaller images (image_size=N, enlarge_to=N) or a GPU make every step faster.")
    return " ".join(said)
