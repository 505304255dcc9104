"""`longtail ensemble`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from longtail.cli.lines import completing, console, say
from longtail.cli.show import checking, print_notes
from longtail.core.groups import GROUP_NAMES
from longtail.core.manifest import SPLITS
from longtail.core.words import counted
from longtail.engine.run_folder import require_writable
from longtail.ensembles import several_runs
from longtail.ensembles.mixtures import SUB_MODEL
from longtail.ensembles.recommendation import SENSIBLE
from longtail.evaluation.scores import percent
from longtail.report.text import with_interval
from longtail.runs import Run, append_record

SEES = {
    "label-free": "the image",
    "views": "other views of the image",
    "instance-wise": "other views of the image",
    "transductive": "all test images together",
    "held-out": "the image; fitted on val",
    "oracle": "the test labels: an upper bound, not a result",
}


def ensemble(
    runs: Annotated[
        list[Path], typer.Argument(help="Run folders; several are combined into one ensemble.")
    ],
    split: Annotated[
        str, typer.Option(help="train, val or test.", autocompletion=completing(SPLITS))
    ] = "test",
    views: Annotated[
        str, typer.Option(help="mirror: each image and its mirror image; sade: two random views.")
    ] = several_runs.MIRROR,
    out: Annotated[
        Path | None, typer.Option(help="Write a model for predict and export to this folder.")
    ] = None,
    combination: Annotated[
        str | None,
        typer.Option(
            help="With --out: the combination to write; if not given, the recommended one."
        ),
    ] = None,
    *,
    everything: Annotated[
        bool,
        typer.Option("--all", help="Show every combination, including the oracles (upper bounds)."),
    ] = False,
    record: Annotated[
        Path | None, typer.Option(help="Append the results to this JSON lines file.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or mps.")] = None,
) -> None:
    """Combine several runs, or the sub-models of one run, and recommend a combination.

    The recommended combination is chosen on val and compared with the best single model, image by image. A
    written ensemble contains copies of the runs, so you may change or delete the originals.

    Examples:

      longtail ensemble runs/cross-entropy runs/balanced-softmax

      longtail ensemble runs/a runs/b --out runs/both

      longtail ensemble runs/do --all
    """
    if record is not None:
        require_writable(record)
    opened = [Run.open(run) for run in runs]
    with checking("predicting with each model and view") as progress:
        line = several_runs.ensemble(
            opened, split, views=views, out=out, combination=combination, device=device,
            progress=progress,
        )  # fmt: skip
    print_notes(runs)
    say(_recommendation(line))
    console().print(_table(line, everything=everything))
    if not everything:
        more = sum(not _is_shown(row, line) for row in line["mixtures"])
        say(
            f"{counted(more, 'more row', 'more rows')}, including the oracles (upper bounds): --all"
        )
    if record is not None:
        append_record(record, line)
        say(f"appended to {record}")
    if out is not None and "written" not in line:
        say(
            f"Nothing was written to {out}. To write a combination anyway, name one: --combination average"
        )
    elif out is not None:
        say(
            f"written: {out} ({line['written']['combination']}); to use it: longtail predict {out} IMAGES"
        )


def _recommendation(line: dict[str, Any]) -> str:
    """Say which combination to use, how much better it is than the best single model, and what it sees."""
    found, count = line["recommended"], len(line["sub_models"])
    overall = found["groups"]["all"]
    difference = with_interval(overall["difference"], signed=True)
    low, high = overall["difference"]["interval"]
    why = (
        "val is what is scored" if line["split"] == "val" else "there is no val split to choose on"
    )
    chosen = (
        f"chosen on {counted(found['held_out_images'], 'image', 'images')} of val"
        if found["chosen_on"]
        else f"{why}, so this is the plain average"
    )
    measured = (
        f"a macro accuracy of {percent(overall['after']['value'])} % on "
        f"{counted(found['images'], 'image', 'images')} of {line['split']}, {difference} points "
        f"compared with {found['single']}, the best single model"
    )
    if found["combination"] is None:
        return (
            f"recommended: {found['single']} alone. On val, no combination of the {count} models is "
            f"better; the {found['compared']} has {measured}."
        )
    if low <= 0 <= high:
        measured += " (no clear difference)"
    return (
        f"recommended: {found['combination']} of the {count} models ({chosen}). It has {measured}. "
        f"It uses {found['sees']}."
    )


def _is_shown(row: dict[str, Any], line: dict[str, Any]) -> bool:
    names = (*SENSIBLE, line["recommended"]["compared"])
    return row["name"].startswith(SUB_MODEL) or row["name"] in names


def _table(line: dict[str, Any], *, everything: bool) -> Table:
    table = Table(title=f"macro accuracy in %, {line['split']} split, views: {line['views']}")
    for column in ("combination", "sees"):
        table.add_column(column)
    for column, name in (("all", "all"), *zip(GROUP_NAMES, GROUP_NAMES, strict=True)):
        images = counted(line["images"][name], "image", "images")
        table.add_column(f"{column}\n{images}", justify="right")
    if everything:
        table.add_column("seconds", justify="right")
    names = iter(line["sub_models"])
    for row in line["mixtures"]:
        name = next(names) if row["name"].startswith(SUB_MODEL) else row["name"]
        if not everything and not _is_shown(row, line):
            continue
        values = [percent(row[key]) for key in ("accuracy", *GROUP_NAMES)]
        seconds = [f"{row['seconds']:.2f}"] if everything else []
        table.add_row(name, SEES[row["sees"]], *values, *seconds)
    return table
