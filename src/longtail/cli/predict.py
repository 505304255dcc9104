"""`longtail predict`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from torch import Tensor

from longtail.cli.lines import say
from longtail.cli.prior import read_assumed, read_prior
from longtail.cli.show import checking, print_notes
from longtail.core.errors import ConfigError
from longtail.core.names import visible
from longtail.core.table_cells import csv_text
from longtail.core.words import counted
from longtail.data.images.unreadable import LISTED_WITH_ERROR, describe_unreadable
from longtail.engine.checkpoint import CheckpointMetadata
from longtail.engine.run_folder import require_writable, writing
from longtail.engine.terminal import Terminal
from longtail.prediction.images import PredictOptions
from longtail.prediction.inputs import collect
from longtail.prediction.views import Crops
from longtail.runs import load
from longtail.runs.hub import local

SUFFIXES = (".csv", ".parquet", ".jsonl")
Prior = Annotated[
    str | None,
    typer.Option(help="Class distribution of the new images: CSV of class and share, or uniform."),
]
Assumed = Annotated[
    str | None,
    typer.Option(
        help="For --prior, if the model does not know what its scores assume: uniform, training, or a "
        "CSV of class and share."
    ),
]

CropsOption = Annotated[
    Crops | None,
    typer.Option(help="Average corners and centre: five-crop (5 times the time) or ten-crop (10)."),
]


def predict(
    run: Annotated[Path, typer.Argument(help="Run folder, or hf-hub:owner/name.")],
    images: Annotated[
        list[str],
        typer.Argument(
            help="Files, folders, a table with a column path (.csv, .parquet), or a list of paths (.txt); "
            "- reads paths from standard input."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="CSV, .parquet or .jsonl file; if not given, CSV on standard output."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Classes per image.")] = 5,
    prior: Prior = None,
    assumed: Assumed = None,
    mirror: Annotated[
        bool,
        typer.Option(
            "--mirror", help="Average the predictions for each image and its mirror image."
        ),
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per batch.")] = 64,
    *,
    crops: CropsOption = None,
    workers: Annotated[int, typer.Option(min=1, help="Decoding threads.")] = 4,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or mps.")] = None,
) -> None:
    """Predict the classes of images without labels.

    An image that cannot be read gets a row with its error (exit status 1 if none can be read; nothing is
    written if no path exists). Files in a folder without an image extension are skipped, counted and listed.
    In CSV, text that a spreadsheet would run as a formula (=1+1) starts with an apostrophe; .parquet and
    .jsonl contain it unchanged.

    After `longtail calibrate`, a row also has the class that the image is accepted as (empty: none), the
    classes that it may be, and whether it is unusual. docs/own-data-in-detail.md explains all columns.

    Examples:

      longtail predict runs/my-run new-images/ --out predictions.csv

      longtail predict runs/my-run photo.jpg --top 3

      longtail predict runs/my-run field-season.csv --out predictions.csv

      find . -name "*.jpg" | longtail predict runs/my-run - --out predictions.parquet
    """
    if out is not None and out.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"--out must end in {', '.join(SUFFIXES)}, but got {out}.")
    named = read_names() if images == ["-"] else images
    inputs = collect([name for name in named if name])
    if not inputs:
        raise ConfigError("No images were given.")
    if out is not None:
        require_writable(out)
    run = local(run)
    model = load(run, device=device)
    print_notes([run])
    options = PredictOptions(
        top=top,
        prior=None if prior is None else read_prior(prior, model.metadata.classes),
        assumed=_said(assumed, prior, model.metadata),
        mirror=mirror,
        crops=crops,
        batch_size=batch_size,
        workers=workers,
    )
    notes: list[str] = []
    with checking("predicting") as shown:
        predictions = model.predict(
            inputs, options, progress=lambda done: shown(done, len(inputs)), note=notes.append
        )
    for text in notes:
        Terminal(stderr=True).print(f"note: {text}")
    _hand_over(predictions, out)


def _said(assumed: str | None, prior: str | None, metadata: CheckpointMetadata) -> Tensor | None:
    """Return what the user says the scores assume, [C]."""
    if assumed is None:
        return None
    if prior is None:
        raise ConfigError("--assumed works only with --prior.")
    return read_assumed(assumed, metadata.counts())


def _hand_over(predictions: pd.DataFrame, out: Path | None) -> None:
    """Print or write the predictions; exit status 1 if there is none."""
    failed = predictions[predictions["error"].notna()]
    size = len(predictions)
    if out is None:
        _print(predictions)
    else:
        _write(predictions, out)
        read = counted(size - len(failed), "image", "images")
        told = (
            f"{read} predicted, written to"
            if len(failed) < size
            else "no image could be read; errors in"
        )
        say(f"{told} {out}")
    if len(failed):
        bad = list(zip(failed["path"], failed["error"], strict=True))
        note = describe_unreadable(bad, size, LISTED_WITH_ERROR)
        Terminal(stderr=True).print(f"note: {note}")
    if len(failed) == size:
        raise typer.Exit(1)


def read_names() -> list[str]:
    """Read paths from standard input, one a line, or each followed by a zero byte (find -print0)."""
    content = (
        sys.stdin.buffer.read()
    )  # bytes: a name of a file need not be text in the console's encoding
    parts = content.split(b"\0") if b"\0" in content else content.splitlines()
    return [os.fsdecode(part) if b"\0" in content else os.fsdecode(part.strip()) for part in parts]


def _as_csv(predictions: pd.DataFrame) -> str:
    rows = [
        [" | ".join(cell) if isinstance(cell, list) else cell for cell in row]
        for row in predictions.itertuples(index=False)
    ]
    return csv_text([list(predictions.columns), *rows])


def _print(predictions: pd.DataFrame) -> None:
    """Print as CSV; to a terminal without characters that would change it."""
    text = _as_csv(predictions)
    sys.stdout.write(visible(text) if sys.stdout.isatty() else text)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        Terminal(stderr=True).print(
            f"note: some names cannot be written in {sys.stdout.encoding}, the encoding of this "
            "output; they appear as escapes such as \\\\u72d0. --out FILE writes UTF-8."
        )


def _write(predictions: pd.DataFrame, out: Path) -> None:
    with writing(out) as file:
        if out.suffix.lower() == ".csv":
            file.write_text(_as_csv(predictions), encoding="utf-8", newline="\n")
        elif out.suffix.lower() == ".parquet":
            predictions.to_parquet(file, index=False)
        else:
            predictions.to_json(file, orient="records", lines=True, force_ascii=False)
