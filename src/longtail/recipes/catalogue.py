"""What the lists of the command line show of recipes, methods and options, without importing PyTorch.

`catalogue.json` and `described.json` are rendered from the recipes and methods themselves by
`python -m longtail.reproduce`, whose `--check` fails where they are not up to date.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from longtail.recipes.plugin_names import plugins_exist

FILE = Path(__file__).with_suffix(".json")
DESCRIBED = FILE.with_name("described.json")
TEXTS_OF_A_VALUE = ("source", "no_effect", "differs")


@dataclass(frozen=True)
class Explained:
    """One option.

    Attributes:
        key: Dotted.
        default: As it is written in a recipe.
        values: What it may be.
        meaning: One line.
    """

    key: str
    default: str
    values: str
    meaning: str


@dataclass(frozen=True)
class ListedMethod:
    """One method.

    Attributes:
        summary: What it does.
        advice: When to use it.
        citation: Its paper.
        options: Its own.
    """

    summary: str
    advice: str
    citation: str
    options: tuple[Explained, ...]


@dataclass(frozen=True)
class Catalogue:
    """Everything that ships.

    Attributes:
        recipes: Name -> one line on it.
        methods: By name.
        options: Of a run, those of its method aside.
        method_options: Of all methods; what several share, once.
    """

    recipes: dict[str, str]
    methods: dict[str, ListedMethod]
    options: tuple[Explained, ...]
    method_options: tuple[Explained, ...]


@dataclass(frozen=True)
class Value:
    """One value of a resolved recipe.

    Attributes:
        section: Where it is shown.
        key: Dotted.
        value: As YAML would hold it.
        set_by: The file, `default` or `command line`.
        source: Where it is from; empty where nothing is said.
        no_effect: Why it changes nothing; empty where it does.
        differs: What is published and why this is not; empty where it is as published.
    """

    section: str
    key: str
    value: Any
    set_by: str
    source: str
    no_effect: str
    differs: str


@dataclass(frozen=True)
class Described:
    """A resolved recipe.

    Attributes:
        recipe: Its name.
        description: One line.
        paper: To cite, and where the whole is described; may be empty.
        differs: Keys (or whole parts) that are not as published, with what is and why.
        files: Names of the files that it is made of, the recipe first.
        values: Section by section.
    """

    recipe: str
    description: str
    paper: str
    differs: Mapping[str, str]
    files: Sequence[str]
    values: Sequence[Value]


def catalogue() -> Catalogue:
    """Return what ships, and what plug-ins add where some are loaded or installed."""
    return _with_plugins() if plugins_exist() else _shipped()


@cache
def _shipped() -> Catalogue:
    return _read(FILE.read_text(encoding="utf-8"))


def _with_plugins() -> Catalogue:
    from longtail.recipes.explain import written_catalogue
    from longtail.recipes.plugins import load_chosen

    load_chosen()
    return _read(written_catalogue())


def _read(text: str) -> Catalogue:
    content = json.loads(text)
    methods = {
        name: ListedMethod(**{**told, "options": _options(told["options"])})
        for name, told in content["methods"].items()
    }
    return Catalogue(
        content["recipes"],
        methods,
        _options(content["options"]),
        _options(content["method_options"]),
    )


def _options(rows: Any) -> tuple[Explained, ...]:  # noqa: ANN401 - plain JSON
    return tuple(Explained(**row) for row in rows)


def read_described(recipe: str) -> Described:
    """Return everything about a shipped recipe as it is; see `longtail.recipes.describe`."""
    content = json.loads(DESCRIBED.read_text(encoding="utf-8"))
    told, texts = dict(content["recipes"][recipe]), content["texts"]
    values = [Value(*content["values"][name]) for name in told.pop("values").split()]
    said = [
        replace(value, **{part: texts.get(getattr(value, part), "") for part in TEXTS_OF_A_VALUE})
        for value in values
    ]
    return Described(**told, values=said)
