"""`longtail evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from torch import Tensor

from longtail.cli.lines import completing, console, say
from longtail.cli.predict import CropsOption
from longtail.cli.prior import read_assumed, read_prior
from longtail.cli.show import checking, interval_table, score_table
from longtail.core import distributed
from longtail.core.errors import ConfigError
from longtail.core.manifest import SPLITS
from longtail.core.paths import expanded
from longtail.core.words import counted
from longtail.engine.checkpoint import CheckpointMetadata
from longtail.engine.checksums import json_text
from longtail.engine.hardware import find_device
from longtail.engine.log import default_log
from longtail.runs import Run, load, scoring
from longtail.runs.other_images import open_elsewhere, open_own
from longtail.runs.scores_on_other_images import Deployment, evaluate_elsewhere, target_folder

ESTIMATE = "estimate"


def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    split: Annotated[
        str | None,
        typer.Option(
            help="train, val or test (default: test; with --data, all images if there is no test split).",
            autocompletion=completing(SPLITS),
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Another labelled folder or table, instead of the run's own images."),
    ] = None,
    root: Annotated[
        Path | None, typer.Option(help="Folder that relative paths in a table start from.")
    ] = None,
    prior: Annotated[
        str | None,
        typer.Option(
            help="Class distribution to predict for: CSV of class and share, uniform, training, or "
            "estimate (from the images that are scored, without their labels)."
        ),
    ] = None,
    assumed: Annotated[
        str | None,
        typer.Option(
            help="For --prior, if the model does not know what its scores assume: uniform, training, or a "
            "CSV of class and share."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the results of --data and --prior; RUN/elsewhere/NAME if not given."
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or mps.")] = None,
    *,
    crops: CropsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Score a finished run on a split, and write predictions and scores into its folder.

    With --data, other labelled images are scored; classes are matched by name. Images of classes that the
    model does not know, and images that it was trained or selected on, are left out, counted and listed.
    With --prior, predictions are converted to another class distribution. Both write into a folder of their
    own; the run's own scores do not change. With --crops, predictions are averaged over several crops of each
    image, and the files are named after the crops.

    Examples:

      longtail evaluate runs/my-run --split val

      longtail evaluate runs/my-run --data field-season.csv --prior estimate
    """
    opened = Run.open(run)
    if data is not None or prior is not None:
        if root is not None and data is None:
            raise ConfigError("--root works only with --data.")
        if assumed is not None and prior is None:
            raise ConfigError("--assumed belongs to --prior.")
        if crops is not None:
            raise ConfigError("--crops is for the run's own splits; leave --data and --prior out.")
        _elsewhere(opened, split, data, root, (prior, assumed), out, device, as_json=as_json)
        return
    for option, value in (("--out", out), ("--root", root), ("--assumed", assumed)):
        if value is not None:
            raise ConfigError(f"{option} works only with --data or --prior.")
    split = split or "test"
    scores = scoring.evaluate(opened, split, device=device, crops=crops, note=default_log().note)
    written = opened.folder.scores(split if crops is None else f"{split}-{crops}")
    if distributed.is_main() and as_json:
        say(written.read_text(encoding="utf-8").rstrip())
    elif distributed.is_main():
        console().print(score_table([(scores["recipe"], scores)]))
        for note in scores["notes"]:
            say(f"note: {note}")
        say(f"written to {written}")


def _elsewhere(
    run: Run,
    split: str | None,
    data: Path | None,
    root: Path | None,
    prior: tuple[str | None, str | None],
    out: Path | None,
    device: str | None,
    *,
    as_json: bool,
) -> None:
    """Score other images, or for another class distribution, and say what came out."""
    metadata = run.checkpoint()[1]
    deployment = _deployment(*prior, metadata)
    if data is None:
        split = split or "test"
        name, source = split, f"split {split} of the run"
    else:
        name = f"{data.stem}-{split}" if split else expanded(data).resolve().stem
        source = f"{expanded(data).resolve()}{f', split {split}' if split else ''}"
    target = target_folder(run, name, source, deployment, out)
    distributed.start(find_device(device))
    with checking() as progress:
        found = (
            open_own(run, metadata, split or "test", progress)
            if data is None
            else open_elsewhere(run, metadata, data, root=root, split=split, progress=progress)
        )
    model = load(run.folder.path, device=device)
    scores = evaluate_elsewhere(run, model, found, target, source=source, deployment=deployment)
    if distributed.is_main():
        _show(scores, target, as_json=as_json)


def _deployment(
    prior: str | None, assumed: str | None, metadata: CheckpointMetadata
) -> Deployment | None:
    """Return the class distribution that the user names, for the classes of the model."""
    if prior is None:
        return None
    counts = metadata.counts()
    known: Tensor | None = None if assumed is None else read_assumed(assumed, counts)
    if prior == ESTIMATE:
        return Deployment(prior, None, known)
    if prior == "training":
        return Deployment(prior, read_assumed(prior, counts), known)
    return Deployment(prior, read_prior(prior, counts.names), known)


def _show(scores: dict[str, Any], target: Path, *, as_json: bool) -> None:
    if as_json:
        say(json_text(scores, indent=1))
        return
    images, left_out = scores["num_images"], scores["left_out"]
    if left_out > images:
        say(
            f"warning: only {counted(images, 'image is', 'images are')} scored; {left_out:,} of "
            f"{images + left_out:,} were left out, see the notes"
        )
    console().print(interval_table(scores))
    for note in scores["notes"]:
        say(f"note: {note}")
    say(f"written to {target}")
