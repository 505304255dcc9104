"""`longtail demo`."""

import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from longtail import api
from longtail.cli.show import console, score_table
from longtail.engine.log import SilentLog, TerminalLog

RECIPES = ("digits-lt/cross-entropy", "digits-lt/balanced-softmax")


def demo(
    out: Annotated[Path | None, typer.Option(help="Folder for the runs.")] = None,
) -> None:
    """Train cross-entropy and balanced softmax on long-tailed digits, in under a minute on a CPU.

    Needs no network: the pictures are scikit-learn's handwritten digits, cut so that the most
    frequent digit has 120 training pictures and the rarest 3.
    """
    folder = out or Path("runs") / f"demo-{datetime.now():%Y-%m-%d-%H%M%S}"
    shown = console()
    rows = []
    for recipe in RECIPES:
        shown.print(f"training {recipe} ...", markup=False, highlight=False)
        name = recipe.partition("/")[2]
        log = TerminalLog() if sys.stderr.isatty() else SilentLog()
        run = api.train(recipe, out=folder / name, log=log)
        rows.append((name, run.scores("test")))
    shown.print(score_table(rows))
    gain = {
        name: 100
        * (rows[1][1]["groups"][name]["accuracy"] - rows[0][1]["groups"][name]["accuracy"])
        for name in ("many", "few")
    }
    shown.print(
        f"Balanced softmax changes few-shot classes by {gain['few']:+.1f} points and many-shot "
        f"classes by {gain['many']:+.1f} (one seed, 500 test pictures).",
        highlight=False,
    )
    shown.print(
        "What next:\n"
        "  your own pictures, one folder per class:  longtail data inspect MY-PICTURES\n"
        "                                            longtail train MY-PICTURES\n"
        "  everything that ships:                    longtail recipes\n"
        f"  what these runs left:                     {folder}",
        markup=False,
        highlight=False,
    )
