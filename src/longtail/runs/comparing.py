"""The plan of a comparison of methods: what they share, and how many epochs each of them gets.

Equal budgets are equal sums of epochs over all stages (images seen), or equal times as measured on the first
steps of each method. Methods that share a first stage get the same epochs for it, so that it is trained once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch

from longtail.core.batch import Position
from longtail.core.errors import ConfigError, DataError
from longtail.core.words import counted
from longtail.data import Progress, open_data
from longtail.data.data_set import DataSet
from longtail.engine import trial
from longtail.engine.hardware import find_device
from longtail.engine.optimisation import prepare_stage
from longtail.engine.pace import duration, estimate
from longtail.engine.step import StepFunction
from longtail.engine.streams import build_loaders
from longtail.recipes import RunConfig
from longtail.recipes.compared import Named, bases, on_base, shares_first_stage
from longtail.recipes.own_images import FROM_NOTHING, FROZEN, OWN_IMAGES
from longtail.recipes.settling import settle
from longtail.runs.model import build

Equal = Literal["images", "time"]
SPARE = 1.25  # val after every epoch, checkpoints and test, as a share of the steps
FILE = "comparison.json"


@dataclass(frozen=True)
class Plan:
    """What is trained for a comparison; kept in its folder, so that a repeated command goes on with it.

    Attributes:
        base: The recipe that all methods take network and training from.
        reasons: Sentences on what was chosen, for people.
        epochs: Method -> `training.epochs`.
        first: Method -> the one whose first stage it takes, of the same seed.
        configs: Method -> its configuration with seed 0, as JSON.
    """

    base: str
    reasons: tuple[str, ...]
    epochs: Mapping[str, int]
    first: Mapping[str, str]
    configs: Mapping[str, Mapping[str, Any]]

    def config(self, name: str) -> RunConfig:
        """Return the configuration of a method."""
        return RunConfig.model_validate(self.configs[name])


def plan_comparison(
    source: str,
    methods: Sequence[Named],
    overrides: Sequence[str] = (),
    *,
    seeds: int = 3,
    seconds: float | None = None,
    equal: Equal = "images",
    base: str | None = None,
    device: str | None = None,
    note: Callable[[str], None] = lambda text: None,
    progress: Progress = lambda done, size: None,
) -> Plan:
    """Choose the network and the training that all methods share, measure steps, and divide the budget.

    Args:
        source: A folder or table of images, or a recipe.
        methods: To compare.
        overrides: `key=value` for all methods.
        seeds: Runs of each method.
        seconds: That all trainings together may take; as long as the base says if not given.
        equal: What is the same for all methods.
        base: The recipe for own images that the user prefers.
        device: As for `train`.
        note: Told what takes long.
        progress: Called while image files are checked.

    Raises:
        ConfigError: If the methods share no network, or the budget is too small for one epoch of each.
        DataError: If there is no val split.
    """
    place = find_device(device)
    if equal == "time" and seconds is None:
        raise ConfigError("--equal time divides a time, so say which: --budget 2h.")
    chosen, configs, data, reasons = _configurations(
        source, methods, overrides, base, place, progress
    )
    training = next(iter(configs.values())).training
    costs = {name: _Cost.of(config, data) for name, config in configs.items()}
    first = _first_stages(configs)
    families = [
        [name, *(n for n, f in first.items() if f == name)] for name in configs if name not in first
    ]
    if seconds is None:
        epochs = _epochs(costs, families, dict.fromkeys(costs, float(training.epochs)))
    else:
        for name, config in configs.items():
            note(f"measuring steps of {name}")
            costs[name].seconds = SPARE * seconds_per_epoch(config, data, place)
        limits = _limits(costs, first, seconds, seeds, equal, training.epochs)
        epochs = _epochs(costs, families, limits)
    short = [name for name, number in epochs.items() if number < 1]
    if short:
        raise ConfigError(_too_little(short, costs, first, seeds, seconds, training.epochs, equal))
    ready = {
        name: config.model_copy(
            update={"training": config.training.model_copy(update={"epochs": epochs[name]})}
        ).model_dump(mode="json")
        for name, config in configs.items()
    }
    return Plan(chosen, reasons, epochs, first, ready)


def seconds_per_epoch(config: RunConfig, data: DataSet, device: torch.device) -> float:
    """Measure steps of the first stage of a method; 0 where an epoch is too short to tell."""
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
        lambda text: None,
        kept=stage.features is not None,
    )
    at = Position(config.training.seed, 0, 0, 0, stage.epochs)
    step = StepFunction(method, config.training, device)
    found = trial.seconds_per_step(method, stage, loaders, step, config.training, at)
    return 0.0 if found is None else found * loaders[0].steps


@dataclass
class _Cost:
    """Epochs of all stages of a method as `fixed + slope * training.epochs`, and seconds of one."""

    fixed: float
    slope: float
    later: float  # epochs of all stages but the first, at the number of epochs of the base
    count: Callable[[int], int]
    seconds: float = 0.0

    @classmethod
    def of(cls, config: RunConfig, data: DataSet) -> _Cost:
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
        return cls(sum(other) - slope * many, slope, sum(other[1:]), lambda e: sum(stages(e)))

    def most(self, limit: float) -> int:
        """Return the most `training.epochs` that need at most so many epochs of all stages, or 0."""
        if self.slope <= 0:
            return 1 if self.count(1) <= limit else 0
        found = math.floor((limit - self.fixed) / self.slope + 1e-9)
        while found > 0 and self.count(found) > limit:  # stages round
            found -= 1
        return max(0, found)


def _configurations(
    source: str,
    methods: Sequence[Named],
    overrides: Sequence[str],
    wish: str | None,
    device: torch.device,
    progress: Progress,
) -> tuple[str, dict[str, RunConfig], DataSet, tuple[str, ...]]:
    """Return the first base that all methods can be built on, with their configurations on it, settled."""
    possible = bases(source, methods, overrides, wish)
    first = on_base(source, possible[0], methods[0], overrides)
    data = open_data(first.data, workers=first.training.workers, progress=progress)
    if not data.manifest.has("val"):
        raise DataError(
            f"{source} has no val split, and methods are compared by val, never by test. Make a folder val "
            "beside train and test, or hold images out of train: data.validation_per_class=5."
        )
    refused = ""
    while possible:
        base = possible.pop(0)
        configs = {m.name: on_base(source, base, m, overrides) for m in methods}
        settled, reasons = settle(next(iter(configs.values())), data, device)
        if base != FROM_NOTHING and FROM_NOTHING in possible and not settled.model.begins_trained:
            possible = [FROM_NOTHING]  # the images are grey and many
            continue
        ready, why = {}, ""
        for method in methods:
            config = configs[method.name]
            kept = {"epochs": settled.training.epochs, "batch_size": settled.training.batch_size}
            update: dict[str, Any] = {
                "model": settled.model.resolved(data.images.size),
                "training": config.training.model_copy(update={**kept, "images_seen": None}),
            }
            config = config.model_copy(update=update)
            try:
                build(
                    config, config.model.untrained(), data.manifest.class_counts(), data.images.size
                )
            except ConfigError as error:
                why = f"{method.name} cannot be trained on {base}: {error}"
                break
            ready[method.name] = config
        if not why:
            kind = (
                data
                if (norm := settled.model.normalisation()) is None
                else data.normalised_by(*norm)
            )
            skipped = [data.describe_skipped()] if data.skipped else []
            return base, ready, kind, (*_why_this(base, methods, refused), *reasons, *skipped)
        refused = why
    raise ConfigError(
        f"{refused} Leave the method out, or name a network that all methods can use."
    )


def _why_this(base: str, methods: Sequence[Named], refused: str) -> tuple[str, ...]:
    if base not in OWN_IMAGES:
        return (f"all methods share the data, the network and the training of {base}.",)
    what = f"all methods share the network and the training of {base}"
    if refused:
        without = " Without it, the methods would share a pretrained network, which is usually much better."
        return (f"{what}, because {refused}{without * (base == FROM_NOTHING)}",)
    if base == FROZEN:
        return (f"{what}: classifiers on frozen features.",)
    trains = [method.name for method in methods if not method.works_on_features]
    if trains and base != FROM_NOTHING:
        return (
            f"{what}, because {', '.join(trains)} must train the whole network. Without "
            f"{'it' if len(trains) == 1 else 'them'}, classifiers on frozen features are compared, which is "
            "much faster.",
        )
    return (f"{what}.",)


def _first_stages(configs: Mapping[str, RunConfig]) -> dict[str, str]:
    """Return method -> an earlier one that trains the first stage that it needs."""
    found: dict[str, str] = {}
    for place, name in enumerate(configs):
        for other in list(configs)[:place]:
            if other not in found and shares_first_stage(configs[name], configs[other]):
                found[name] = other
                break
    return found


def _limits(
    costs: Mapping[str, _Cost],
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


def _seconds(costs: Mapping[str, _Cost], first: Mapping[str, str], limit: float) -> float:
    """Estimate one seed of all methods with so many epochs each, shared first stages counted once."""
    return sum(
        cost.seconds * (min(limit, cost.later) if name in first else limit)
        for name, cost in costs.items()
    )


def _epochs(
    costs: Mapping[str, _Cost], families: Sequence[Sequence[str]], limits: Mapping[str, float]
) -> dict[str, int]:
    """Return `training.epochs` of each method: the most that fits, the same where a first stage is shared."""
    found: dict[str, int] = {}
    for family in families:
        same = min(costs[name].most(limits[name]) for name in family)
        found |= dict.fromkeys(family, same)
    return {name: found[name] for name in costs}


def _too_little(
    short: Sequence[str], costs: Mapping[str, _Cost], first: Mapping[str, str], seeds: int,
    seconds: float | None, most: int, equal: Equal,
) -> str:  # fmt: skip
    """Say what the smallest budget would be."""
    need = max(cost.count(1) for cost in costs.values())
    longest = max(costs, key=lambda name: costs[name].count(1))
    if need > most:
        return (
            f"{longest} takes at least {counted(need, 'epoch', 'epochs')} in all stages, and a training has "
            f"{most}. Leave it out, or allow more: epochs={2 * need}."
        )
    assert seconds is not None, "else every method that fits one epoch fits"
    if equal == "time":
        least = seeds * len(costs) * max(cost.seconds * cost.count(1) for cost in costs.values())
    else:
        least = seeds * _seconds(costs, first, need)
    return (
        f"--budget: {duration(seconds)} is not enough for {', '.join(short)}: "
        f"{counted(len(costs), 'method', 'methods')} with {counted(seeds, 'seed', 'seeds')} need "
        f"{estimate(math.ceil(1.1 * least))} for {counted(need, 'epoch', 'epochs')} each, the least that "
        f"{longest} can take. Allow more, or compare fewer methods or seeds."
    )


def plan_text(plan: Plan, question: Mapping[str, Any]) -> str:
    """Return the file of a plan; `question` says what was asked for."""
    return (
        json.dumps({"question": dict(question), "plan": asdict(plan)}, indent=1, ensure_ascii=False)
        + "\n"
    )


def read_plan(text: str, question: Mapping[str, Any], where: str) -> Plan:
    """Return a plan that was written for the same question.

    Raises:
        ConfigError: If it was another one, or the file is damaged.
    """
    try:
        content = json.loads(text)
        asked, plan = content["question"], Plan(**content["plan"])
        plan = replace(plan, reasons=tuple(plan.reasons))
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"{where} cannot be read ({error}); choose another folder with --out."
        ) from error
    if differing := [key for key in question if asked.get(key) != question[key]]:
        raise ConfigError(
            f"{where} belongs to a comparison with other values of {', '.join(differing)}. Repeat that "
            "command to continue it, or choose another folder with --out."
        )
    return plan
