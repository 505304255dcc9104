"""`longtail push`."""

from pathlib import Path
from typing import Annotated

import typer

from longtail.cli.lines import say
from longtail.cli.show import print_notes
from longtail.export.hub import push_run
from longtail.runs.hub import PREFIX


def push(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    name: Annotated[str, typer.Argument(help="Name on the Hugging Face hub: owner/name.")],
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository private.")
    ] = False,
) -> None:
    """Push the model of a finished run to the Hugging Face hub, with its model card.

    Configuration, weights (safetensors), calibration, scores and class names are pushed. Images and
    predictions are not, but the configuration contains the path of your data. Log in first: hf auth login.

    Examples:

      longtail push runs/my-run my-name/beetles

      longtail predict hf-hub:my-name/beetles photo.jpg
    """
    address = push_run(run, name, private=private)
    print_notes([run])
    say(f"pushed: {address}")
    say(f"to use the model: longtail predict {PREFIX}{name} IMAGES")
