"""`longtail methods`, `longtail recipes` and `longtail options`: what there is to choose."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Column, Table

from longtail.cli.show import console
from longtail.core.errors import ConfigError
from longtail.methods import METHODS
from longtail.recipes import read_recipe, recipe_names
from longtail.recipes.explain import Explained, explained, options_of_methods, options_of_runs
from longtail.recipes.measured import measured_cost, measured_result


def complete_method(incomplete: str) -> list[str]:
    """Complete the name of a method."""
    return [name for name in METHODS if name.startswith(incomplete)]


def methods(
    name: Annotated[
        str | None,
        typer.Argument(help="Show the options of this method.", autocompletion=complete_method),
    ] = None,
) -> None:
    """List the methods: what each does, when to use it, what it costs.

    Examples:

      longtail methods

      longtail methods do
    """
    if name is not None:
        _describe(name)
        return
    table = Table("method", "what it does", "when to use it", "cost against plain training")
    for known, method in METHODS.items():
        table.add_row(known, method.summary, method.advice, measured_cost(known) or "-")
    console().print(table)
    console().print("options of one: longtail methods NAME", markup=False)


def _describe(name: str) -> None:
    if name not in METHODS:
        raise ConfigError(f"There is no method {name!r}; there are {', '.join(METHODS)}.")
    method = METHODS[name]
    out = console()
    out.print(f"{name}: {method.summary}. Use it when: {method.advice}.", markup=False)
    out.print(f"Cite: {method.citation}", markup=False)
    rows = list(explained(method.Config))
    out.print(_table(rows) if rows else "It has no options.")


def _table(rows: Iterable[Explained]) -> Table:
    # folded: a key that is cut off is of no use
    table = Table(Column("option", overflow="fold"), "default", "values", "meaning")
    for row in rows:
        # escaped: a list in brackets is no markup
        table.add_row(*(escape(text) for text in (row.key, row.default, row.values, row.meaning)))
    return table


def options(
    word: Annotated[
        str | None, typer.Argument(help="Show options with this in the key or the meaning.")
    ] = None,
) -> None:
    """Explain the options of a run: what each may be, and what it means.

    Those of the methods are among them when a word is asked for, else see longtail methods NAME.

    Examples:

      longtail options

      longtail options rate
    """
    rows = list(options_of_runs())
    if word is not None:
        rows += options_of_methods()
        found = [row for row in rows if word.lower() in f"{row.key} {row.meaning}".lower()]
        if not found:
            words = {part for row in rows for part in row.key.split(".")}
            near = difflib.get_close_matches(word, words, n=3)
            hint = f" Did you mean {', '.join(near)}?" if near else " See longtail options."
            raise ConfigError(f"No option has {word!r} in its key or meaning.{hint}")
        rows = found
    console().print(_table(rows))
    console().print(
        "set one: longtail train RECIPE KEY=VALUE; a key's last parts will do", markup=False
    )


def recipes(
    word: Annotated[str | None, typer.Argument(help="Show recipes with this in the name.")] = None,
) -> None:
    """List the shipped recipes: what each does, and what was measured with it.

    Measured is accuracy in % on the test set at the last epoch, mean and deviation over seeds, in the
    schedule that is named: a short one where nothing else is recorded.

    Example: longtail recipes cifar100-lt
    """
    names = [name for name in recipe_names() if word is None or word in name]
    if not names:
        raise ConfigError(f"No recipe has {word!r} in its name; see longtail recipes.")
    table = Table("recipe", "what it does", "measured")
    for name in names:
        text = str(read_recipe(name).get("description", ""))
        table.add_row(name, text, measured_result(name))
    console().print(table)
    console().print("train one: longtail train RECIPE [key=value ...]", markup=False)


def complete_recipe(incomplete: str) -> list[str]:
    """Complete the name of a recipe."""
    return [name for name in recipe_names() if name.startswith(incomplete)]
