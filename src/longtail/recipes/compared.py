"""Methods side by side on one data set: the same data, network and training, and each its own method.

The method is the `method:` part of a recipe. What a recipe trains with is left out, because it suits another
data set and another number of epochs; only what belongs to the method stays (see `PARTS`).
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longtail.core.errors import ConfigError
from longtail.core.missing import TABLES
from longtail.methods import METHODS
from longtail.methods.single_head import SingleHeadOptions
from longtail.recipes.options import RunConfig, assign, validate
from longtail.recipes.own_images import FROZEN, OWN_IMAGES, TRAINS, leaves, recipe_for
from longtail.recipes.plugins import load_chosen
from longtail.recipes.shipped import read_recipe, recipe_names
from longtail.recipes.systems import normal, recipes_by_name

NAMED_BY = "cifar100-lt"  # the benchmark that has a recipe of every method
# method or optimiser of a recipe -> what of its training belongs to the method
PARTS: Mapping[str, tuple[str, ...]] = {
    "sam": ("optimizer", "rho"),
    "weight-balancing": ("weight_decay",),
}


@dataclass(frozen=True)
class Named:
    """A method as it was asked for.

    Attributes:
        name: Of rows and folders.
        method: The `method:` part.
        training: What of the `training:` part belongs to it.
    """

    name: str
    method: Mapping[str, Any]
    training: Mapping[str, Any]

    @property
    def works_on_features(self) -> bool:
        """Whether it can be trained on features that a frozen network computed once."""
        said = {f"method.{key}" for key, _ in leaves(self.method)}
        parts = {key.rpartition(".")[0] for key in said} | said
        return self.method["name"] == SingleHeadOptions().name and not parts & set(TRAINS)


def named_methods(text: str, benchmark: str = NAMED_BY) -> list[Named]:
    """Return the methods of a list such as `balanced-softmax,crt,tau`.

    A name is that of a recipe (`balpoe`, `places-lt/reslt`, `mine.yaml`), what the field calls it (`tau`), or
    that of a method with its defaults; capitals do not matter.

    Raises:
        ConfigError: If fewer than two are named, a name is unknown, or two names mean the same method.
    """
    load_chosen()
    found: list[Named] = []
    for name in dict.fromkeys(filter(None, (part.strip() for part in text.split(",")))):
        new = _named(name, benchmark)
        for other in found:
            if other.name == new.name:
                raise ConfigError(f"--methods names {new.name} twice.")
            if (other.method, other.training) == (new.method, new.training):
                raise ConfigError(
                    f"--methods: {other.name} and {new.name} differ only in their schedules, which the "
                    "comparison sets itself; leave one of them out."
                )
        found.append(new)
    if len(found) < 2:
        raise ConfigError(
            "--methods needs at least two methods, for example --methods cross-entropy,balanced-softmax,crt; "
            "`longtail recipes cifar100-lt` lists them."
        )
    return found


def own_data(source: str) -> bool:
    """Say whether a source is a folder or table of images, and no recipe."""
    path = Path(source).expanduser()
    return path.is_dir() or path.suffix.lower() in TABLES


def bases(
    source: str, methods: Sequence[Named], overrides: Sequence[str], wish: str | None
) -> list[str]:
    """Return the recipes whose network and training all methods could share, the best first.

    Args:
        source: A folder, a table, or a recipe, which is then the only base.
        methods: To compare.
        overrides: Of the user, for all methods.
        wish: One of `OWN_IMAGES`, with or without `images/`, that the user prefers.

    Raises:
        ConfigError: If there is no such recipe, or a method cannot be trained on frozen features.
    """
    if not own_data(source):
        if wish is not None:
            raise ConfigError(
                "--base is for a folder or table of images; a recipe is its own base."
            )
        return [source]
    if wish is not None:
        base = wish if wish in OWN_IMAGES else f"images/{wish}"
        if base not in OWN_IMAGES:
            names = ", ".join(name.removeprefix("images/") for name in OWN_IMAGES)
            raise ConfigError(f"--base must be one of {names}, not {wish!r}.")
        trains = [method.name for method in methods if not method.works_on_features]
        if base == FROZEN and trains:
            raise ConfigError(
                f"--base {wish}: {', '.join(trains)} must train the whole network; leave out the method or "
                "--base."
            )
        return [base]
    first = recipe_for(read_recipe(FROZEN) | _data(source), overrides)[0]
    found = list(OWN_IMAGES[OWN_IMAGES.index(first) :])
    if first == FROZEN and not all(method.works_on_features for method in methods):
        found.remove(FROZEN)
    return found


def on_base(source: str, base: str, method: Named, overrides: Sequence[str]) -> RunConfig:
    """Return the configuration of a method with the data, network and training of a base.

    Raises:
        ConfigError: If an override is wrong, or is an option of the method.
    """
    raw = copy.deepcopy(read_recipe(base))
    if own_data(source):
        raw |= _data(source)
    raw["recipe"] = f"{Path(source).stem}/{method.name}"
    raw["method"] = dict(method.method)
    if base == FROZEN:
        raw["method"] |= {"train": "head", "augment": False}
    raw["training"] = {**raw.get("training", {}), **method.training}
    before = copy.deepcopy(raw["method"])
    mistakes = assign(raw, overrides)
    if raw["method"] != before:
        mistakes.append(
            "options of a method are part of what is compared: write them into a recipe file and name it in "
            "--methods"
        )
    # a number of epochs that was asked for holds, whatever the base says of images seen
    if any(text.partition("=")[0] in ("epochs", "training.epochs") for text in overrides):
        raw["training"].pop("images_seen", None)
    return validate(raw, f"{method.name} on {source}", mistakes)


def shares_first_stage(config: RunConfig, other: RunConfig) -> bool:
    """Say whether a run can begin with the first stage of another one, seeds and epochs aside."""
    same: dict[str, Any] = {"epochs": 1}
    one, two = (
        each.model_copy(update={"training": each.training.model_copy(update=same)})
        for each in (config, other)
    )
    return one.can_start_from(two)


def _named(text: str, benchmark: str) -> Named:
    raw: Mapping[str, Any]
    if text.endswith((".yaml", ".yml")) or "/" in text:
        raw, name = read_recipe(text), Path(text).stem
    else:
        also = recipes_by_name()
        name = also.get(normal(text), normal(text))
        known = recipe_names()
        recipe = next((r for b in (benchmark, NAMED_BY) if (r := f"{b}/{name}") in known), None)
        if recipe is not None:
            raw = read_recipe(recipe)
        elif name in METHODS:
            raw = {"method": {"name": name}}
        else:
            short = {r.removeprefix(f"{NAMED_BY}/") for r in known if r.startswith(f"{NAMED_BY}/")}
            near = difflib.get_close_matches(name, {*short, *also, *METHODS}, n=3)
            hint = f" Did you mean {', '.join(near)}?" if near else ""
            raise ConfigError(
                f"--methods: there is no method {text!r}.{hint} Names are those of `longtail recipes "
                f"{NAMED_BY}` and `longtail methods`, or recipe files."
            )
    method = raw.get("method", {})
    method = {"name": method} if isinstance(method, str) else dict(method)
    training = raw.get("training") or {}
    keys = PARTS.get(str(training.get("optimizer")), ()) + PARTS.get(str(method.get("name")), ())
    return Named(name, method, {key: training[key] for key in keys if key in training})


def _data(source: str) -> dict[str, Any]:
    path = Path(source).expanduser()
    return {"data": {"name": "folder" if path.is_dir() else "table", "path": str(path)}}
