"""`longtail reproduce`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.markdown import Markdown

from longtail.cli.lines import console, say
from longtail.cli.submit import FOLDER, SLURM, SUBMIT, Cluster, Submission
from longtail.core.errors import ConfigError
from longtail.data.sources.folder_contents import refuse_images_among_runs
from longtail.engine.run_folder import require_writable, writing
from longtail.recipes import RunConfig
from longtail.reproduce import (
    PROFILES,
    PaperTable,
    Records,
    Row,
    read_table,
    render,
    table_names,
)
from longtail.reproduce.tables import slug
from longtail.run_queue.budget import BUDGET, Budget, seconds_of, what_is_left
from longtail.run_queue.jobs import Job, by_folder, train_queue
from longtail.run_queue.parallel import PARALLEL
from longtail.runs import records


def complete_table(incomplete: str) -> list[str]:
    """Complete the name of a table."""
    return [name for name in table_names() if name.startswith(incomplete)]


def reproduce(
    table: Annotated[
        str | None,
        typer.Argument(
            help="Shipped table or YAML file; if not given, all tables are listed.",
            autocompletion=complete_table,
        ),
    ] = None,
    profile: Annotated[str, typer.Option(help="full (the paper's) or short (40 epochs).")] = "full",
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds per row.")] = 3,
    only: Annotated[list[str] | None, typer.Option(help="Train only these rows.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the runs.")] = Path("runs/reproduce"),
    results: Annotated[Path, typer.Option(help="Folder of the records.")] = Path("results"),
    page: Annotated[
        Path | None, typer.Option(help="Write the table to this Markdown file.")
    ] = None,
    *,
    figure: Annotated[
        Path | None,
        typer.Option(help="Draw the recorded rows, by shot group, to this SVG or PNG file."),
    ] = None,
    show: Annotated[
        bool, typer.Option("--show", help="Train nothing; only show what is recorded.")
    ] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or mps.")] = None,
    parallel: Annotated[int | None, typer.Option(min=1, help=PARALLEL)] = None,
    budget: Annotated[str | None, typer.Option(help=BUDGET)] = None,
    submit: Annotated[Cluster | None, typer.Option(help=SUBMIT)] = None,
    slurm: Annotated[list[str] | None, typer.Option(help=SLURM)] = None,
) -> None:
    """Train the rows of a paper's table and compare our numbers with the paper's.

    Rows and seeds that have a record are skipped, and interrupted runs are continued, so you can stop the
    command and start it again. A row that reuses the first stage of another row waits for it.

    Examples:

      longtail reproduce

      longtail reproduce baselines-cifar100 --profile short --seeds 2 --parallel 2

      longtail reproduce do-table-1 --profile full --parallel 2 --budget 150m

      longtail reproduce reslt-table-5 --submit slurm --slurm time=240 --slurm partition=gpu

      longtail reproduce reslt-table-5 --show

      longtail reproduce overview-cifar100 --profile short --show --figure overview.svg
    """
    _check(profile, figure, submit, budget)
    limit = None if budget is None else Budget(time.monotonic() + seconds_of(budget))
    if table is None:
        _list_tables()
        return
    wanted, jobs, name = read_table(table), dict[Path, Job](), Path(table).stem
    if not show:
        record, rows = results / f"reproduce-{name}.jsonl", _chosen(wanted, only)
        for file in filter(None, (record, page, figure)):
            require_writable(file)
        refuse_images_among_runs(out)
        place = out / name / profile
        jobs = jobs_of(wanted, rows, profile, seeds, place, results)
        if submission := Submission.asked(submit, slurm, place / FOLDER, device, parallel):
            _submit(jobs, record, submission)
        else:
            for run in train_queue(jobs, parallel, device, limit, note=say):
                records.append_record(record, records.record(run))
    recorded = _records(results)
    text = render(wanted, profile, recorded)
    if figure is not None:
        _draw(wanted, profile, recorded, figure)
    if page is not None:
        with writing(page) as file:
            file.write_text(text, encoding="utf-8")
    console().print(Markdown(text))
    if show:
        _note_if_empty(results)
    elif limit is not None:
        left = {place: job.config for place, job in jobs.items() if place in limit.left}
        say(what_is_left(left, parallel or 1))


def _draw(table: PaperTable, profile: str, recorded: Records, figure: Path) -> None:
    from longtail.report.dots import dots
    from longtail.reproduce.figure import dots_of

    dots(*dots_of(table, profile, recorded)).write(figure)


def _list_tables() -> None:
    for name in table_names():
        say(f"{name}: {read_table(name).title}")


def _check(profile: str, figure: Path | None, submit: Cluster | None, budget: str | None) -> None:
    if profile not in PROFILES:
        raise ConfigError(f"--profile must be one of {', '.join(PROFILES)}, not {profile!r}.")
    if figure is not None and figure.suffix not in (".svg", ".png"):
        raise ConfigError(f"--figure must end in .svg or .png, not {str(figure)!r}.")
    if submit is not None and budget is not None:
        raise ConfigError(
            "--budget is for runs of this machine; with --submit, say --slurm time=MINUTES."
        )


def _chosen(table: PaperTable, only: list[str] | None) -> list[Row]:
    names = [row.name for row in table.rows]
    if unknown := [name for name in only or () if name not in names]:
        raise ConfigError(f"The table has no row {', '.join(unknown)}; it has: {'; '.join(names)}.")
    return [row for row in table.rows if only is None or row.name in only]


def jobs_of(
    table: PaperTable,
    rows: Sequence[Row],
    profile: str,
    seeds: int,
    folder: Path,
    results: Path,
) -> dict[Path, Job]:
    """Return what must be trained, by run folder; a run that another one starts from comes first."""
    jobs: dict[Path, Job] = {}
    trained: list[RunConfig] = []  # rows may share a configuration, and then a folder
    first = {row.name: row.config(profile) for row in table.rows}
    recorded = _records(results)
    for row in rows:
        config = first[row.name]
        if config in trained:
            continue
        trained.append(config)
        name = next(other for other, same in first.items() if same == config)
        done = {evidence.seed for evidence in recorded.of(config)}
        for seed in (s for s in range(seeds) if s not in done):
            changes: dict[str, object] = {"seed": seed}
            if table.best_on_test and profile == "full":
                changes["watch_test"] = True
            updates: dict[str, object] = {"training": config.training.model_copy(update=changes)}
            title, after = f"{name}, seed {seed}", None
            if row.start:
                source = folder / slug(row.start)
                after = source / f"seed-{seed}"
                if after in jobs or (after / "checkpoints").exists():
                    updates["start"] = str(source)
                else:
                    title += f"; trains its own first stage, because {after} does not exist"
            place = folder / slug(name) / f"seed-{seed}"
            jobs[place] = Job(title, config.model_copy(update=updates), after)
    return jobs


def _submit(jobs: dict[Path, Job], record: Path, submission: Submission) -> None:
    """Submit, and record the runs that are finished."""
    for job in jobs.values():
        say(job.title)
    for run in submission.train(*by_folder(jobs)):
        records.append_record(record, records.record(run))


def _records(results: Path) -> Records:
    return Records(sorted(results.glob("*.jsonl")))


def _note_if_empty(results: Path) -> None:
    """Say that a folder without records is why nothing counts as measured."""
    if not any(results.glob("*.jsonl")):
        say(
            f"note: {results} contains no records (*.jsonl); name the folder of the records with "
            "--results."
        )
