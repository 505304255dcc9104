"""Tables and progress for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from longtail.core.groups import GROUP_NAMES
from longtail.data.config import Progress as DataProgress
from longtail.evaluation.scores import HEADLINES, headlines, percent

COLUMNS = ("micro", "macro", "worst class", "many", "medium", "few")


def console() -> Console:
    """Return standard output."""
    return Console(soft_wrap=True)


def say(text: str) -> None:
    """Print text as it is."""
    console().print(text, markup=False, highlight=False)


def score_table(rows: Sequence[tuple[str, dict[str, Any]]]) -> Table:
    """Return a table of headline accuracies in percent, one row per score file."""
    first = rows[0][1]
    sizes = [f"{first['groups'][name]['classes']}" for name in GROUP_NAMES]
    table = Table(title=f"accuracy in %, {first['split']} split, {first['selection']}")
    table.add_column("", overflow="fold")  # gives way first where the terminal is narrow
    for name, size in zip(COLUMNS, ["", "", "", *sizes], strict=True):
        heading = f"{name} ({size})" if size else name
        table.add_column(heading.replace(" ", "\n"), justify="right")
    for label, scores in rows:
        table.add_row(label, *(percent(value) for value in headlines(scores).values()))
    return table


def summary_table(summary: dict[str, Any]) -> Table:
    """Return mean, standard deviation and interval over seeds in percent."""
    seeds = summary["seeds"]
    table = Table(title=f"{summary['recipe']}: {len(seeds)} seeds, {summary['split']} split")
    for column in ("accuracy in %", "mean", "std", "95 % interval", "each seed"):
        table.add_column(column, justify="left" if column == "accuracy in %" else "right")
    for name, key in zip(COLUMNS, HEADLINES, strict=True):
        entry = summary[key]
        interval = entry["interval"]
        table.add_row(
            name,
            percent(entry["mean"]),
            percent(entry["std"]),
            f"{percent(interval[0])} to {percent(interval[1])}" if interval else "-",
            "  ".join(percent(value) for value in entry["values"]),
        )
    return table


def comparison_table(rows: Sequence[tuple[str, dict[str, Any]]]) -> Table:
    """Return one row per variant: mean over its seeds, with the standard deviation if there is one."""
    first = rows[0][1]
    seeds = len(first["seeds"])
    table = Table(
        title=f"accuracy in %, {first['split']} split, "
        + (f"mean and standard deviation of {seeds} seeds" if seeds > 1 else "one seed")
    )
    table.add_column("", overflow="fold")  # gives way first where the terminal is narrow
    for name in COLUMNS:
        table.add_column(name.replace(" ", "\n"), justify="right")
    for label, summary in rows:
        cells = []
        for key in HEADLINES:
            std = summary[key]["std"]
            spread = "" if std is None else f" ±{percent(std)}"
            cells.append(percent(summary[key]["mean"]) + spread)
        table.add_row(label, *cells)
    return table


@contextmanager
def checking() -> Iterator[DataProgress]:
    """Yield a callback that shows a bar on a terminal while picture files are read."""
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = None

        def report(done: int, size: int) -> None:
            nonlocal task
            if task is None:
                task = bar.add_task("reading pictures", total=size)
            bar.update(task, completed=done)

        yield report
