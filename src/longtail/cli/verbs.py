"""The verbs of the command line, each imported when it is called: PyTorch takes seconds to import."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.main
from typer.core import TyperCommand, TyperGroup

from longtail.cli import sketches
from longtail.cli.missing import missing_path
from longtail.core.errors import ConfigError
from longtail.core.interrupts import ending_quietly
from longtail.core.names import visible

# verb -> first sentence of its docstring; the file of the same name holds the function of the same name
SUMMARIES = {
    "train": "Train on your own images or by a recipe, then score the model on the test split.",
    "evaluate": "Score a finished run on a split, and write predictions and scores into its folder.",
    "predict": "Predict the classes of images without labels.",
    "calibrate": "Find out on val which predictions not to trust, for predict, report and export.",
    "suggest": "Suggest which unlabelled images to label next, with rare classes in mind.",
    "serve": "Open a local page to drop images on: prediction, probabilities, nearest training images.",
    "export": "Export the model for use elsewhere, and check that its logits match the run's.",
    "push": "Push the model of a finished run to the Hugging Face hub, with its model card.",
    "report": "Write a self-contained page about a run, or a comparison of several runs.",
    "compare": "Train several methods on your images with equal budgets, and recommend one by val accuracy.",
    "reproduce": "Train the rows of a paper's table and compare our numbers with the paper's.",
    "ensemble": "Combine several runs, or the sub-models of one run, and recommend a combination.",
    "adjust": "Correct a trained model for rare classes, without retraining it.",
    "methods": "List the methods: what each does, when to use it, and what it costs.",
    "recipes": "List the shipped recipes, or show one in full.",
    "options": "Explain the options of a run: allowed values and meaning.",
    "features": "Compute the features of a frozen backbone once, for all runs that use them.",
    "text-head": "Turn class names into vectors with a CLIP or SigLIP text network, to initialise a head.",
    "demo": "Train seven methods on long-tailed digits; takes one to three minutes on a CPU.",
    "data": "Inspect images before you train on them.",
}
# what is true of a verb that Ctrl-C ends; of the others nothing is said
CONTINUED = {
    "reproduce": "the same command continues",
    "compare": "the same command continues",
}
# in one step, so that nothing is left behind
WRITE_LAST = ("adjust", "calibrate", "ensemble", "predict")
LOAD_RUNS = ("adjust", "calibrate", "ensemble", "evaluate", "export", "predict", "serve")
ELSEWHERE = {"methods": "lists", "options": "lists", "text-head": "text_head"}  # verb -> file


# of click, of which typer may have a copy of its own
UsageError: Any = typer.BadParameter.__mro__[1]

Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin", help="Python file with a method, loss or sampler of your own; repeatable."
    ),
]


class Verbs(TyperGroup):
    """The group of all verbs; its help, completion and hints need none of their files."""

    def __init__(self, **attributes: Any) -> None:  # noqa: ANN401 - typer's own
        super().__init__(**attributes)
        # short_help is told in full, where help would be cut to a line
        self.commands = {
            name: TyperCommand(name, help=text, short_help=text) for name, text in SUMMARIES.items()
        }

    def make_context(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - typer's own
        """Read the arguments before the verb."""
        with _in_our_words():
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - typer's own
        """Read the arguments of the verb, and call it."""
        with _in_our_words():
            return super().invoke(ctx)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # noqa: ANN401 - typer's own
        """Find the verb that is called, and import it, unless only its help or a completion is asked for."""
        if args[0] == "help":
            args = [*args[1:], sketches.HELP]
            if len(args) == 1:
                typer.echo(ctx.get_help())
                ctx.exit()
        name, command, rest = super().resolve_command(ctx, args)
        if command is None or name is None:
            return name, None, rest
        if ctx.resilient_parsing:
            return name, sketches.Sketch(name, sketches.sketches()[name]), rest
        if slip := sketches.option_of_a_run(name, rest):
            raise ConfigError(slip)
        # help is told as it was rendered where it would look the same
        wide = shutil.get_terminal_size().columns >= sketches.WIDTH
        if wide and ctx.command_path == sketches.PROGRAM:
            told = sketches.help_of(name, rest)
            if told is not None:
                typer.echo(told)
                ctx.exit()
        if slip := sketches.value_of_an_option(name, rest):
            raise ConfigError(slip)
        if slip := missing_path(name, rest):
            raise ConfigError(slip)
        say_what_is_loaded(name, rest)
        return name, _imported(name), rest


@contextmanager
def _in_our_words() -> Iterator[None]:
    """Turn what typer finds wrong with the arguments into an error like any other.

    Raises:
        ConfigError: In place of typer's.
    """
    try:
        yield
    except UsageError as error:
        if type(error).show is not UsageError.show:  # no mistake: the help
            raise
        said = error.format_message()
        names, at = [sketches.HELP], error.ctx
        while at is not None and at.parent is not None:
            names, at = [at.info_name, *names], at.parent
        stop = "" if said.endswith((".", "?")) else "."
        command = " ".join([sketches.PROGRAM, *names])
        raise ConfigError(f"{said}{stop} {command} explains the command.") from error


def written_sketches() -> str:
    """Return what `sketches.json` must hold."""
    return sketches.written_sketches({name: _imported(name) for name in SUMMARIES})


def write_sketches() -> None:
    """Render `sketches.json`."""
    sketches.FILE.write_text(written_sketches(), encoding="utf-8")


def on_ctrl_c(words: Sequence[str], folder: Path | None = None) -> str:
    """Return what is said when Ctrl-C ends a command.

    Args:
        words: After `longtail`.
        folder: In which the work is continued; None if it was not chosen yet.
    """
    verb = words[0] if words else ""
    if verb == "train":
        return f"interrupted; {_to_continue(words[1:], folder)}"
    if verb == "serve":
        return "ended"
    if verb in WRITE_LAST:
        return "interrupted; nothing was written"
    return "interrupted" + (f"; {CONTINUED[verb]}" if verb in CONTINUED else "")


def _to_continue(rest: Sequence[str], folder: Path | None) -> str:
    if folder is None or not any(folder.glob("**/config.yaml")):
        return "the run had not begun, so there is nothing to continue"
    said = {word.partition("=")[0] for word in rest if word.startswith("--")}
    # several runs, a device, a record: what is in no run folder is said again
    again = list(rest) if said - {"--out", "--resume", "--on-bad-image"} else []
    words = ["train", "--resume", *(word for word in again if word != "--resume")]
    words += [] if again and "--out" in said else ["--out", str(folder)]
    # the launcher of several processes keeps their number to itself
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes not in ("1", "") and processes == os.environ.get("LOCAL_WORLD_SIZE"):
        words += ["--processes", processes]
    return f"continue the run with: {shlex.join([sketches.PROGRAM, *words])}"


def say_what_is_loaded(verb: str, rest: Sequence[str]) -> None:
    """Tell on a terminal what takes long, before PyTorch is imported."""
    given = sketches.arguments(sketches.sketches()[verb].get("options", {}), rest)
    if verb not in LOAD_RUNS or not given or not sys.stderr.isatty():
        return
    runs = given if verb in ("adjust", "ensemble") else given[:1]
    typer.echo(f"loading {visible(', '.join(runs))} ...", err=True)


def _imported(verb: str) -> Any:  # noqa: ANN401 - typer's own
    with ending_quietly():
        file = importlib.import_module(f"longtail.cli.{ELSEWHERE.get(verb, verb)}")
    app = getattr(file, "app", None)
    if app is None:
        app = typer.Typer(
            add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
        )
        function = getattr(file, verb.replace("-", "_"))
        app.command(verb)(function if verb == "demo" else _with_plugins(function))
    command: Any = typer.main.get_command(app)
    inner = getattr(command, "commands", {}).values()
    for each in inner:
        each.short_help = " ".join(each.help.partition("\n\n")[0].split())  # else it would be cut
    for each in inner or [command]:
        each.help = sketches.with_whole_examples(each.help)
    return command


def _with_plugins(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Return a verb that takes `--plugin`, too: files whose methods, losses and samplers it then knows."""

    @functools.wraps(verb)
    def called(*args: Any, plugin: list[Path] | None = None, **options: Any) -> Any:  # noqa: ANN401
        if plugin:
            with ending_quietly():
                from longtail.recipes.plugins import choose
            choose(plugin)
        return verb(*args, **options)

    signature = inspect.signature(verb, eval_str=True)
    kept = [*signature.parameters.values()]
    own = inspect.Parameter(
        "plugin", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Plugins
    )
    called.__signature__ = signature.replace(parameters=[*kept, own])  # type: ignore[attr-defined]
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in [*kept, own]}
    return called
