"""`longtail adjust`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.table import Table

from longtail import api
from longtail.adjust import Retraining
from longtail.cli.prior import read_columns, read_prior
from longtail.cli.show import console, say
from longtail.core.counts import ClassCounts
from longtail.core.errors import ConfigError, DataError
from longtail.core.groups import GroupRule
from longtail.engine.run_folder import require_writable, writing
from longtail.evaluation.scores import percent
from longtail.recipes import resolve
from longtail.repair import (
    CORRECTIONS,
    Repair,
    Request,
    read_checkpoint,
    read_run,
    read_tables,
    repair,
)
from longtail.repair.checkpoints import CheckpointModel
from longtail.repair.repair import tau_oracle
from longtail.repair.runs import RunModel
from longtail.repair.tables import SUFFIXES, Tables
from longtail.report.text import with_interval

NOTE = "adjustment.json"
NEEDS_PICTURES = (
    "A checkpoint needs --architecture (timm:NAME, torchvision:NAME or MODULE:FUNCTION) and --data "
    "(folder, table or recipe with train, val and test pictures)."
)
CHECKPOINTS = (".safetensors", ".pth", ".pt", ".bin")


Sources = Annotated[
    list[Path], typer.Argument(help="Run folder, checkpoint, or tables of logits or features.")
]
By = Annotated[str, typer.Option(help=f"One of {', '.join(CORRECTIONS)}.")]
Out = Annotated[Path | None, typer.Option(help="Where the corrected model goes.")]
Strength = Annotated[
    float | None, typer.Option(help="Strength or temperature; chosen on val if not given.")
]
Prior = Annotated[
    str | None,
    typer.Option(help="For --by prior: CSV of class and share, `uniform`, or `estimate`."),
]
Epochs = Annotated[int | None, typer.Option(min=1, help="Of crt (10) or lws (5).")]
Groups = Annotated[GroupRule, typer.Option(help="Rule of the shot groups.")]
Counts = Annotated[
    Path | None, typer.Option(help="CSV of class and count, if no training rows are there.")
]
TrainedWith = Annotated[
    list[str] | None, typer.Option(help="What the model was trained with, e.g. class-weights.")
]
Architecture = Annotated[
    str | None, typer.Option(help="timm:NAME, torchvision:NAME or MODULE:FUNCTION.")
]
Pictures = Annotated[str | None, typer.Option(help="Pictures for a checkpoint.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="key=value of --data, e.g. image_size=64.")
]
Classes = Annotated[
    Path | None, typer.Option(help="Text file, one class a line in the order of the outputs.")
]
Mean = Annotated[str | None, typer.Option(help="Pixel means, e.g. 0.5,0.5,0.5.")]
Deviation = Annotated[str | None, typer.Option(help="Pixel deviations.")]
Oracle = Annotated[bool, typer.Option("--oracle", help="Also print the tau that is best on test.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or mps.")]
Model = RunModel | CheckpointModel | Tables


def adjust(
    sources: Sources,
    *,
    by: By,
    out: Out = None,
    strength: Strength = None,
    prior: Prior = None,
    epochs: Epochs = None,
    groups: Groups = "threshold",
    class_counts: Counts = None,
    trained_with: TrainedWith = None,
    architecture: Architecture = None,
    data: Pictures = None,
    setting: Settings = None,
    classes: Classes = None,
    mean: Mean = None,
    std: Deviation = None,
    oracle: Oracle = False,
    device: Device = None,
) -> None:
    """Correct a trained model for rare classes, without training it again.

    Strengths are chosen on the validation split. Scores before and after are shown with intervals,
    and the corrected model is written in the format that it came in.

    Examples:

      longtail adjust runs/my-run --by tau --out runs/my-run-tau

      longtail adjust logits.parquet --by logit-adjust

      longtail adjust features.npz --by crt

      longtail adjust model.pth --architecture torchvision:resnet50 --data my-pictures/ --by tau

      longtail adjust runs/my-run --by prior --prior field-season.csv
    """
    if oracle and by != "tau":
        raise ConfigError("--oracle belongs to --by tau.")
    target = out or _default_target(sources, by)
    if target.exists() and (target.is_file() or any(target.iterdir())):
        raise ConfigError(f"{target} exists already; choose another place with --out.")
    if not target.exists():
        require_writable(target)
    if sources[0].is_dir() and len(sources) == 1:
        model: Model = read_run(sources[0], device=device)
    elif all(path.suffix in SUFFIXES for path in sources):
        model = read_tables(
            sources, ClassCounts(*read_columns(class_counts, "count")) if class_counts else None
        )
    elif len(sources) == 1 and sources[0].suffix in CHECKPOINTS:
        if architecture is None or data is None:
            raise ConfigError(NEEDS_PICTURES)
        model = read_checkpoint(
            sources[0], architecture, resolve(data, setting or ()),
            classes=_lines(classes) if classes else None,
            mean=_numbers("--mean", mean), std=_numbers("--std", std), device=device,
        )  # fmt: skip
    else:
        raise ConfigError(
            f"{sources[0]} is no run folder, no checkpoint ({', '.join(CHECKPOINTS)}) and no table "
            f"({', '.join(SUFFIXES)})."
        )
    evidence = model.evidence.with_corrections(tuple(trained_with or ()))
    how = Retraining(epochs=epochs or (5 if by == "lws" else 10))
    request = Request(strength, _wanted_prior(prior, by, evidence.class_counts.names), how)
    done = repair(evidence, by, request, rule=groups)
    described = done.describe() | {"sources": [str(path) for path in sources]}
    if oracle:
        described["oracle"] = tau_oracle(evidence)
    written = [*_write(model, done, target, device), _write_note(described, target)]
    _show(done, described, written)


def _write(model: Model, done: Repair, target: Path, device: str | None) -> list[Path]:
    if isinstance(model, Tables):
        return model.write(done.corrected, target)
    written = model.write(done.corrected, target, done.name)
    if isinstance(model, RunModel):
        for split in model.run.evaluated_splits():
            api.evaluate(api.Run.open(target), split, device=device)
    return written


def _write_note(described: dict[str, Any], target: Path) -> Path:
    """Write how the model was corrected beside it."""
    inside = target.is_dir()
    note = target / NOTE if inside else target.with_name(f"{target.stem}-{NOTE}")
    with writing(note) as file:
        file.write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    return note


def _show(done: Repair, described: dict[str, Any], written: list[Path]) -> None:
    out = console()
    facts = done.corrected.facts
    if facts.get("strength") is not None:
        out.print(
            f"strength {facts['strength']:.3g}, chosen on: {facts['chosen_on']}", markup=False
        )
    out.print(_table(done))
    error = done.scores["calibration_error"]
    if "before" in error:
        out.print(
            f"calibration error: {percent(error['before'])} % before, {percent(error['after'])} % after"
        )
    if "oracle" in described:
        found = described["oracle"]
        out.print(
            f"{found['what']}: strength {found['strength']:.1f}, class-averaged accuracy "
            f"{percent(found['macro_accuracy'])} %",
            markup=False,
        )
    for warning in done.warnings:
        out.print(f"warning: {warning}", style="yellow", markup=False, highlight=False)
    for path in written:
        say(f"written: {path}")


def _table(done: Repair) -> Table:
    scores = done.scores
    table = Table(
        title=f"class-averaged accuracy in %, {scores['pictures']:,} pictures of split "
        f"{done.measured_on}, 95 % intervals",
        caption=scores["intervals"],
    )
    for column in ("classes", "before", "after", "difference"):
        table.add_column(column, justify="left" if column == "classes" else "right")
    for name, row in scores["groups"].items():
        cells = [
            with_interval(row[key], signed=key == "difference")
            for key in ("before", "after", "difference")
        ]
        table.add_row(f"{name} ({row['classes']})", *cells)
    return table


def _default_target(sources: list[Path], by: str) -> Path:
    first = sources[0]
    if len(sources) > 1:
        return first.parent / f"{by}-adjusted"
    return first.with_name(f"{first.stem}-{by}{first.suffix}")


def _wanted_prior(text: str | None, by: str, names: tuple[str, ...]) -> torch.Tensor | None:
    if by != "prior":
        if text is not None:
            raise ConfigError("--prior belongs to --by prior.")
        return None
    if text is None:
        raise ConfigError("--by prior needs --prior FILE, --prior uniform or --prior estimate.")
    return None if text == "estimate" else read_prior(text, names)


def _lines(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}).") from error
    return tuple(line.strip() for line in lines if line.strip())


def _numbers(name: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != 3:
        raise ConfigError(
            f"{name} wants three numbers, for example 0.485,0.456,0.406, not {text!r}."
        )
    return values
