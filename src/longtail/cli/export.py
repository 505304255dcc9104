"""`longtail export`."""

from pathlib import Path
from typing import Annotated

import typer

from longtail.cli.lines import completing, say
from longtail.cli.show import phases, print_notes
from longtail.core.errors import ConfigError
from longtail.core.words import counted
from longtail.export import ADAPTER_FORMATS, FORMATS, export_adapter, export_run


def export(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help=f"One of {', '.join((*FORMATS, *ADAPTER_FORMATS))}.",
            autocompletion=completing((*FORMATS, *ADAPTER_FORMATS)),
        ),
    ] = "safetensors",
    out: Annotated[Path | None, typer.Option(help="File to write; for peft, a folder.")] = None,
    *,
    sub_models: Annotated[
        bool,
        typer.Option(
            "--sub-models", help="Export the logits of every sub-model, unmixed (DO, experts, NCL)."
        ),
    ] = False,
) -> None:
    """Export the model for use elsewhere, and check that its logits match the run's.

    If a logit differs by more than 1e-4 beyond rounding, that is an error. The model card beside the file
    contains the program that prepares an image file for the model. The formats adapter and peft contain only
    what light fine-tuning has trained: a few MB to use with the published weights.

    Examples:

      longtail export runs/my-run

      longtail export runs/my-run --format onnx

      longtail export runs/my-run --format timm --out classifier.safetensors

      longtail export runs/light --format adapter

      longtail export runs/do --format onnx --sub-models
    """
    if form in ADAPTER_FORMATS:
        if sub_models:
            raise ConfigError(f"--sub-models is for onnx and torch-export, not {form}.")
        print_notes([run])
        say(f"written: {export_adapter(run, form, out)}")
        return
    with phases() as progress:
        done = export_run(run, form, out, sub_models=sub_models, progress=progress)
    print_notes([run])
    say(f"written: {done.path} ({done.path.stat().st_size / 1e6:.1f} MB)")
    say(f"model card: {done.card}")
    say(f"largest difference from the run's logits: {done.difference:.1e} ({done.images})")
    if (found := done.prepared) is not None:
        files = counted(found.files, "image file", "image files")
        say(
            f"prepared as the card says, the probabilities of {files} differ from those of longtail predict "
            f"by at most {100 * found.difference:.2f} points"
        )
