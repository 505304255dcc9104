"""`longtail recipes`: which ship, and everything about one of them."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.table import Column, Table

from longtail.cli.lines import console, hint, print_rows, say
from longtail.cli.lists import complete_override
from longtail.core.errors import ConfigError
from longtail.recipes.catalogue import Described, Value, catalogue, read_described
from longtail.recipes.measured import measured_result
from longtail.recipes.systems import system_named


def complete_recipe(incomplete: str) -> list[str]:
    """Complete the name of a recipe."""
    return [name for name in catalogue().recipes if name.startswith(incomplete)]


def recipes(
    name: Annotated[
        str | None,
        typer.Argument(
            help="A recipe or YAML file, to show it in full; or a word, to list the recipes with that word "
            "in their name, or of the system that papers call so.",
            autocompletion=complete_recipe,
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="key=value overrides of the recipe.", autocompletion=complete_override),
    ] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the shipped recipes, or show one in full.

    The list shows what each recipe does and what we measured with it: accuracy in % on the test set after
    the last epoch, mean and standard deviation over seeds, and the schedule (a short one if nothing else is
    recorded).

    A recipe shown in full lists every value, the file that sets it, where it comes from (a paper, a released
    file, or an assumption), where it differs from that source and why, and which values have no effect.

    Examples:

      longtail recipes

      longtail recipes cifar100-lt

      longtail recipes cifar100-lt/reslt

      longtail recipes cifar100-lt/reslt epochs=40 --json
    """
    shipped = name in catalogue().recipes
    if shipped or (name and Path(name).suffix in (".yaml", ".yml")) or overrides:
        if name is not None and shipped and not overrides:
            described = read_described(name)
        else:
            from longtail.recipes import describe

            described = describe(name or "", overrides or ())
        if as_json:
            say(json.dumps(asdict(described), indent=1))
        else:
            _show(described)
        return
    _list(name, as_json=as_json)


def _list(word: str | None, *, as_json: bool) -> None:
    known = catalogue().recipes
    names = [name for name in known if word is None or word.lower() in name]
    if not names and (system := system_named(word or "")):
        names = [name for name in known if name.rpartition("/")[2] == system.recipe]
    if not names:
        near = difflib.get_close_matches(word or "", known, n=3, cutoff=0.4)
        hinted = f" Did you mean {', '.join(near)}?" if near else ""
        raise ConfigError(
            f"No recipe has {word!r} in its name; `longtail recipes` lists all.{hinted}"
        )
    rows = [
        {"recipe": name, "description": known[name], "measured": measured_result(name)}
        for name in names
    ]
    if as_json:
        say(json.dumps(rows, indent=1))
        return
    print_rows(("recipe", "what it does", "measured"), [tuple(row.values()) for row in rows])
    hint("to show one in full: longtail recipes NAME")
    hint("to train one: longtail train RECIPE [key=value ...]")


def _show(described: Described) -> None:
    said = [f"{described.recipe}: {described.description}"]
    said += [f"Source: {described.paper}"] if described.paper else []
    said += [f"Files, in order of precedence: {', '.join(described.files)}"]
    for line in said:
        say(line)
    told = {v.source for v in described.values} - {""}
    numbers = {text: place for place, text in enumerate(sorted(told), start=1)}
    for section, values in groupby(described.values, key=lambda value: value.section):
        console().print(_table(section, list(values), numbers))
    for text, number in numbers.items():
        say(f"[{number}] {text}")
    for key, why in described.differs.items():
        say(f"differs from its source: {key}: {why}")
    idle = sum(bool(value.no_effect) for value in described.values)
    assumed = sum(value.source.startswith("assumed") for value in described.values)
    say(f"{assumed} values are assumptions, {idle} have no effect here.")


def _table(section: str, values: Sequence[Value], numbers: Mapping[str, int]) -> Table:
    """Return a section; sources are numbers, which are told below all sections."""
    table = Table(
        section,
        "value",
        "set by",
        Column("from", justify="right"),
        "",
        box=None,
    )
    for value in values:
        notes = ["differs, see below"] if value.differs else []
        notes += [f"no effect: {value.no_effect}"] if value.no_effect else []
        cells = (
            value.key.removeprefix(f"{section}."),
            written(value.value),
            value.set_by,
            f"[{numbers[value.source]}]" if value.source else "",
            "; ".join(notes),
        )
        table.add_row(*cells, style="dim" if value.no_effect else None)
    return table


def written(value: object) -> str:
    """Return a value as a recipe writes it."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1000)
    return text.removesuffix("...\n").strip()
