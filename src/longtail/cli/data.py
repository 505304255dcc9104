"""`longtail data inspect` and `longtail data verify`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from longtail.cli.show import checking, console, say
from longtail.core.errors import ConfigError, DataError
from longtail.data.benchmarks import Check, verify_cifar, verify_lists
from longtail.data.check import check_pictures
from longtail.data.cifar import LAYOUTS
from longtail.data.config import LIST_FILES, data_root
from longtail.data.files import read_folder, read_table
from longtail.data.inspect import Inspection, inspect
from longtail.engine.run_folder import require_writable, writing

app = typer.Typer(help="Look at pictures before training on them.", no_args_is_help=True)


@app.command("inspect")
def inspect_data(
    path: Annotated[Path, typer.Argument(help="Folder or table of pictures.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for distribution.png, counts.csv, findings.json.")
    ] = None,
) -> None:
    """Count classes, draw the distribution, find damaged, repeated and leaking pictures.

    Example: longtail data inspect my-pictures --out inspection
    """
    file_set = read_folder(path) if path.is_dir() else read_table(path)
    if out is not None:
        require_writable(out / "counts.csv")
    with checking() as progress:
        size = len(file_set.manifest)
        checked = check_pictures(file_set.files(), progress=lambda done: progress(done, size))
    found = inspect(file_set.manifest, checked, file_set)
    _print(found)
    if out is not None:
        _write(found, out)


@app.command("verify")
def verify(
    benchmark: Annotated[str, typer.Argument(help="cifar10, cifar100, imagenet-lt, ...")],
    root: Annotated[Path | None, typer.Option(help="Its folder; else $LONGTAIL_DATA.")] = None,
) -> None:
    """Compare a copy of a benchmark with its published counts and checksums.

    Example: longtail data verify cifar100 --root ~/data
    """
    folder = (root or data_root()).expanduser()
    if benchmark in LAYOUTS:
        checks = verify_cifar(benchmark, folder)
    elif benchmark in LIST_FILES:
        checks = verify_lists(benchmark, folder)
    else:
        known = ", ".join([*LAYOUTS, *LIST_FILES])
        raise ConfigError(f"There is no benchmark {benchmark!r}; there are {known}.")
    table = Table("", "what", "found", "expected")
    for check in checks:
        table.add_row(_mark(check), check.what, check.found, check.expected)
    console().print(table)
    if any(check.passed is False for check in checks):
        raise DataError(f"{folder} is not the published {benchmark}: see the lines marked FAIL.")


def _mark(check: Check) -> str:
    return {True: "ok", False: "FAIL", None: "note"}[check.passed]


def _print(found: Inspection) -> None:
    out = console()
    counts = found.manifest.class_counts()
    sizes = ", ".join(f"{split} {size:,}" for split, size in found.sizes.items() if size)
    out.print(f"{found.manifest.name}: {len(counts)} classes, {sizes} pictures", markup=False)
    out.print(f"imbalance ratio (largest over smallest class): {found.imbalance_ratio:.1f}")
    for line in found.groups:
        say(f"groups: {line}")
    table = Table("class", "train", "")
    ranking = counts.ranking()
    shown = ranking if len(ranking) <= 20 else (*ranking[:10], *ranking[-10:])
    largest = max(counts.values)
    for place, label in enumerate(shown):
        if place == 10 and len(ranking) > 20:
            table.add_row("...", "", "")
        bar = "#" * max(1, round(40 * counts.values[label] / largest))
        table.add_row(counts.names[label], f"{counts.values[label]:,}", bar)
    out.print(table)
    for warning in found.warnings():
        say(f"warning: {warning}")
    if not found.warnings():
        out.print("nothing suspicious found")


def _write(found: Inspection, out: Path) -> None:
    from longtail.report.distribution import draw_distribution  # a second to import

    counts = found.manifest.class_counts()
    with writing(out / "counts.csv") as file:
        rows = (f"{_quoted(n)},{v}\n" for n, v in zip(counts.names, counts.values, strict=True))
        file.write_text("class,train\n" + "".join(rows), encoding="utf-8")
    findings = asdict(found)
    del findings["manifest"]
    with writing(out / "findings.json") as file:
        file.write_text(json.dumps(findings, indent=1) + "\n", encoding="utf-8")
    with writing(out / "distribution.png") as file:
        draw_distribution(counts, file)
    say(f"written to {out}")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"' if any(c in name for c in ',"\n') else name
