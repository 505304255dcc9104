"""Recipes: YAML files that ship with the package, and the user's own."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from longtail.config.yaml_text import read_yaml, values
from longtail.core.errors import ConfigError
from longtail.core.missing import RECIPES, TABLES, no_source
from longtail.core.paths import set_name
from longtail.data.sources.folder_contents import refuse_one_file
from longtail.recipes.options import RunConfig, assign, validate
from longtail.recipes.own_images import FROZEN, leaves, recipe_for
from longtail.recipes.plugins import load_chosen
from longtail.recipes.sources import KEYS, Sources, read_sources

FOLDER = Path(__file__).parent
COMMAND = "command line"  # what set a value that an override gave


@dataclass(frozen=True)
class Layer:
    """One file of a recipe.

    Attributes:
        name: As it is extended: `cifar100-lt/reslt`, or a path.
        content: What it says, its sources aside.
        sources: Where its values are from.
    """

    name: str
    content: Mapping[str, Any]
    sources: Sources


@dataclass(frozen=True)
class Traced:
    """A configuration and the file that set each of its values.

    Attributes:
        config: Checked.
        set_by: Name of the layer that set a dotted key, `command line` for an override; keys that
            nobody set are not in it.
        layers: The recipe first, then what it extends.
    """

    config: RunConfig
    set_by: Mapping[str, str]
    layers: Sequence[Layer]


def recipe_names() -> list[str]:
    """Return the names of all shipped recipes, sorted; what only others extend begins with `_`."""
    return list(_names_in(FOLDER))


@cache  # what ships does not change while a program runs
def _names_in(folder: Path) -> tuple[str, ...]:
    files = (file for file in folder.rglob("*.yaml") if not file.name.startswith("_"))
    return tuple(sorted(file.relative_to(folder).with_suffix("").as_posix() for file in files))


def resolve(source: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Return the configuration of a run.

    Args:
        source: A shipped recipe (`cifar100-lt/ldam-drw`), a YAML file, or data: a folder of
            images or a CSV, Parquet or COCO JSON table, see `longtail.recipes.own_images`.
        overrides: `key=value`; see `assign`.

    Raises:
        ConfigError: If there is no such recipe or data, or the result is wrong; see `validate`.
    """
    return trace(source, overrides).config


def trace(source: str, overrides: Sequence[str] = ()) -> Traced:
    """Return the configuration of a run, and who set what; see `resolve`."""
    load_chosen()
    path = _path(source)
    if path is not None:
        refuse_one_file(path)
    own_data = path is not None and (path.is_dir() or path.suffix.lower() in TABLES)
    layers = read_layers(FROZEN if own_data else source)
    raw, set_by = assemble(layers)
    if own_data and path is not None:
        kind = "folder" if path.is_dir() else "table"
        data = {"data": {"name": kind, "path": str(path)}, "recipe": Path(set_name(path)).stem}
        recipe, model = recipe_for(raw | data, overrides)
        layers = read_layers(recipe)
        raw, set_by = assemble(layers)
        raw |= data
        raw["model"] |= model
    mistakes = [said for layer in layers for said in layer.sources.mistakes(raw)]
    before = dict(leaves(copy.deepcopy(raw)))
    mistakes += assign(raw, overrides)
    for key, value in leaves(raw):
        if key not in before or before[key] != value:
            set_by[key] = COMMAND
    _drop_overruled(raw, set_by, [COMMAND, *(layer.name for layer in layers)])
    told = source if not overrides else f"the options of {source}"
    return Traced(validate(raw, told, mistakes), set_by, layers)


def read_recipe(source: str) -> dict[str, Any]:
    """Read a recipe and what it extends, unchecked.

    Raises:
        ConfigError: If there is no such recipe (the nearest names are shown), it is no YAML
            mapping, or it extends itself.
    """
    read: dict[str, Any] = values(assemble(read_layers(source))[0])
    return read


