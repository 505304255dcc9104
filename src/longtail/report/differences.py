"""How the configurations of runs differ, and which differences cast doubt on a comparison."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from longtail.recipes import RunConfig
from longtail.runs.run import MOVABLE

# what makes runs seeds of one arm, and what no training learns from
NOT_A_DIFFERENCE = MOVABLE | {
    "from", "recipe", "description", "training.seed", "training.checkpoint_every", "training.watch_test",
    "training.channels_last", "training.compile",
}  # fmt: skip
# what changes accuracy whatever the method is
CONFOUNDERS = ("data.", "model.", "training.")
MOST_NAMED = 4  # differences in the name of an arm


def flat(config: RunConfig) -> dict[str, Any]:
    """Return the options that a training depends on, dotted, without the seed."""
    return {key: value for key, value in config.dotted().items() if key not in NOT_A_DIFFERENCE}


def differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys in which flat configurations differ, in their order."""
    keys = dict.fromkeys(key for config in configs for key in config)
    return [key for key in keys if len({repr(config.get(key)) for config in configs}) > 1]


def confounders(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return differences besides the method, as option -> its value in each configuration."""
    return {
        key: [written(config.get(key)) for config in configs]
        for key in differing(configs)
        if key.startswith(CONFOUNDERS)
    }


def names(recipes: Sequence[str], configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name configurations by recipe, and by what else differs among those of one recipe.

    Args:
        recipes: Of each configuration.
        configs: Flat; equal ones get equal names, and others get other names.
    """
    folders = {recipe.rpartition("/")[0] for recipe in recipes}
    shared = f"{folders.pop()}/" if len(folders) == 1 else ""
    found = []
    for recipe, own in zip(recipes, configs, strict=True):
        others = [c for r, c in zip(recipes, configs, strict=True) if r == recipe]
        keys = differing(others)
        # a changed name implies the options that come with it
        named = [key for key in keys if key.endswith(".name") or key.startswith(CONFOUNDERS)]
        for chosen in (named[:MOST_NAMED], keys[:MOST_NAMED], keys):
            if chosen and len({_values(c, chosen) for c in others}) == len(
                {_values(c, keys) for c in others}
            ):
                break
        shown = ", ".join(f"{_short(key)}={written(own.get(key))}" for key in chosen)
        name = recipe.removeprefix(shared)
        found.append(f"{name} ({shown})" if shown else name)
    return found


def written(value: Any) -> str:  # noqa: ANN401 - of a configuration
    """Return a value of a configuration for people; a dash where there is no such option."""
    return "-" if value is None else json.dumps(value, ensure_ascii=False).replace('"', "")


def _values(config: Mapping[str, Any], keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(repr(config.get(key)) for key in keys)


def _short(key: str) -> str:
    parts = key.split(".")
    return parts[-2] if parts[-1] == "name" else parts[-1]
