"""Recipes: YAML files that ship with the package, and the user's own."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from longtail.core.errors import ConfigError
from longtail.recipes.config import RunConfig, assign, validate

FOLDER = Path(__file__).parent
TABLES = (".csv", ".parquet", ".pq")
OWN_PICTURES = "pictures/balanced-softmax"  # where a run on somebody's own data starts from


def recipe_names() -> list[str]:
    """Return the names of all shipped recipes, sorted."""
    files = FOLDER.rglob("*.yaml")
    return sorted(file.relative_to(FOLDER).with_suffix("").as_posix() for file in files)


def resolve(source: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Return the configuration of a run.

    Args:
        source: A shipped recipe (`cifar100-lt/ldam-drw`), a YAML file, or data: a folder of
            pictures or a CSV or Parquet table, which are trained as `pictures/balanced-softmax`.
        overrides: `key=value`; see `assign`.

    Raises:
        ConfigError: If there is no such recipe or data, or the result is wrong; see `validate`.
    """
    path = Path(source).expanduser()
    if path.is_dir() or path.suffix.lower() in TABLES:
        raw = read_recipe(OWN_PICTURES)
        kind = "folder" if path.is_dir() else "table"
        raw["data"] = {**raw.get("data", {}), "name": kind, "path": str(path)}
        raw["recipe"] = f"{path.resolve().stem}"
    else:
        raw = read_recipe(source)
    mistakes = assign(raw, overrides, parse_value)
    return validate(raw, source if not overrides else f"{source} with its overrides", mistakes)


def read_recipe(source: str) -> dict[str, Any]:
    """Read a recipe and what it extends, unchecked.

    Raises:
        ConfigError: If there is no such recipe (the nearest names are shown), it is no YAML
            mapping, or it extends itself.
    """
    return _read(source, ())


def parse_value(text: str) -> Any:  # noqa: ANN401 - whatever YAML says
    """Read the value of an override as YAML: numbers, true, null, lists, text."""
    try:
        return yaml.safe_load(text) if text else ""
    except yaml.YAMLError:
        return text


def _read(source: str, above: tuple[str, ...]) -> dict[str, Any]:
    if source in above:
        raise ConfigError(f"Recipe {source} extends itself: {' -> '.join((*above, source))}.")
    file, name = _find(source)
    try:
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file} cannot be read as YAML ({error}).") from error
    if not isinstance(raw, dict) or not all(isinstance(key, str) for key in raw):
        raise ConfigError(f"{file} is no recipe: it must be a mapping of keys to values.")
    base = raw.pop("extends", None)
    raw.setdefault("recipe", name)
    return _merge(_read(str(base), (*above, source)), raw) if base else raw


def _find(source: str) -> tuple[Path, str]:
    own = Path(source).expanduser()
    if own.suffix in (".yaml", ".yml"):
        if not own.is_file():
            raise ConfigError(f"There is no recipe file {source}.")
        return own, own.stem
    file = FOLDER / f"{source}.yaml"
    names = recipe_names()
    if source not in names:
        near = difflib.get_close_matches(source, names, n=3, cutoff=0.4)
        hint = f" Did you mean {', '.join(near)}?" if near else ""
        raise ConfigError(
            f"There is no recipe, folder or table {source!r}.{hint} `longtail recipes` lists all."
        )
    return file, source


def _merge(base: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Put `above` over `base`; a part whose `name` changes is replaced as a whole."""
    merged = dict(base)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            renamed = "name" in value and value["name"] != old.get("name")
            merged[key] = dict(value) if renamed else _merge(old, value)
        else:
            merged[key] = value
    return merged
