"""Tables and progress for people."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from longtail.core import distributed
from longtail.core.groups import GROUP_NAMES
from longtail.core.names import visible
from longtail.core.words import counted
from longtail.data.preparation import Phases
from longtail.data.preparation import Progress as DataProgress
from longtail.engine.pace import told_at_times
from longtail.engine.terminal import Terminal
from longtail.evaluation.metrics import LEAST_SEEDS
from longtail.evaluation.scores import (
    ALL,
    HEADLINES,
    LEAST_IMAGES,
    headlines,
    image_counts,
    percent,
    worst_class,
)
from longtail.runs import Run
from longtail.runs.ensemble_folder import member_folders

COLUMNS = ("micro", "macro", "worst class", "many", "medium", "few")
NEEDS_SEEDS = f"needs at least {LEAST_SEEDS} seeds"


def print_notes(runs: Sequence[Path]) -> None:
    """Tell what a user should know about run folders, on standard error: the output may be a table."""
    folders = [folder for run in runs for folder in member_folders(run)]
    notes = dict.fromkeys(note for folder in folders for note in Run.open(folder).notes)
    for note in notes:
        Terminal(stderr=True).print(f"note: {note}")


def score_table(rows: Sequence[tuple[str, dict[str, Any]]]) -> Table:
    """Return a table of headline accuracies in percent, one row per score file.

    The heading says of each group how many classes it has and on how many images its accuracy rests. A single
    score file is followed by its sub-models and their mixtures, where it has any.
    """
    first = rows[0][1]
    images = image_counts(first)
    table = Table(
        title=f"accuracy in %, {first['split']} split, {first['selection']}", caption=_worst(rows)
    )
    table.add_column("")
    whole = f"{images[ALL]:,}\nimages"
    headings = [f"micro\n{whole}", f"macro\n{whole}", "worst\nclass"]
    for name in GROUP_NAMES:
        size = counted(first["groups"][name]["classes"], "class", "classes")
        headings.append(f"{name}\n{size}\n{counted(images[name], 'image', 'images')}")
    for heading in headings:
        table.add_column(heading, justify="right")
    for label, scores in rows:
        table.add_row(label, *(percent(value) for value in headlines(scores).values()))
    for mixture in first.get("mixtures", ()) if len(rows) == 1 else ():
        groups = (percent(mixture[name]) for name in GROUP_NAMES)
        oracle = mixture["sees"] == "oracle"
        name = f"  {mixture['name']}{' (an upper bound, not a result)' * oracle}"
        table.add_row(name, "", percent(mixture["accuracy"]), "", *groups)
    return table


def interval_table(scores: dict[str, Any]) -> Table:
    """Return the accuracies of one score file with `intervals`, in percent, with their 95 % intervals."""
    table = Table(
        title=f"accuracy in %, {visible(scores['split'])}, {scores['selection']}",
        # that it is not measurable is among the notes
        caption=None if worst_class(scores["per_class"]) is None else _worst([("", scores)]),
    )
    for name in ("", "classes", "images", "accuracy", "95 % interval"):
        table.add_column(name, justify="left" if not name else "right")
    found = scores["intervals"]

    def row(what: str, size: str, entry: dict[str, Any]) -> None:
        limits, classes = entry["interval"], f"{entry['classes']:,} of {size}"
        interval = "-" if limits is None else f"{percent(limits[0])} to {percent(limits[1])}"
        table.add_row(what, classes, f"{entry['images']:,}", percent(entry["value"]), interval)

    whole = f"{scores['num_classes']:,}"
    of_all = {"value": scores["accuracy"], "interval": scores["accuracy_interval"]}
    row("micro", whole, found[ALL] | of_all)
    row("macro", whole, found[ALL])
    if "prior" in found:  # what is to be expected where classes have the shares of the prior
        row("weighted by the prior", whole, found["prior"])
    for name in GROUP_NAMES:
        row(f"{name} shot", f"{scores['groups'][name]['classes']:,}", found[name])
    return table


def _worst(rows: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """Say which class is the worst, and on how many images that rests."""
    found = [worst_class(scores["per_class"]) for _, scores in rows]
    known = [worst for worst in found if worst is not None]
    if not known:
        return f"worst class: not measurable, because no class has {LEAST_IMAGES} images"
    if len(rows) == 1:
        return (
            f"worst class (of those with at least {LEAST_IMAGES} images): "
            f"{visible(known[0]['name'])}, {known[0]['test_count']:,} images"
        )
    least = min(worst["test_count"] for worst in known)
    return (
        f"worst class: among those with at least {LEAST_IMAGES} images; here each has at least "
        f"{least:,}"
    )


def summary_table(summary: dict[str, Any]) -> Table:
    """Return mean, standard deviation and interval over seeds in percent."""
    seeds = summary["seeds"]
    table = Table(
        title=f"{summary['recipe']}: {len(seeds)} seeds, {summary['split']} split",
        caption=None if len(seeds) >= LEAST_SEEDS else f"no interval: {NEEDS_SEEDS}",
    )
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
    table.add_column("")
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
def checking(what: str = "reading images") -> Iterator[DataProgress]:
    """Yield a callback that shows how far it is, while image files are read if nothing else is said.

    On a terminal, a bar that goes away when all are read: what comes next has its own. Elsewhere, a line soon
    and then every half minute.
    """
    out = Terminal(stderr=True, soft_wrap=False)
    if not out.is_terminal:
        yield _lines(what) if distributed.is_main() else lambda done, size: None
        return
    bar = Progress(console=out, transient=True)
    task = bar.add_task(what, total=None)

    def report(done: int, size: int) -> None:
        bar.update(task, completed=done, total=size)
        if done >= size:
            bar.stop()
        elif not bar.live.is_started:
            bar.start()

    try:
        yield report
    finally:
        bar.stop()


def _lines(what: str) -> DataProgress:
    """Return what tells, for a log, how far each pass over images is."""
    out = Terminal(stderr=True)
    before, since, tell = math.inf, 0.0, told_at_times(out.print, what)

    def report(done: int, size: int) -> None:
        nonlocal before, since, tell
        if done < before:  # a pass begins
            since, tell = time.perf_counter(), told_at_times(out.print, what)
        elif done:
            tell(done, size, time.perf_counter() - since)
        before = done

    return report


@contextmanager
def phases() -> Iterator[Phases]:
    """Yield a callback that shows what takes long, how far it is, and since when.

    On a terminal, a bar each. Elsewhere, lines as `checking` prints them, of what is done image by image.
    """
    out = Terminal(stderr=True, soft_wrap=False)
    if not out.is_terminal:
        told: dict[str, DataProgress] = {}

        def tell(what: str, done: int, size: int) -> None:
            if size > 1:  # of a single step nobody knows how far it is
                told.setdefault(what, _lines(what))(done, size)

        yield tell
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=out, transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def report(what: str, done: int, size: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=size or None)
            bar.update(tasks[what], completed=done, total=size or None)

        yield report
