"""`longtail export`."""

from pathlib import Path
from typing import Annotated

import typer

from longtail.cli.show import say
from longtail.export import FORMATS, export_run


def export(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    form: Annotated[str, typer.Option("--format", help=f"One of {', '.join(FORMATS)}.")] = "onnx",
    out: Annotated[Path | None, typer.Option(help="File of the model.")] = None,
    *,
    sub_models: Annotated[
        bool,
        typer.Option("--sub-models", help="Logits of every sub-model, unmixed (DO, experts, NCL)."),
    ] = False,
) -> None:
    """Write the model for use elsewhere, load it back, and compare it with the run.

    A difference of more than 1e-4 in a logit, beyond rounding, is an error. A model card is written beside
    the file.

    Examples:

      longtail export runs/my-run --format onnx

      longtail export runs/my-run --format timm --out classifier.safetensors

      longtail export runs/do --format onnx --sub-models
    """
    done = export_run(run, form, out, sub_models=sub_models)
    for text in (
        f"written: {done.path}",
        f"model card: {done.card}",
        f"largest difference of a logit to the run: {done.difference:.1e} ({done.pictures})",
    ):
        say(text)
