"""The command line, one file a verb: it reads arguments and writes lines, and computes nothing itself.

This file and `verbs` import nothing that takes long: help, the version, completion and hints come at once.
"""

from __future__ import annotations

import errno
import io
import signal
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

import longtail
from longtail.cli.verbs import Verbs, on_ctrl_c
from longtail.core.errors import LongtailError
from longtail.core.interrupts import folder_to_continue

LONGEST_MESSAGE = 5000  # characters
LONGEST_NAME = 200
INTERRUPTED = 128 + signal.SIGINT  # the shell's status for Ctrl-C

app = typer.Typer(
    cls=Verbs,
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

    For when most classes have few images. New here? Run: longtail demo
    """
    if version:
        typer.echo(f"longtail {longtail.__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line; mistakes end in one message and an exit status."""
    _write_what_can_be_shown()
    # of damaged EXIF blocks and large images: what cannot be used is refused in words of our own
    warnings.filterwarnings("ignore", module=r"PIL\.")
    status = 0
    told: str | None = None
    folder: Path | None = None
    try:
        app(standalone_mode=True)
    except (LongtailError, RuntimeError, MemoryError, OSError) as error:
        status, told = _told(error)
        if told is None:
            raise
    except KeyboardInterrupt as error:
        status, folder = INTERRUPTED, folder_to_continue(error)
    except SystemExit as ended:
        # typer turns Ctrl-C into this status and its own usage errors into 2
        status = ended.code if isinstance(ended.code, int) else int(bool(ended.code))
        folder = folder_to_continue(ended)
    if status == INTERRUPTED:
        told = on_ctrl_c(sys.argv[1:], folder)
    _end(told, everywhere=status != INTERRUPTED)
    sys.exit(status)


def _told(error: Exception) -> tuple[int, str | None]:
    """Return the exit status and what a user is told of an error; None if it is a mistake of ours."""
    from longtail.core.words import shortened

    # names from files and arguments may be of any length
    told = f"error: {shortened(str(error), LONGEST_MESSAGE)}"
    if isinstance(error, LongtailError) and sys.modules.get("torch") is None:
        return error.exit_status, told
    from longtail.core import distributed
    from longtail.engine.hardware import MEMORY_FULL, is_memory_full

    if isinstance(error, LongtailError):
        return error.exit_status, told if distributed.is_main() else ""
    if isinstance(error, OSError):
        if error.errno != errno.ENAMETOOLONG:
            return 1, None
        name = shortened(str(error.filename), LONGEST_NAME)
        return 2, f"error: {name} is too long for a file name."
    if distributed.is_lost(error):
        return 1, f"error: {distributed.LOST}"
    return 1, f"error: {MEMORY_FULL}" if is_memory_full(error) else None


def _end(told: str | None, *, everywhere: bool) -> None:
    """Print a last message, in every process of a training or in the first, and leave their group."""
    if sys.modules.get("torch") is None:  # no verb was at work
        if told:
            typer.echo(told, err=True)
        return
    from longtail.core import distributed
    from longtail.engine.terminal import Terminal

    if told and (everywhere or distributed.is_main()):
        Terminal(stderr=True).print(told, style="red" if told.startswith("error:") else None)
    distributed.stop()


def _write_what_can_be_shown() -> None:
    """Let output escape the characters that its encoding lacks (a console in cp1252, say) and not fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
