"""What help and completion need of every verb, without importing it: PyTorch takes seconds to import.

`sketches.json` is rendered from the verbs themselves by `longtail.cli.verbs.write_sketches()`; a test fails
where it is not up to date.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from typer.core import TyperCommand

from longtail.recipes.catalogue import catalogue
from longtail.recipes.synonyms import SYNONYMS

FILE = Path(__file__).with_suffix(".json")
HELP = "--help"
PROGRAM = "longtail"  # the help was rendered for
WIDTH = 80  # characters of a line of it, at most
TAKE_OVERRIDES = ("train", "compare", "recipes", "features")  # key=value
TOGETHER = re.compile(r"(--[\w-]+ (?!-))?('[^']*')?")  # of an example
UNBROKEN = "\u2011"  # a hyphen that no line ends with
ANYTHING = {"ignore_unknown_options": True, "allow_extra_args": True}


@cache
def sketches() -> dict[str, Any]:
    """Return verb -> its help, options and arguments, or its commands."""
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def help_of(verb: str, rest: Sequence[str]) -> str | None:
    """Return what `longtail VERB ... --help` prints at `WIDTH` or more; None for other words."""
    if not rest or rest[-1] != HELP or HELP in rest[:-1]:
        return None
    sketch = sketches().get(verb)
    for word in rest[:-1]:
        sketch = None if sketch is None else sketch.get("commands", {}).get(word)
    return None if sketch is None else str(sketch["help"])


def option_of_a_run(verb: str, rest: Sequence[str]) -> str:
    """Say how an option of a run is written, if it was given as an option of the verb; empty if none was."""
    known = sketches()[verb].get("options", {})
    if verb not in TAKE_OVERRIDES:
        return ""
    keys = {row.key.rpartition(".")[2]: row.key for row in catalogue().options}
    for word, following in zip(rest, [*rest[1:], ""], strict=False):
        option, equals, value = word.partition("=")
        name = option.removeprefix("--").replace("-", "_")
        last = SYNONYMS.get(name, name)
        if option.startswith("--") and option not in known and last in keys:
            given = value if equals else "" if following.startswith("-") else following
            return (
                f"{verb} has no {option}; options of a run are written as KEY=VALUE, here "
                f"{last}={given or 'VALUE'}."
            )
    return ""


def value_of_an_option(verb: str, rest: Sequence[str]) -> str:
    """Say which values an option takes, if it was given another one; empty if every value fits."""
    sketch = sketches()[verb]
    for word in rest:
        sketch = sketch.get("commands", {}).get(word, sketch)
    options: Mapping[str, list[str] | None] = sketch.get("options", {})
    for place, word in enumerate(rest):
        option, equals, value = word.partition("=")
        given = [value] if equals else rest[place + 1 : place + 2]
        known = options.get(option)
        # a path or a number is completed to nothing
        if given and known and "" not in known and given[0] not in known:
            return f"{option} must be one of {', '.join(known)}, but got {given[0]!r}."
    return ""


def arguments(options: Mapping[str, list[str] | None], given: Sequence[str]) -> list[str]:
    """Return those of the words after a verb that are no option and no value of one."""
    return [word for before, word in zip(["", *given], given, strict=False)
            if options.get(before) is None and not word.startswith("-")]  # fmt: skip


@dataclass(frozen=True)
class Completion:
    """What the shell is told, by the names that typer asks for."""

    value: str
    type: str = "plain"
    help: str | None = None


class Sketch(TyperCommand):
    """Completes the arguments of a verb; it takes any, and runs nothing.

    Args:
        name: Of the verb.
        sketch: See `sketches`.
    """

    def __init__(self, name: str, sketch: Mapping[str, Any]) -> None:
        super().__init__(name, context_settings=ANYTHING, add_help_option=False)
        self._sketch = sketch

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:  # noqa: ANN401 - typer's own
        """Complete a command, the name or value of an option, or an argument."""
        return [Completion(text) for text in completed(self._sketch, ctx.args, incomplete)]


def completed(sketch: Mapping[str, Any], given: Sequence[str], incomplete: str) -> list[str]:
    """Return what a word may become.

    Args:
        sketch: Of the verb.
        given: Words after the verb, complete ones.
        incomplete: The word that is typed.
    """
    for place, word in enumerate(given):
        if word in sketch.get("commands", {}):
            return completed(sketch["commands"][word], given[place + 1 :], incomplete)
    options: Mapping[str, list[str] | None] = sketch.get("options", {})
    if given and options.get(given[-1]) is not None:
        return _beginning(options[given[-1]] or (), incomplete)
    if incomplete.startswith("-"):
        return _beginning(options, incomplete)
    expected = sketch.get("arguments", [])
    if expected:
        place = min(len(arguments(options, given)), len(expected) - 1)
        return _beginning(expected[place], incomplete)
    return _beginning(sketch.get("commands", {}), incomplete)


def _beginning(words: Any, incomplete: str) -> list[str]:  # noqa: ANN401 - any words
    return [word for word in words if word.startswith(incomplete)]


def written_sketches(commands: Mapping[str, Any]) -> str:
    """Return the content of `sketches.json`.

    Args:
        commands: Verb -> its command, imported.
    """
    made = {name: _sketched(command, f"{PROGRAM} {name}") for name, command in commands.items()}
    return json.dumps(made, indent=1, ensure_ascii=False) + "\n"


def with_whole_examples(text: str) -> str:
    """Return a help in which long examples are continued as a shell reads them, and not broken in a word.

    Args:
        text: Its paragraphs; an example is one that is indented.
    """
    return "\n\n".join(
        _whole(part) if part.startswith(" ") else part for part in text.split("\n\n")
    )


def _whole(example: str) -> str:
    """Return the lines of one example, after the sign that tells typer to leave them alone."""
    margin = example[: len(example) - len(example.lstrip())]
    # an option stays with its value, and a quotation whole
    joined = TOGETHER.sub(lambda found: found[0].replace(" ", "\0"), " ".join(example.split()))
    lines = textwrap.wrap(
        joined, WIDTH - len(f"  {margin} \\"), subsequent_indent="    ", break_on_hyphens=False,
        break_long_words=False,
    )  # fmt: skip
    return "\b\n" + " \\\n".join(margin + line.replace("\0", " ") for line in lines)


def _sketched(command: Any, path: str, parent: Any = None) -> dict[str, Any]:  # noqa: ANN401 - typer's own
    context = command.make_context(
        path if parent is None else command.name, [], parent, resilient_parsing=True,
        terminal_width=WIDTH,
    )  # fmt: skip
    # at a hyphen, typer would break `--on-bad-image` and `fine-tuning`
    for described in (command, *command.params):
        if getattr(described, "help", None):
            described.help = re.sub(r"(?<=\w)-(?=\w)", UNBROKEN, described.help)
    sketch: dict[str, Any] = {"help": command.get_help(context).replace(UNBROKEN, "-")}
    if inner := getattr(command, "commands", None):
        sketch["commands"] = {name: _sketched(each, path, context) for name, each in inner.items()}
        return sketch
    sketch["options"], sketch["arguments"] = {}, []
    for parameter in command.get_params(context):
        values = [item.value for item in parameter.shell_complete(context, "")]
        if parameter.param_type_name == "argument":
            sketch["arguments"].append(sorted(values))
        else:
            flag = getattr(parameter, "is_flag", False)
            sketch["options"] |= dict.fromkeys(parameter.opts, None if flag else values)
    return sketch
