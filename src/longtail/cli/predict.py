"""`longtail predict`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from longtail import api
from longtail.cli.prior import read_prior
from longtail.cli.show import console
from longtail.core.errors import ConfigError
from longtail.core.words import counted
from longtail.engine.run_folder import require_writable, writing
from longtail.evaluation.answer import find_pictures

SUFFIXES = (".csv", ".parquet", ".jsonl")


def predict(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    pictures: Annotated[
        list[str], typer.Argument(help="Files or folders; - reads paths from standard input.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="CSV, .parquet or .jsonl; CSV on standard output if not given."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Classes per picture.")] = 5,
    prior: Annotated[
        str | None,
        typer.Option(help="Class distribution in use: CSV of class and share, or uniform."),
    ] = None,
    mirror: Annotated[
        bool, typer.Option("--mirror", help="Average each picture with its mirror image.")
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures at once.")] = 64,
    *,
    workers: Annotated[int, typer.Option(min=1, help="Threads that decode.")] = 4,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or mps.")] = None,
) -> None:
    """Say what is on pictures without labels.

    A picture that cannot be read is a row with its error.

    Examples:

      longtail predict runs/my-run new-pictures/ --out answers.csv

      longtail predict runs/my-run photo.jpg --top 3

      find . -name "*.jpg" | longtail predict runs/my-run - --out answers.parquet
    """
    if out is not None and out.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"--out must end in {', '.join(SUFFIXES)}, but got {out}.")
    named = [line.strip() for line in sys.stdin] if pictures == ["-"] else pictures
    paths = find_pictures([Path(name) for name in named if name])
    if not paths:
        raise ConfigError("No picture was named.")
    if out is not None:
        require_writable(out)
    model = api.load(run, device=device)
    question = api.Question(
        top=top,
        prior=None if prior is None else read_prior(prior, model.card.classes),
        mirror=mirror,
        batch_size=batch_size,
        workers=workers,
    )
    with Progress(
        TextColumn("predicting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=Console(stderr=True), transient=True,
    ) as bar:  # fmt: skip
        task = bar.add_task("predicting", total=len(paths))
        answers = model.predict(paths, question, progress=lambda n: bar.update(task, completed=n))
    if out is None:
        answers.to_csv(sys.stdout, index=False)
        return
    _write(answers, out)
    failed = int(answers["error"].notna().sum())
    console().print(
        f"{counted(len(answers), 'picture', 'pictures')} answered in {out}"
        + (f"; {failed:,} of them could not be read (column error)" if failed else ""),
        markup=False,
        highlight=False,
    )


def _write(answers: pd.DataFrame, out: Path) -> None:
    with writing(out) as file:
        if out.suffix.lower() == ".csv":
            answers.to_csv(file, index=False)
        elif out.suffix.lower() == ".parquet":
            answers.to_parquet(file, index=False)
        else:
            answers.to_json(file, orient="records", lines=True, force_ascii=False)
