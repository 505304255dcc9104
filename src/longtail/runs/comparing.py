"""The plan of a comparison of methods: what they share, and how many epochs each of them gets.

Equal budgets are equal sums of epochs over all stages (images seen), or equal times as measured on the first
steps of each method. Methods that share a first stage get the same epochs for it, so that it is trained once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from longtail.core.errors import ConfigError, DataError
from longtail.data import Progress, open_data
from longtail.data.data_set import DataSet
from longtail.engine.hardware import find_device
from longtail.recipes import RunConfig
from longtail.recipes.compared import Named, bases, on_base, shares_first_stage
from longtail.recipes.own_images import FROM_NOTHING, FROZEN, OWN_IMAGES
from longtail.recipes.settling import settle
from longtail.runs.comparison_costs import (
    SPARE,
    Cost,
    Equal,
    epochs_within,
    least_seconds,
    limits_of,
    measure_costs,
    seconds_per_epoch,
    too_few_epochs,
    too_little,
    what_helps,
)
from longtail.runs.model import build

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
    costs = {name: Cost.of(config, data) for name, config in configs.items()}
    first = _first_stages(configs)
    families = [
        [name, *(n for n, f in first.items() if f == name)] for name in configs if name not in first
    ]
    if seconds is None:
        epochs = epochs_within(costs, families, dict.fromkeys(costs, float(training.epochs)))
    else:

        def measure(name: str, most: float) -> float:
            note(f"measuring steps of {name}")
            return SPARE * seconds_per_epoch(configs[name], data, place, most / SPARE, note)

        measure_costs(costs, first, seconds / seeds, equal, measure)
        limits = limits_of(costs, first, seconds, seeds, equal, training.epochs)
        epochs = epochs_within(costs, families, limits)
    short = [name for name, number in epochs.items() if number < 1]
    if short:
        if said := too_few_epochs(costs, training.epochs):
            raise ConfigError(said)
        assert seconds is not None, "else every method that fits one epoch fits"
        least = least_seconds(costs, first, equal)
        helps = what_helps(source, methods, overrides, base, costs, least, seeds, seconds)
        raise ConfigError(f"{too_little(short, costs, least, seeds, seconds)} {helps}")
    ready = {
        name: config.model_copy(
            update={"training": config.training.model_copy(update={"epochs": epochs[name]})}
        ).model_dump(mode="json")
        for name, config in configs.items()
    }
    return Plan(chosen, reasons, epochs, first, ready)


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
