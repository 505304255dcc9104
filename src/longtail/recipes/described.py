"""A recipe in full: every value, the file that set it, where it is from, and whether it matters."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from longtail.recipes.catalogue import TEXTS_OF_A_VALUE, Described, Value
from longtail.recipes.effects import without_effect
from longtail.recipes.own_images import OWN_IMAGES
from longtail.recipes.shipped import COMMAND, Layer, recipe_names, trace
from longtail.recipes.sources import PAPER, section_of

SECTIONS = ("data", "model", "method", "training", "inference", "run")
DEFAULT = "default"  # what set a value that no file sets
NOT_VALUES = ("recipe", "description", "from")


def describe(source: str, overrides: Sequence[str] = ()) -> Described:
    """Return everything about a recipe; see `longtail.recipes.resolve` for arguments and errors."""
    if source in OWN_IMAGES:  # its data are what it is given
        overrides = ["data={name: folder, path: /FOLDER}", *overrides]
    traced = trace(source, overrides)
    config, layers = traced.config, traced.layers
    differs: dict[str, str] = {}
    for layer in reversed(layers):
        differs.update(layer.sources.differs)
    differs = {k: said for k, said in differs.items() if traced.set_by.get(k) != COMMAND}
    idle = without_effect(config)
    values = []
    for key, value in _leaves(config.model_dump(mode="json")):
        section = section_of(key, config.method_name)
        set_by = _setter(traced.set_by, key)
        values.append(
            Value(
                section, key, value, set_by,
                "" if set_by == COMMAND or section == "run" else _source(layers, set_by, key, section),
                _nearest(idle, key),
                "" if set_by == COMMAND or section == "run" else _nearest(differs, key),
            )
        )  # fmt: skip
    values.sort(key=lambda value: SECTIONS.index(value.section))
    papers = [layer.sources.source[PAPER] for layer in layers if PAPER in layer.sources.source]
    return Described(
        config.recipe, config.description, papers[0] if papers else "", differs,
        [layer.name for layer in layers], values,
    )  # fmt: skip


def written_descriptions() -> str:
    """Return the content of `described.json`.

    Texts and values that several recipes have are there once, under a piece of their checksum, so that a
    change of one recipe changes few lines.
    """
    texts: dict[str, str] = {}
    values: dict[str, str] = {}
    recipes: dict[str, str] = {}
    for name in recipe_names():
        told = asdict(describe(name))
        rows = []
        for value in told["values"]:
            for place in TEXTS_OF_A_VALUE:
                value[place] = _kept(texts, value[place]) if value[place] else ""
            rows.append(_kept(values, list(value.values())))
        recipes[name] = json.dumps(told | {"values": " ".join(rows)}, ensure_ascii=False)
    parts = (("recipes", recipes), ("values", values), ("texts", texts))
    each = (
        f'"{part}": {{\n' + ",\n".join(f"{json.dumps(k)}: {v}" for k, v in rows.items()) + "\n}"
        for part, rows in parts
    )
    return "{" + ",\n".join(each) + "}\n"


def _kept(table: dict[str, str], entry: object) -> str:
    """Put an entry into a table, and return its name there."""
    text = json.dumps(entry, ensure_ascii=False)
    name = hashlib.sha256(text.encode()).hexdigest()[:8]
    assert table.setdefault(name, text) == text
    return name


def _source(layers: Sequence[Layer], set_by: str, key: str, section: str) -> str:
    """Return what is said of a key, by the file that set it or one that extends it."""
    found = ""
    for layer in layers:
        found = layer.sources.of(key, section)
        if found or layer.name == set_by:
            break
    return found


def _setter(set_by: Mapping[str, str], key: str) -> str:
    parent, _, last = key.rpartition(".")
    # `loss: ldam` stands for `loss: {name: ldam}`
    short = set_by.get(parent, DEFAULT) if last == "name" else DEFAULT
    return set_by.get(key, short)


def _nearest(said: Mapping[str, str], key: str) -> str:
    parts = key.split(".")
    asked = (".".join(parts[:size]) for size in range(len(parts), 0, -1))
    return next((said[k] for k in asked if k in said), "")


def _leaves(plain: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in plain.items():
        if not prefix and key in NOT_VALUES:
            continue
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
