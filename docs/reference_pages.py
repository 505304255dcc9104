"""Pages of reference written from the code: every public module, and every verb of the command line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import typer.main

from longtail.cli import app

MODULES = {
    "longtail": "train, evaluate, predict and correct from Python",
    "longtail.losses": "loss functions and modules",
    "longtail.adjust": "corrections of a trained model",
    "longtail.core": "class counts, groups, predictions, protocol, errors",
    "longtail.data": "from images to batches",
    "longtail.models": "backbones, experts and heads",
    "longtail.methods": "the base class of a method",
    "longtail.engine": "the training loop and the run folder",
    "longtail.prediction": "from a model to predictions",
    "longtail.evaluation": "metrics and confidence intervals",
    "longtail.uncertainty": "when not to believe a prediction",
    "longtail.ensembles": "several models as one",
    "longtail.runs": "trained runs: opened, scored, recorded",
    "longtail.recipes": "recipes and how they are resolved",
    "longtail.export": "models for use elsewhere",
    "longtail.reproduce": "tables of papers",
}


def write_api(folder: Path) -> None:
    """Write `<folder>/<module>.md` for every public module, and `<folder>/index.md`."""
    folder.mkdir(exist_ok=True)
    lines = ["# Python API", "", "Everything that is public, module by module.", ""]
    lines += ["| module | what it holds |", "|---|---|"]
    lines += [f"| [`{name}`]({name}.md) | {text} |" for name, text in MODULES.items()]
    lines += ["", "```{toctree}", ":hidden:", "", *MODULES, "```", ""]
    (folder / "index.md").write_text("\n".join(lines), encoding="utf-8")
    shown: set[str] = set()
    for name, text in MODULES.items():
        public = [each for each in import_module(name).__all__ if not each.startswith("_")]
        page = [f"# {name}", "", f"{text[0].upper()}{text[1:]}.", ""]
        page += ["```{eval-rst}", f".. currentmodule:: {name}", ""]
        for each in public:
            found = getattr(import_module(name), each)
            kind = "class" if isinstance(found, type) else "function" if callable(found) else ""
            if kind == "class" and issubclass(found, Exception):
                kind = "exception"
            # constants have no docstring of their own
            page += [f".. auto{kind}:: {name}.{each}" if kind else f".. py:data:: {name}.{each}"]
            page += ["   :members:"] * (kind == "class")
            if kind and f"{found.__module__}.{found.__qualname__}" in shown:
                page += ["   :no-index:"]  # a room above hands it on, too
            if kind:
                shown.add(f"{found.__module__}.{found.__qualname__}")
            page += [""]
        (folder / f"{name}.md").write_text("\n".join([*page, "```", ""]), encoding="utf-8")


def write_commands(file: Path) -> None:
    """Write a page with the help of every verb."""
    group: Any = typer.main.get_command(app)
    lines = ["# Command line", "", "`longtail VERB --help` shows the same in the terminal.", ""]
    with click.Context(group, info_name="longtail") as context:
        for verb in group.list_commands(context):
            _, command, _ = group.resolve_command(context, [verb])
            lines += _command(f"longtail {verb}", command)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _command(name: str, command: Any) -> Iterator[str]:  # noqa: ANN401 - typer's own
    yield from (f"## {name}", "", *_help(command.help or ""))
    commands = getattr(command, "commands", None)
    if commands:
        for verb, below in commands.items():
            yield from (
                line.replace("## ", "### ", 1) for line in _command(f"{name} {verb}", below)
            )
        return
    usage = [name, "[OPTIONS]"]
    for parameter in command.params:
        if not parameter.opts[0].startswith("-"):
            shown = (parameter.name or "").upper() + "..." * (parameter.nargs == -1)
            usage.append(shown if parameter.required else f"[{shown}]")
    yield from ("```text", " ".join(usage), "```", "")
    yield from ("| argument or option | meaning |", "|---|---|")
    for parameter in command.params:
        names = parameter.opts + parameter.secondary_opts
        is_option = names[0].startswith("-")
        shown = ", ".join(names) if is_option else (parameter.name or "").upper()
        text = " ".join((getattr(parameter, "help", None) or "").split())
        default = parameter.default
        if (
            isinstance(default, (str, int, float))
            and not isinstance(default, bool)
            and default != ""
        ):
            text += f" Default: {default}."
        yield f"| `{shown}` | {_plain(text)} |"
    yield ""


def _help(text: str) -> Iterator[str]:
    """Yield the text of a command's help; what follows `Example:` becomes a block of code."""
    said, _, examples = re.sub(r"\bExamples?:", "Examples:", text).partition("Examples:")
    for paragraph in re.split(r"\n\s*\n", said.strip()):
        yield from (_plain(" ".join(paragraph.split())), "")
    if commands := [line.strip() for line in examples.splitlines() if line.strip()]:
        yield from ("```bash", *commands, "```", "")


def _plain(text: str) -> str:
    return re.sub(r"([|$<>*])", r"\\\1", text)
