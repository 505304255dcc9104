"""`longtail methods` and `longtail options`: what there is to choose, without importing PyTorch."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from longtail.cli.lines import hint, print_rows, say
from longtail.core.errors import ConfigError
from longtail.recipes.catalogue import Explained, catalogue
from longtail.recipes.measured import measured_cost
from longtail.recipes.synonyms import NOT_OF_A_RUN, SYNONYMS
from longtail.recipes.systems import SYSTEMS, system_named, systems_of

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def complete_method(incomplete: str) -> list[str]:
    """Complete the name of a method."""
    return [name for name in catalogue().methods if name.startswith(incomplete.lower())]


def complete_override(incomplete: str) -> list[str]:
    """Complete the key of `key=value`, by its beginning or that of its last part."""
    if "=" in incomplete:
        return []
    rows = (*catalogue().options, *catalogue().method_options)
    keys = dict.fromkeys(row.key for row in rows)
    short = dict.fromkeys(key.rpartition(".")[2] for key in keys)
    return [f"{key}=" for key in (*keys, *short) if key.startswith(incomplete)]


def methods(
    name: Annotated[
        str | None,
        typer.Argument(
            help="Show the options of this method; what papers call it is known, too (RIDE, KCL, ...).",
            autocompletion=complete_method,
        ),
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """List the methods: what each does, when to use it, and what it costs.

    Examples:

      longtail methods

      longtail methods do

      longtail methods RIDE
    """
    if name is not None:
        _describe(name, as_json=as_json)
        return
    known = catalogue().methods
    if as_json:
        listed = {
            name: asdict(method) | {"systems": systems_of(name), "cost": measured_cost(name)}
            for name, method in known.items()
        }
        say(json.dumps(listed, indent=1))
        return
    print_rows(
        (
            "method",
            "what it does",
            "when to use it",
            "in papers",
            "cost relative to plain training",
        ),
        [
            (
                name,
                method.summary,
                method.advice,
                ", ".join(systems_of(name)) or "-",
                measured_cost(name) or "-",
            )
            for name, method in known.items()
        ],
    )
    hint("options of a method: longtail methods NAME")


def _describe(name: str, *, as_json: bool) -> None:
    known = catalogue().methods
    system = None if name.lower() in known else system_named(name)
    if system is None and name.lower() not in known:
        names = {s.lower(): s for own in SYSTEMS.values() for s in own} | {m: m for m in known}
        near = difflib.get_close_matches(name.lower(), names, n=1)
        hinted = f" Did you mean {names[near[0]]}?" if near else ""
        raise ConfigError(f"There is no method {name!r}.{hinted} Choose from {', '.join(known)}.")
    name = system.method if system else name.lower()
    method = known[name]
    if as_json:
        say(json.dumps({"method": name, "systems": systems_of(name)} | asdict(method), indent=1))
        return
    if system is not None:
        own = [r for r in catalogue().recipes if r.rpartition("/")[2] == system.recipe]
        say(
            f"{system.name} is the method {name} with the options of these recipes: {', '.join(own)}."
        )
    say(f"{name}: {method.summary}. Use it when: {method.advice}.")
    say(f"Cite: {method.citation}")
    if method.options:
        _print(method.options)
    else:
        say("This method has no options.")


def _print(rows: Sequence[Explained]) -> None:
    print_rows(
        ("option", "default", "values", "meaning"),
        [(row.key, row.default, row.values, row.meaning) for row in rows],
    )


def _found(rows: Sequence[Explained], words: Sequence[str]) -> list[Explained]:
    """Return the options that all the words are said of, those with the words in the key first."""
    wanted = [word.lower() for word in words]
    meant = [SYNONYMS.get(word.replace("-", "_"), word) for word in wanted]
    in_key = [row for row in rows if all(word in row.key for word in meant)]
    texts = {row: f"{row.key} {row.meaning}".lower() for row in rows}
    found = dict.fromkeys(
        [*in_key, *(row for row in rows if all(_begins(word, texts[row]) for word in wanted))]
    ) or dict.fromkeys(row for row in rows if all(word in texts[row] for word in wanted))
    if found:
        return list(found)
    text = " ".join(words)
    if len(words) == 1 and wanted[0] in NOT_OF_A_RUN:
        raise ConfigError(f"{text} is not an option of a run: {NOT_OF_A_RUN[wanted[0]]}.")
    known = {part for row in rows for part in row.key.split(".")} | set(SYNONYMS)
    near = difflib.get_close_matches(wanted[0], known, n=3)
    hinted = f" Did you mean {', '.join(near)}?" if near else " See longtail options."
    raise ConfigError(f"No option has {text!r} in its key or meaning.{hinted}")


def _begins(word: str, text: str) -> bool:
    """Say whether a word of a text begins so: `rate` is not in `iterate`."""
    return re.search(rf"(?<![a-z0-9]){re.escape(word)}", text) is not None


def options(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            help="Show options with these words in the key or the meaning; names that other tools "
            "use (lr, wd, batch, ...) are known."
        ),
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Explain the options of a run: allowed values and meaning.

    With words, the options of methods are searched too; for one method see longtail methods NAME.

    Examples:

      longtail options

      longtail options lr

      longtail options label smoothing
    """
    rows = catalogue().options
    if words:
        rows = tuple(_found((*rows, *catalogue().method_options), words))
    if as_json:
        say(json.dumps([asdict(row) for row in rows], indent=1))
        return
    _print(rows)
    hint(
        "to set one: longtail train RECIPE KEY=VALUE; the last part of a key is enough if it is "
        "unambiguous. In parentheses: what has the option"
    )