def read_layers(source: str) -> list[Layer]:
    """Read a recipe and what it extends, file by file, the recipe first; see `read_recipe`."""
    layers: list[Layer] = []
    following: str | None = source
    while following is not None:
        above = [layer.name for layer in layers]
        if following in above:
            way = " -> ".join([*above, following])
            raise ConfigError(f"Recipe {following} extends itself: {way}.")
        layer, following = _read(following)
        layers.append(layer)
    return layers


def assemble(layers: Sequence[Layer]) -> tuple[dict[str, Any], dict[str, str]]:
    """Put layers over each other, the first on top; return the result and who set each key."""
    merged: dict[str, Any] = {}
    set_by: dict[str, str] = {}
    for layer in reversed(layers):
        merged = _merge(merged, layer.content, layer.name, set_by)
    return merged, set_by


def _drop_overruled(raw: dict[str, Any], set_by: Mapping[str, str], order: Sequence[str]) -> None:
    """Drop `images_seen` below a number of epochs, and `early_stopping` below select=last."""
    training = raw.get("training")
    if not isinstance(training, dict):
        return  # validation says what is wrong
    pairs = [("epochs", "images_seen")]
    pairs += [("select", "early_stopping")] if training.get("select") == "last" else []
    for above, below in pairs:
        one, other = (set_by.get(f"training.{key}") for key in (above, below))
        if one is not None and other is not None and order.index(one) < order.index(other):
            del training[below]


def _path(source: str) -> Path | None:
    """Return what may be a file or folder; None for a text that the system takes for no path."""
    try:
        path = Path(source).expanduser()
        path.stat()
    except FileNotFoundError:
        return path
    except PermissionError as error:
        raise ConfigError(f"{source} cannot be read ({error.strerror}).") from error
    except (OSError, ValueError, RuntimeError):  # too long; a zero; the home of nobody
        return None
    return path


def _read(source: str) -> tuple[Layer, str | None]:
    """Return one file and the name of what it extends."""
    file, name = _find(source)
    shipped = file.is_relative_to(FOLDER)
    raw = copy.deepcopy(_read_once(file)) if shipped else read_yaml(file)
    if not isinstance(raw, dict):
        raise ConfigError(f"{file} is not a recipe: it must be a mapping of keys to values.")
    base = raw.pop("extends", None)
    raw.setdefault("recipe", name)
    sources = read_sources({k: values(raw.pop(k)) for k in KEYS if k in raw}, str(file))
    if base is not None and not isinstance(base, str):
        raise ConfigError(f"{file}: extends must be the name of a recipe or a YAML file.")
    return Layer(source, raw, sources), base


@cache
def _read_once(file: Path) -> Any:  # noqa: ANN401 - whatever it holds
    return read_yaml(file)


def _find(source: str) -> tuple[Path, str]:
    own = _path(source)
    if own is not None and own.suffix in RECIPES:
        if not own.is_file():
            raise ConfigError(no_source(source, recipe_names()))
        return own, own.stem
    file = FOLDER / f"{source}.yaml"
    names = recipe_names()
    part = _path(str(file)) if file.name.startswith("_") else None
    shared = part is not None and part.is_file()
    if source not in names and not shared:
        raise ConfigError(no_source(source, names))
    return file, source


def _merge(
    base: Mapping[str, Any],
    above: Mapping[str, Any],
    setter: str,
    set_by: dict[str, str],
    prefix: str = "",
) -> dict[str, Any]:
    """Put `above` over `base`; a part whose `name` changes is replaced as a whole."""
    merged = dict(base)
    for key, value in above.items():
        old, full = merged.get(key), f"{prefix}{key}"
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            renamed = "name" in value and value["name"] != old.get("name")
            if not renamed:
                merged[key] = _merge(old, value, setter, set_by, f"{full}.")
                continue
        for gone in [k for k in set_by if k == full or k.startswith(f"{full}.")]:
            del set_by[gone]
        merged[key] = dict(value) if isinstance(value, Mapping) else value
        set_by.update(dict.fromkeys((k for k, _ in leaves({key: value}, prefix)), setter))
    return merged
