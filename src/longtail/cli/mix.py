"""`longtail mix`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from longtail import joining
from longtail.cli.show import console, say
from longtail.core.errors import ConfigError
from longtail.core.groups import GROUP_NAMES
from longtail.core.manifest import SPLITS
from longtail.engine.run_folder import require_writable
from longtail.evaluation.scores import percent
from longtail.runs import Run, append_record


def mix(
    runs: Annotated[list[Path], typer.Argument(help="Run folders; several are one ensemble.")],
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    views: Annotated[
        str, typer.Option(help="mirror, or the policy of two random views (sade).")
    ] = "mirror",
    record: Annotated[
        Path | None, typer.Option(help="Append everything to this JSON lines file.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or mps.")] = None,
) -> None:
    """Score every way to join the sub-models of a run, or several runs.

    Averages, weights per picture and for all pictures together (test-time learning of DO and SADE), a
    stacking where there is a val split, and the oracles that bound them. Each line says what it may see.

    Examples:

      longtail mix runs/do

      longtail mix runs/cross-entropy runs/balanced-softmax --views sade
    """
    if split not in SPLITS:
        raise ConfigError(f"--split must be one of {', '.join(SPLITS)}, but got {split!r}.")
    if record is not None:
        require_writable(record)
    opened = [Run.open(run) for run in runs]
    line = joining.mixtures(opened, split, views=views, device=device)
    console().print(_table(line))
    if record is not None:
        append_record(record, line)
        say(f"appended to {record}")


def _table(line: dict[str, Any]) -> Table:
    rows = line["mixtures"]
    table = Table(title=f"accuracy in %, {line['split']} split, views: {line['views']}")
    for column in ("mixture", "sees"):
        table.add_column(column)
    for column in ("macro", *GROUP_NAMES, "seconds"):
        table.add_column(column, justify="right")
    for row in rows:
        values = [percent(row[name]) for name in ("accuracy", *GROUP_NAMES)]
        table.add_row(row["name"], row["sees"], *values, f"{row['seconds']:.2f}")
    return table
