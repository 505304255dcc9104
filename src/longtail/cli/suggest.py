"""`longtail suggest`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from longtail.cli.lines import say
from longtail.cli.predict import read_names
from longtail.cli.show import checking, print_notes
from longtail.core.errors import ConfigError
from longtail.core.table_cells import csv_text
from longtail.core.words import counted
from longtail.engine.run_folder import require_writable, writing
from longtail.engine.terminal import Terminal
from longtail.prediction.images import PredictOptions
from longtail.prediction.inputs import collect
from longtail.runs import Run, load
from longtail.runs.suggesting import suggest as find

COLUMNS = ("rank", "path", "gain", "class_1", "probability_1", "group", "few_shot_probability")


def suggest(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    images: Annotated[
        list[str],
        typer.Argument(
            help="Unlabelled images: files, folders, a table with a column path, a list (.txt); - reads "
            "paths from standard input."
        ),
    ],
    budget: Annotated[int, typer.Option(min=1, help="How many images you can label.")] = 200,
    out: Annotated[
        Path, typer.Option(help="CSV file; a page that shows the images is written beside it.")
    ] = Path("suggestions.csv"),
    batch_size: Annotated[int, typer.Option(min=1, help="Images per batch.")] = 64,
    *,
    workers: Annotated[int, typer.Option(min=1, help="Decoding threads.")] = 4,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or mps.")] = None,
) -> None:
    """Suggest which unlabelled images to label next, with rare classes in mind.

    The suggested images represent many others that may belong to classes with few training images. Images
    that look like one already suggested or labelled are left out.

    Example: longtail suggest runs/my-run new-images/ --budget 200
    """
    # what draws takes a second to import
    from longtail.report.suggestions import render_suggestions

    if out.suffix.lower() != ".csv":
        raise ConfigError(f"--out must end in .csv, but got {out}.")
    page = out.with_suffix(".html")
    for target in (out, page):
        require_writable(target)
    named = read_names() if images == ["-"] else images
    inputs = collect([name for name in named if name])
    if not inputs:
        raise ConfigError("No images were given.")
    opened, model = Run.open(run), load(run, device=device)
    print_notes([run])
    with checking("looking") as shown, checking("reading labelled images") as reading:
        found = find(
            opened, model, inputs, budget,
            options=PredictOptions(batch_size=batch_size, workers=workers),
            progress=lambda done: shown(done, len(inputs)), reading=reading,
        )  # fmt: skip
    for note in found.notes:
        Terminal(stderr=True).print(f"note: {note}")
    rows = [
        (
            rank,
            one.path,
            f"{one.gain:.6f}",
            one.label,
            f"{one.probability:.5f}",
            one.group,
            f"{one.few:.5f}",
        )
        for rank, one in enumerate(found.images, start=1)
    ]
    with writing(out) as file:
        file.write_text(csv_text([COLUMNS, *rows]), encoding="utf-8", newline="\n")
    with writing(page) as file:
        file.write_text(
            render_suggestions(f"What to label next for {run}", found), encoding="utf-8"
        )
    size = counted(len(found.images), "image", "images")
    say(
        f"{size} of {found.looked_at:,} to label, the most useful first: {out}; to see them: {page}"
    )
