"""`longtail calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from longtail.cli.lines import completing, console, say
from longtail.cli.prior import read_hierarchy
from longtail.cli.show import checking
from longtail.core.errors import ConfigError
from longtail.core.groups import GROUP_NAMES
from longtail.evaluation.scores import percent
from longtail.prediction.calibration import ALL, SCORES, Described
from longtail.runs import Run
from longtail.runs.calibrating import GROUPED, MEASURED, SET_SIZE, Wish, describe
from longtail.runs.calibrating import calibrate as find_out


def calibrate(
    run: Annotated[Path, typer.Argument(help="Run folder with a val split.")],
    precision: Annotated[
        float,
        typer.Option(
            help="Precision that accepted predictions should reach (share of correct ones). Choose it "
            "before you see val."
        ),
    ] = 0.95,
    coverage: Annotated[
        float,
        typer.Option(
            help="Coverage of the prediction sets (share of images whose set contains their class)."
        ),
    ] = 0.9,
    alarm: Annotated[
        float, typer.Option(help="Share of images of known classes that may be flagged as unusual.")
    ] = 0.05,
    hierarchy: Annotated[
        Path | None,
        typer.Option(help="CSV of class and parent (and parents of parents), for coarser names."),
    ] = None,
    sets: Annotated[
        str,
        typer.Option(
            help="Kind of prediction sets: lac (smallest) or aps (larger where the model is unsure).",
            autocompletion=completing(SCORES),
        ),
    ] = "lac",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or mps.")] = None,
) -> None:
    """Find out on val which predictions not to trust, for predict, report and export.

    This computes a reject threshold for each shot group (a confidence bound shows that it reaches the
    requested precision), a prediction set for each image (with a guarantee for each class), a warning for
    images that are far from all training images and, with --hierarchy, the finest coarser name that is
    reliable. Everything is chosen on val, measured on test, and written to calibration.safetensors in the
    run folder; running the command again replaces it.

    Examples:

      longtail calibrate runs/my-run

      longtail calibrate runs/my-run --precision 0.9 --hierarchy species.csv
    """
    for name, value in (("precision", precision), ("coverage", coverage), ("alarm", alarm)):
        if not 0 < value < 1:
            raise ConfigError(
                f"--{name} must be a share between 0 and 1, such as 0.9, but got {value:g}."
            )
    opened = Run.open(run)
    parents = None if hierarchy is None else read_hierarchy(hierarchy)
    wish = Wish(precision, coverage, alarm, "aps" if sets == "aps" else "lac", parents)
    with checking() as progress:
        found = find_out(opened, wish, device=device, progress=progress).described
    for line in describe(found):
        say(line)
    if found.measured:
        console().print(_table(found))
    say(f"written to {opened.folder.calibration}; predict, report and export will use it")


def _table(found: Described) -> Table:
    """Return what was measured on test, with intervals."""
    table = Table(
        title="measured on test, in %, with 95 % intervals",
        caption=GROUPED,
    )
    groups = [name for name in (ALL, *GROUP_NAMES) if found.measured[name]["images"]]
    table.add_column("")
    for name in groups:
        table.add_column(name if name == ALL else f"{name} shot", justify="right")
    for what, share, hits, of in MEASURED:
        if hits == "right_ancestors" and not found.parents:
            continue
        rows = [found.measured[name] for name in groups]
        table.add_row(what, *(f"{_cell(row[share])}\n{row[hits]:,} of {row[of]:,}" for row in rows))
    sizes = [found.measured[name]["set_size"] for name in groups]
    table.add_row(SET_SIZE, *("-" if size is None else f"{size:.1f}" for size in sizes))
    return table


def _cell(share: dict[str, Any]) -> str:
    if share["value"] is None:
        return "-"
    low, high = share["interval"]
    return f"{percent(share['value'])} [{percent(low)}, {percent(high)}]"
