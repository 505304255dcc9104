"""`longtail reproduce`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer
from rich.markdown import Markdown

from longtail import api
from longtail.cli.show import console
from longtail.core.errors import ConfigError
from longtail.engine.log import default_log
from longtail.engine.run_folder import RunFolder, writing
from longtail.recipes import RunConfig
from longtail.reproduce import (
    PROFILES,
    PaperTable,
    Row,
    find_evidence,
    read_table,
    render,
    table_names,
)
from longtail.runs import append_record


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
    show: Annotated[
        bool, typer.Option("--show", help="Train nothing; render what is recorded.")
    ] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or mps.")] = None,
) -> None:
    """Train the rows of a paper's table and set our numbers beside the paper's.

    Rows and seeds that have a record are passed over, and interrupted runs are continued, so the
    command can be stopped and started again.

    Examples:

      longtail reproduce

      longtail reproduce baselines-cifar100 --profile short --seeds 2

      longtail reproduce reslt-table-5 --show
    """
    if profile not in PROFILES:
        raise ConfigError(f"--profile must be one of {', '.join(PROFILES)}, not {profile!r}.")
    if table is None:
        for name in table_names():
            console().print(f"{name}: {read_table(name).title}", markup=False, highlight=False)
        return
    wanted = read_table(table)
    if not show:
        name = Path(table).stem
        record = results / f"reproduce-{name}.jsonl"
        watch = wanted.best_on_test and profile == "full"
        for row in _chosen(wanted, only):
            config = row.config(profile)
            if watch:
                training = config.training.model_copy(update={"watch_test": True})
                config = config.model_copy(update={"training": training})
            _train(row, config, seeds, out / name / profile, record, results, device)
    text = render(wanted, profile, _files(results))
    if page is not None:
        page.parent.mkdir(parents=True, exist_ok=True)
        with writing(page) as file:
            file.write_text(text, encoding="utf-8")
    console().print(Markdown(text))


def _chosen(table: PaperTable, only: list[str] | None) -> list[Row]:
    names = [row.name for row in table.rows]
    if unknown := [name for name in only or () if name not in names]:
        raise ConfigError(f"The table has no row {', '.join(unknown)}; it has: {'; '.join(names)}.")
    return [row for row in table.rows if only is None or row.name in only]


def _train(
    row: Row,
    config: RunConfig,
    seeds: int,
    folder: Path,
    record: Path,
    results: Path,
    device: str | None,
) -> None:
    """Train the seeds of a row that have no record yet."""
    done = {evidence.seed for evidence in find_evidence(config, _files(results))}
    for seed in (s for s in range(seeds) if s not in done):
        place = folder / _slug(row.name) / f"seed-{seed}"
        training = config.training.model_copy(update={"seed": seed})
        source = folder / _slug(row.start) if row.start else None
        start = (
            str(source) if source and (source / f"seed-{seed}" / "checkpoints").exists() else None
        )
        console().print(f"{row.name}, seed {seed}", markup=False, highlight=False)
        run = api.train(
            config.model_copy(update={"training": training, "start": start}),
            out=place,
            resume=RunFolder(place).config.exists(),
            device=device,
            log=default_log(place),
        )
        append_record(record, api.record(run))


def _files(results: Path) -> list[Path]:
    return sorted(results.glob("*.jsonl"))


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
