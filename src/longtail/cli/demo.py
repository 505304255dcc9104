"""`longtail demo`."""

from __future__ import annotations

import sys
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.live import Live

from longtail.cli.lines import console
from longtail.cli.show import score_table
from longtail.core.errors import ConfigError
from longtail.engine.fitting_tables import fit
from longtail.engine.log import PlainLog, SilentLog
from longtail.engine.pace import duration
from longtail.engine.run_folder import writing
from longtail.engine.terminal import can_redraw
from longtail.evaluation.metrics import LEAST_SEEDS
from longtail.evaluation.scores import percent
from longtail.runs import Run, training

if TYPE_CHECKING:
    from longtail.report.compare import Comparison

BENCHMARK = "digits-lt"
FIRST = "cross-entropy"
ON_ITS_REPRESENTATION = ("crt", "tau-normalisation")
OTHERS = ("balanced-softmax", "reslt", "paco", "do")


def demo(
    out: Annotated[Path | None, typer.Option(help="Folder for the runs.")] = None,
) -> None:
    """Train seven methods on long-tailed digits; takes one to three minutes on a CPU.

    Needs no network: the images are scikit-learn's handwritten digits. The most frequent digit
    has 120 training images, the rarest 3.
    """
    # what draws takes a second to import, which the other verbs need not wait for
    from longtail.report.compare import Comparison, render_comparison
    from longtail.report.view import RunView

    folder = out or Path("runs") / f"demo-{datetime.now():%Y-%m-%d-%H%M%S}"
    if folder.exists() and (folder.is_file() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is not an empty folder; choose another one with --out.")
    shown = console()
    shown.print("Seven trainings follow; on an idle CPU, they take one to three minutes in all.")
    runs = _train(folder)
    comparison = Comparison.of([RunView.open(run.folder.path, device="cpu") for run in runs])
    page = folder / "comparison.html"
    with writing(page) as file:
        file.write_text(render_comparison(comparison), encoding="utf-8")
    shown.print(_summary(comparison))
    shown.print(
        f"Open in a browser:                        {page}\n"
        "What next:\n"
        "  your own images, one folder per class:  longtail data inspect MY-IMAGES\n"
        "                                            longtail train MY-IMAGES\n"
        f"  one of these runs in detail:              longtail report {folder / OTHERS[0]}\n"
        "  everything that ships:                    longtail recipes",
    )


def _train(folder: Path) -> list[Run]:
    """Train every method; a terminal shows a table that grows, a log a line before and after each."""
    runs: list[Run] = []
    rows: list[tuple[str, dict[str, Any]]] = []
    start = f"from={folder / FIRST}"
    plan: list[tuple[str, list[str]]] = [(FIRST, [])]
    plan += [(name, [start]) for name in ON_ITS_REPRESENTATION]
    plan += [(name, []) for name in OTHERS]
    terminal = can_redraw(sys.stdout)
    log = PlainLog()
    with Live(console=console(), auto_refresh=False, transient=False) as live:
        for place, (name, overrides) in enumerate(plan, start=1):
            at, begun = f"[{place}/{len(plan)}]", time.monotonic()
            if terminal:
                live.console.print(f"{at} {name}")
            else:
                log.note(f"{at} training {name}")
            recipe = f"{BENCHMARK}/{name}"
            run = training.train(
                recipe, overrides, out=folder / name, log=SilentLog(), device="cpu"
            )
            runs.append(run)
            rows.append((name, run.scores("test")))
            if terminal:
                live.update(fit(score_table(rows), live.console.width), refresh=True)
            else:
                accuracy, took = rows[-1][1]["macro_accuracy"], time.monotonic() - begun
                log.note(f"{at} {name}: macro accuracy {percent(accuracy)} %, {duration(took)}")
    if not terminal:
        console().print(score_table(rows))
    return runs


def _summary(comparison: Comparison) -> str:
    """Say what these numbers show, and that one seed ranks no methods."""
    best = max(comparison.rows, key=lambda row: row["accuracy"]["all"]["value"])
    accuracy, images = percent(best["accuracy"]["all"]["value"]), len(comparison.labels)
    return (
        f"In this run, {best['name']} has the highest macro accuracy: {accuracy} % on {images:,} "
        "test images. One seed does not show which method is better; that takes at least "
        f"{LEAST_SEEDS} seeds."
    )
