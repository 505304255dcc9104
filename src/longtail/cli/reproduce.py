"""`longtail reproduce`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markdown import Markdown

from longtail import api
from longtail.cli.at_once import AT_ONCE, train_at_once, wants_company
from longtail.cli.show import console, say
from longtail.core.errors import ConfigError
from longtail.engine.log import default_log
from longtail.engine.run_folder import require_writable, writing
from longtail.recipes import RunConfig
from longtail.reproduce import (
    PROFILES,
    PaperTable,
    Records,
    Row,
    measured_rows,
    read_table,
    render,
    schedule_of,
    table_names,
)
from longtail.runs import append_record

if TYPE_CHECKING:
    from longtail.report.dots import DotRow


def complete_table(incomplete: str) -> list[str]:
    """Complete the name of a table."""
    return [name for name in table_names() if name.startswith(incomplete)]


def reproduce(
    table: Annotated[
        str | None,
        typer.Argument(
            help="Shipped table or YAML file; all are listed without one.",
            autocompletion=complete_table,
        ),
    ] = None,
    profile: Annotated[str, typer.Option(help="full (the paper's) or short (40 epochs).")] = "full",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of every row.")] = 3,
    only: Annotated[list[str] | None, typer.Option(help="Train these rows only.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs/reproduce"),
    results: Annotated[Path, typer.Option(help="Folder of the records.")] = Path("results"),
    page: Annotated[
        Path | None, typer.Option(help="Write the table to this Markdown file.")
    ] = None,
    *,
    figure: Annotated[
        Path | None,
        typer.Option(
            help="Draw the rows that have a record, by shot group, to this SVG or PNG file."
        ),
    ] = None,
    show: Annotated[
        bool, typer.Option("--show", help="Train nothing; render what is recorded.")
    ] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or mps.")] = None,
    at_once: Annotated[int | None, typer.Option(min=1, help=AT_ONCE)] = None,
) -> None:
    """Train the rows of a paper's table and set our numbers beside the paper's.

    Rows and seeds that have a record are passed over, and interrupted runs are continued, so the
    command can be stopped and started again. A row that starts from another one's first stage waits for it.

    Examples:

      longtail reproduce

      longtail reproduce baselines-cifar100 --profile short --seeds 2 --at-once 2

      longtail reproduce reslt-table-5 --show

      longtail reproduce overview-cifar100 --profile short --show --figure overview.svg
    """
    if profile not in PROFILES:
        raise ConfigError(f"--profile must be one of {', '.join(PROFILES)}, not {profile!r}.")
    if figure is not None and figure.suffix not in (".svg", ".png"):
        raise ConfigError(f"--figure must end in .svg or .png, not {str(figure)!r}.")
    if table is None:
        for name in table_names():
            say(f"{name}: {read_table(name).title}")
        return
    wanted = read_table(table)
    if not show:
        name = Path(table).stem
        record, rows = results / f"reproduce-{name}.jsonl", _chosen(wanted, only)
        for file in filter(None, (record, page, figure)):
            require_writable(file)
        jobs = _jobs(wanted, rows, profile, seeds, out / name / profile, results)
        _train(jobs, record, at_once, device)
    records = _records(results)
    text = render(wanted, profile, records)
    if figure is not None:
        from longtail.report.dots import write_dots

        write_dots(*dots_of(wanted, profile, records), figure)
    if page is not None:
        with writing(page) as file:
            file.write_text(text, encoding="utf-8")
    console().print(Markdown(text))


def dots_of(table: PaperTable, profile: str, records: Records) -> tuple[str, list[DotRow]]:
    """Return title and rows of the picture of what is measured of a table.

    Raises:
        ConfigError: If no row has a record.
    """
    from longtail.report.dots import DotRow

    rows = [
        DotRow(row.name, row.schedule, accuracy)
        for row, accuracy in measured_rows(table, profile, records)
    ]
    if not rows:
        raise ConfigError(
            f"No row has a record of the {profile} profile in these results, so there is nothing to draw."
        )
    return f"{table.title}\n{schedule_of(table, profile)}", rows


def _chosen(table: PaperTable, only: list[str] | None) -> list[Row]:
    names = [row.name for row in table.rows]
    if unknown := [name for name in only or () if name not in names]:
        raise ConfigError(f"The table has no row {', '.join(unknown)}; it has: {'; '.join(names)}.")
    return [row for row in table.rows if only is None or row.name in only]


@dataclass(frozen=True)
class _Job:
    """A seed of a row that has no record yet, and the run whose first stage it takes."""

    title: str
    config: RunConfig
    after: Path | None


def _jobs(
    table: PaperTable,
    rows: Sequence[Row],
    profile: str,
    seeds: int,
    folder: Path,
    results: Path,
) -> dict[Path, _Job]:
    """Return what must be trained, by run folder; a run that another one starts from comes first."""
    jobs: dict[Path, _Job] = {}
    seen: list[RunConfig] = []  # rows may share a configuration
    recorded = _records(results)
    for row in rows:
        config = row.config(profile)
        if config in seen:
            continue
        seen.append(config)
        done = {evidence.seed for evidence in recorded.of(config)}
        for seed in (s for s in range(seeds) if s not in done):
            changes: dict[str, object] = {"seed": seed}
            if table.best_on_test and profile == "full":
                changes["watch_test"] = True
            updates: dict[str, object] = {"training": config.training.model_copy(update=changes)}
            title, after = f"{row.name}, seed {seed}", None
            if row.start:
                source = folder / slug(row.start)
                after = source / f"seed-{seed}"
                if after in jobs or (after / "checkpoints").exists():
                    updates["start"] = str(source)
                else:
                    title += f"; trains its own first stage, because {after} does not exist"
            place = folder / slug(row.name) / f"seed-{seed}"
            jobs[place] = _Job(title, config.model_copy(update=updates), after)
    return jobs


def _train(jobs: dict[Path, _Job], record: Path, at_once: int | None, device: str | None) -> None:
    """Train, and record every run when it ends."""
    if wants_company(at_once, len(jobs), device):
        for job in jobs.values():
            say(job.title)
        configs = {place: job.config for place, job in jobs.items()}
        after = {place: job.after for place, job in jobs.items() if job.after is not None}
        for run in train_at_once(
            configs, at_once, after=after, resume=True, device=device, note=say
        ):
            append_record(record, api.record(run))
        return
    for place, job in jobs.items():
        say(job.title)
        run = api.train(job.config, out=place, resume=True, device=device, log=default_log(place))
        append_record(record, api.record(run))


def _records(results: Path) -> Records:
    return Records(sorted(results.glob("*.jsonl")))


def slug(name: str) -> str:
    """Return the folder of a table's or row's runs."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
