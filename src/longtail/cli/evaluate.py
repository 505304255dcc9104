"""`longtail evaluate`."""

from pathlib import Path
from typing import Annotated

import typer

from longtail import api
from longtail.cli.show import console, say, score_table
from longtail.core import distributed
from longtail.core.errors import ConfigError
from longtail.core.manifest import SPLITS


def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or mps.")] = None,
) -> None:
    """Score a finished run on a split; writes predictions and scores into the run folder.

    Example: longtail evaluate runs/my-run --split val
    """
    if split not in SPLITS:
        raise ConfigError(f"--split must be one of {', '.join(SPLITS)}, but got {split!r}.")
    opened = api.Run.open(run)
    scores = api.evaluate(opened, split, device=device)
    if distributed.is_main():
        console().print(score_table([(scores["recipe"], scores)]))
        say(f"written to {opened.folder.scores(split)}")
