"""`longtail adjust`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.table import Table

from longtail.adjust.tool import (
    CORRECTIONS,
    Adjustment,
    Evidence,
    adjustment,
    read_checkpoint,
    read_run,
    read_tables,
)
from longtail.adjust.tool.checkpoints import CheckpointModel
from longtail.adjust.tool.choice import AUTO, CRITERION, Choice, choose
from longtail.adjust.tool.corrections import fitting
from longtail.adjust.tool.delivery import Model, deliver, refuse_harm, require_same_format
from longtail.adjust.tool.runs import RunModel
from longtail.adjust.tool.tables import SUFFIXES
from longtail.cli.lines import completing, console, say
from longtail.cli.prior import read_assumed, read_columns, read_prior
from longtail.cli.show import checking
from longtail.core.counts import ClassCounts
from longtail.core.errors import ConfigError, DataError
from longtail.core.groups import GroupRule
from longtail.core.words import some_of
from longtail.engine.run_folder import require_writable
from longtail.evaluation.scores import percent
from longtail.models.weights import SUFFIXES as CHECKPOINTS
from longtail.recipes import resolve
from longtail.report.text import with_interval

NEEDS_IMAGES = (
    "A checkpoint needs --architecture (timm:NAME, torchvision:NAME or MODULE:FUNCTION) and "
    "--data (a folder, table or recipe with train, val and test images)."
)
Sources = Annotated[
    list[Path], typer.Argument(help="Run folder, checkpoint, or tables of logits or features.")
]
By = Annotated[
    str,
    typer.Option(
        help=f"One of {', '.join(CORRECTIONS)}; auto tries all that fit and chooses one on val.",
        autocompletion=completing((*CORRECTIONS, AUTO)),
    ),
]
Out = Annotated[Path | None, typer.Option(help="Where to write the corrected model.")]
Strength = Annotated[
    float | None, typer.Option(help="Strength or temperature; if not given, it is chosen on val.")
]
Prior = Annotated[
    str | None,
    typer.Option(help="For --by prior: CSV of class and share, `uniform`, or `estimate`."),
]
Epochs = Annotated[
    int | None, typer.Option(min=1, help="Epochs of crt (default: 10) or lws (default: 5).")
]
Groups = Annotated[GroupRule, typer.Option(help="Rule for the shot groups.")]
Counts = Annotated[
    Path | None, typer.Option(help="CSV of class and count, for tables without training rows.")
]
TrainedWith = Annotated[
    list[str] | None,
    typer.Option(help="Corrections that were used in training, e.g. class-weights."),
]
Assumed = Annotated[
    str | None,
    typer.Option(
        help="Class distribution that the scores assume, if it is unknown: uniform, training, or a CSV "
        "of class and share."
    ),
]
Architecture = Annotated[
    str | None, typer.Option(help="timm:NAME, torchvision:NAME or MODULE:FUNCTION.")
]
Images = Annotated[str | None, typer.Option(help="Images to run a checkpoint on.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="key=value for --data, e.g. image_size=64.")
]
Classes = Annotated[
    Path | None,
    typer.Option(help="Text file with one class per line, in the order of the outputs."),
]
Mean = Annotated[str | None, typer.Option(help="Mean of each colour channel, e.g. 0.5,0.5,0.5.")]
Deviation = Annotated[
    str | None, typer.Option(help="Standard deviation of each colour channel, e.g. 0.5,0.5,0.5.")
]
Oracle = Annotated[bool, typer.Option("--oracle", help="Also print the tau that is best on test.")]
Force = Annotated[
    bool, typer.Option("--force", help="Write the correction even if it does not help on val.")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or mps.")]


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
    assumed: Assumed = None,
    architecture: Architecture = None,
    data: Images = None,
    setting: Settings = None,
    classes: Classes = None,
    mean: Mean = None,
    std: Deviation = None,
    oracle: Oracle = False,
    force: Force = False,
    device: Device = None,
) -> None:
    """Correct a trained model for rare classes, without retraining it.

    The strength is chosen on the validation split. Accuracies before and after are compared image by image,
    with confidence intervals. The corrected model is written in the format of the original; a
    correction that does not help is not written.

    Examples:

      longtail adjust runs/my-run --by auto

      longtail adjust runs/my-run --by tau --out runs/my-run-tau

      longtail adjust logits.parquet --by logit-adjust

      longtail adjust features.npz --by crt

      longtail adjust model.pth --architecture torchvision:resnet50 --data my-images/ --by tau

      longtail adjust runs/my-run --by prior --prior field-season.csv
    """
    _require_named(by, prior, oracle=oracle)
    if by == AUTO and (strength is not None or force):
        raise ConfigError(
            f"{('--force' if force else '--strength')} works only with a named correction; --by auto "
            "chooses the strength itself and writes only what helps."
        )
    target = out or _default_target(sources, by)
    _require_same_suffix(sources, target)
    if target.exists() and (target.is_file() or any(target.iterdir())):
        raise ConfigError(f"{target} already exists; choose another place with --out.")
    if not target.exists():
        require_writable(target)
    foreign = Foreign(architecture, data, setting, classes, mean, std)
    model = _read(sources, class_counts, foreign, device)
    said = None if assumed is None else read_assumed(assumed, model.evidence.class_counts)
    evidence = model.evidence.told(trained_with or (), said)
    wanted = _wanted_prior(prior, evidence.class_counts.names)
    described: dict[str, Any] = {"sources": [str(path) for path in sources]}
    if by == AUTO:
        chosen = _chosen(model, evidence, epochs, out)
        if chosen.name is None:
            return
        by, described["auto"] = chosen.name, chosen.describe()
    request = replace(fitting(by, epochs), strength=strength, prior=wanted)
    done = adjustment.adjust(evidence, by, request, rule=groups)
    described = done.describe() | described
    if oracle:
        described["oracle"] = adjustment.tau_oracle(evidence)
    if isinstance(model, CheckpointModel):
        model = replace(model, request=request)
    _show(done, described, getattr(model, "notes", ()))
    if "auto" not in described:  # which has judged on val already
        refuse_harm(done, force=force)
    _say_what_is_written(deliver(model, done, target, described))
    if isinstance(model, RunModel):
        run, corrected = (shlex.quote(str(path)) for path in (sources[0], target))
        say(f"to compare both: longtail report {run} {corrected}")
        say(f"to use the corrected model: longtail predict {corrected} IMAGES")


def _say_what_is_written(paths: Sequence[Path]) -> None:
    """Name folders without the files in them."""
    for path in paths:
        if path.parent not in paths:
            say(f"written: {path}")


@dataclass(frozen=True)
class Foreign:
    """What is told about a checkpoint that no run folder describes; see the options of the same names."""

    architecture: str | None
    data: str | None
    setting: list[str] | None
    classes: Path | None
    mean: str | None
    std: str | None


def _read(
    sources: list[Path], class_counts: Path | None, foreign: Foreign, device: str | None
) -> Model:
    """Read what is to be corrected: a run folder, tables, or a checkpoint."""
    if sources[0].is_dir() and len(sources) == 1:
        with checking() as progress:
            return read_run(sources[0], device=device, progress=progress)
    if all(path.suffix.lower() in SUFFIXES for path in sources):
        counts = None if class_counts is None else ClassCounts(*read_columns(class_counts, "count"))
        return read_tables(sources, counts)
    if len(sources) == 1 and sources[0].suffix.lower() in CHECKPOINTS:
        if foreign.architecture is None or foreign.data is None:
            raise ConfigError(NEEDS_IMAGES)
        return read_checkpoint(
            sources[0], foreign.architecture, resolve(foreign.data, foreign.setting or ()),
            classes=_lines(foreign.classes) if foreign.classes else None,
            mean=_numbers("--mean", foreign.mean), std=_numbers("--std", foreign.std), device=device,
        )  # fmt: skip
    raise ConfigError(
        f"{sources[0]} is not a run folder, a checkpoint ({', '.join(CHECKPOINTS)}) or a table "
        f"({', '.join(SUFFIXES)})."
    )


def _chosen(model: Model, evidence: Evidence, epochs: int | None, target: Path | None) -> Choice:
    """Try every correction that fits, show how each does on val, and say which is chosen."""
    fit = partial(fitting, epochs=epochs)
    choice = choose(evidence, fit, partial(require_same_format, model))
    table = Table(
        title=f"{choice.images:,} images of split val",
        caption=(
            "strength: chosen on all of val; accuracy and error: with the strength that one half of val "
            "chooses, on the other half"
        ),
    )
    for column in ("correction", "strength", "macro\naccuracy, %", "calibration\nerror, %",
                   "predictions\nchanged"):  # fmt: skip
        table.add_column(column, justify="left" if column == "correction" else "right")
    for row in choice.rows:
        table.add_row(
            f"{row.name} <-" if row.name == choice.name else row.name,
            "" if row.strength is None else f"{row.strength:.3g}",
            percent(row.accuracy),
            percent(row.calibration_error),
            f"{row.changed:,}",
        )
    out = console()
    out.print(table)
    for name, why in choice.unexplained().items():
        out.print(f"{name}: {why}", markup=False, highlight=False)
    if choice.name is None:
        place = "" if target is None else f" to {target}"
        say(
            "Leave the model as it is: no correction has a higher macro accuracy on val. Nothing was "
            f"written{place}. To calibrate its probabilities only, use --by temperature."
        )
    else:
        say(f"chosen: {choice.name}, by {CRITERION}")
    return choice


def _show(done: Adjustment, described: dict[str, Any], notes: tuple[str, ...]) -> None:
    out = console()
    for note in notes:
        out.print(f"note: {note}", markup=False, highlight=False)
    facts = done.corrected.facts
    if facts.get("strength") is not None:
        out.print(f"strength {facts['strength']:.3g}, chosen on: {facts['chosen_on']}")
    out.print(_table(done))
    if (changed := done.scores.get("predictions_changed")) is not None:
        total = done.scores["images"]
        out.print(some_of(changed, total, "prediction", "predictions", "changes", "change"))
        interval = done.scores["groups"]["all"]["difference"]["interval"]
        if changed and interval is not None and interval[0] <= 0 <= interval[1]:
            out.print(
                "no clear difference in macro accuracy: the interval includes 0, so "
                f"{done.measured_on} does not show which model is better"
            )
    error = done.scores["calibration_error"]
    if "before" in error:
        out.print(
            f"calibration error: {percent(error['before'])} % before, {percent(error['after'])} % after"
        )
    if "oracle" in described:
        found = described["oracle"]
        out.print(
            f"{found['what']}: strength {found['strength']:.1f}, macro accuracy "
            f"{percent(found['macro_accuracy'])} %",
        )
    for warning in done.warnings:
        out.print(f"warning: {warning}", style="yellow")


def _table(done: Adjustment) -> Table:
    scores = done.scores
    table = Table(
        title=f"macro accuracy in %, {done.measured_on} split, 95 % intervals",
        caption=scores["intervals"],
    )
    for column in ("classes", "images", "before", "after", "difference"):
        table.add_column(column, justify="left" if column == "classes" else "right")
    for name, row in scores["groups"].items():
        cells = [
            with_interval(row[key], signed=key == "difference")
            for key in ("before", "after", "difference")
        ]
        table.add_row(f"{name} ({row['classes']})", f"{row['images']:,}", *cells)
    return table


def _require_same_suffix(sources: list[Path], target: Path) -> None:
    """Refuse a file whose name promises another format than that of the source, which is kept."""
    first = sources[0]
    if first.is_dir() or len(sources) > 1 or target.suffix.lower() == first.suffix.lower():
        return
    if target.suffix.lower() in (*SUFFIXES, *CHECKPOINTS):
        raise ConfigError(
            f"--out ends in {target.suffix}, but the file is written in the format of {first}: use a "
            f"name that ends in {first.suffix}."
        )


def _default_target(sources: list[Path], by: str) -> Path:
    first = sources[0]
    if len(sources) > 1:
        return first.parent / f"{by}-adjusted"
    suffix = ".pth.tar" if first.name.endswith(".pth.tar") else first.suffix
    return first.with_name(f"{first.name.removesuffix(suffix)}-{by}{suffix}")


def _require_named(by: str, text: str | None, *, oracle: bool) -> None:
    """Refuse options of another correction, before anything is read."""
    if oracle and by != "tau":
        raise ConfigError("--oracle belongs to --by tau.")
    if by != "prior" and text is not None:
        raise ConfigError("--prior belongs to --by prior.")
    if by == "prior" and text is None:
        raise ConfigError("--by prior needs --prior FILE, --prior uniform or --prior estimate.")


def _wanted_prior(text: str | None, names: tuple[str, ...]) -> torch.Tensor | None:
    return None if text in (None, "estimate") else read_prior(text, names)


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
            f"{name} needs three numbers, for example 0.485,0.456,0.406, not {text!r}."
        )
    return values
