"""The command line: one file a verb."""

from __future__ import annotations

import importlib.metadata
import sys
import warnings
from typing import Annotated

import typer
from rich.console import Console

from longtail.cli import (
    adjust,
    data,
    demo,
    evaluate,
    export,
    lists,
    mix,
    predict,
    report,
    reproduce,
    train,
)
from longtail.core import distributed
from longtail.core.errors import LongtailError
from longtail.engine.hardware import MEMORY_FULL, is_memory_full

INTERRUPTED = 130  # the shell's status for Ctrl-C

app = typer.Typer(
    no_args_is_help=True,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def options(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)
    ] = False,
) -> None:
    """Long-tailed visual recognition: train, measure and repair classifiers.

    For when most classes have few pictures. New here? Run: longtail demo
    """
    if version:
        typer.echo(f"longtail {importlib.metadata.version('longtail')}")
        raise typer.Exit


app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("predict")(predict.predict)
app.command("export")(export.export)
app.command("report")(report.report)
app.command("reproduce")(reproduce.reproduce)
app.command("mix")(mix.mix)
app.command("adjust")(adjust.adjust)
app.command("methods")(lists.methods)
app.command("recipes")(lists.recipes)
app.command("options")(lists.options)
app.command("demo")(demo.demo)
app.add_typer(data.app, name="data")


def main() -> None:
    """Run the command line; mistakes end in one message and an exit status."""
    console = Console(stderr=True, soft_wrap=True)
    # of damaged EXIF blocks and large pictures: what cannot be used is refused in words of our own
    warnings.filterwarnings("ignore", module=r"PIL\.")
    status = 0
    try:
        app(standalone_mode=True)
    except LongtailError as error:
        if distributed.is_main():
            console.print(f"error: {error}", style="red", markup=False, highlight=False)
        status = error.exit_status
    except (RuntimeError, MemoryError) as error:
        if not is_memory_full(error):
            raise
        console.print(f"error: {MEMORY_FULL}", style="red", markup=False, highlight=False)
        status = 1
    except KeyboardInterrupt:
        status = INTERRUPTED
    except SystemExit as ended:
        # typer turns Ctrl-C into this status and its own usage errors into 2
        status = ended.code if isinstance(ended.code, int) else int(bool(ended.code))
    if status == INTERRUPTED and distributed.is_main():
        console.print("interrupted; a run can be continued with --resume", markup=False)
    distributed.stop()
    sys.exit(status)
