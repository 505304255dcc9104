"""`longtail demo`."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.live import Live

from longtail import api
from longtail.cli.show import console, score_table
from longtail.core.errors import ConfigError
from longtail.engine.log import SilentLog
from longtail.engine.run_folder import writing
from longtail.report.text import listing

if TYPE_CHECKING:
    from longtail.report.compare import Comparison

BENCHMARK = "digits-lt"
FIRST = "cross-entropy"
ON_ITS_REPRESENTATION = ("crt", "tau-normalisation")
OTHERS = ("balanced-softmax", "reslt", "paco", "do")


def demo(
    out: Annotated[Path | None, typer.Option(help="Folder for the runs.")] = None,
) -> None:
    """Train seven methods on long-tailed digits, in one to three minutes on a CPU.

    Needs no network: the pictures are scikit-learn's handwritten digits, cut so that the most
    frequent digit has 120 training pictures and the rarest 3.
    """
    # what draws takes a second to import, which the other verbs need not wait for
    from longtail.report.compare import Comparison, render_comparison
    from longtail.report.view import RunView

    folder = out or Path("runs") / f"demo-{datetime.now():%Y-%m-%d-%H%M%S}"
    if folder.exists() and (folder.is_file() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is no empty folder; choose another with --out.")
    shown = console()
    runs = _train(folder)
    comparison = Comparison.of([RunView.open(run.folder.path, device="cpu") for run in runs])
    page = folder / "comparison.html"
    with writing(page) as file:
        file.write_text(render_comparison(comparison), encoding="utf-8")
    shown.print(_summary(comparison), markup=False, highlight=False)
    shown.print(
        f"Look at it:                               {page}\n"
        "What next:\n"
        "  your own pictures, one folder per class:  longtail data inspect MY-PICTURES\n"
        "                                            longtail train MY-PICTURES\n"
        f"  one of these runs in detail:              longtail report {folder / OTHERS[0]}\n"
        "  everything that ships:                    longtail recipes",
        markup=False,
        highlight=False,
    )


def _train(folder: Path) -> list[api.Run]:
    """Train every method and show a table that grows; in a log, only the last state."""
    runs: list[api.Run] = []
    start = f"from={folder / FIRST}"
    plan: list[tuple[str, list[str]]] = [(FIRST, [])]
    plan += [(name, [start]) for name in ON_ITS_REPRESENTATION]
    plan += [(name, []) for name in OTHERS]
    terminal = sys.stdout.isatty()
    with Live(console=console(), auto_refresh=False, transient=False) as live:
        for place, (name, overrides) in enumerate(plan, start=1):
            if terminal:
                live.console.print(f"[{place}/{len(plan)}] {name}", markup=False, highlight=False)
            recipe = f"{BENCHMARK}/{name}"
            run = api.train(recipe, overrides, out=folder / name, log=SilentLog(), device="cpu")
            runs.append(run)
            rows = [(r.folder.path.name, r.scores("test")) for r in runs]
            live.update(score_table(rows), refresh=terminal or place == len(plan))
    if not terminal:
        console().print()
    return runs


def _summary(comparison: Comparison) -> str:
    """Say honestly what these numbers show."""
    from longtail.report.compare import judged

    rows = comparison.rows
    best = max(rows, key=lambda row: row["accuracy"]["all"]["value"])
    sure = [r["name"] for r in rows[1:] if judged(r["difference"]["all"]) > 0]
    text = f"Highest class-averaged accuracy here: {best['name']}. "
    text += (
        f"Better than {rows[0]['name']} with a 95 % interval: {listing(sure)}. "
        if sure
        else f"No interval of a difference to {rows[0]['name']} lies above 0. "
    )
    return text + "One seed and 500 test pictures of 8 x 8 pixels decide nothing beyond this page."
