"""`longtail data inspect`, `longtail data labels` and `longtail data verify`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from pydantic import ValidationError
from rich.table import Table

from longtail.cli.lines import console, say
from longtail.cli.recipes import complete_recipe
from longtail.cli.show import checking
from longtail.cli.train import Overrides
from longtail.core.errors import ConfigError, DataError
from longtail.core.groups import ShotGroups
from longtail.core.manifest import SPLITS
from longtail.core.names import shown
from longtail.core.paths import data_root, expanded
from longtail.core.table_cells import csv_text
from longtail.core.words import counted
from longtail.data.benchmark_facts import Check, verify_cifar, verify_imagenet, verify_lists
from longtail.data.data_set import DataSet
from longtail.data.images.equal_files import (
    describe_several_labels,
    equal_rows,
    with_copies,
    with_several_labels,
)
from longtail.data.inspection import Inspection, inspect_prepared
from longtail.data.near_duplicates.found import NearDuplicates, near_by_features
from longtail.data.options import FolderData, TableData
from longtail.data.preparation import prepare
from longtail.data.sources.benchmark_lists import LIST_FILES
from longtail.data.sources.cifar import LAYOUTS
from longtail.data.sources.file_set import OnSimilarNames
from longtail.data.sources.folder_contents import refuse_one_file
from longtail.engine.own_folder import require_own_folder
from longtail.engine.run_folder import RunFolder, require_writable, writing
from longtail.evaluation.label_quality import LabelQuality, judge_labels
from longtail.evaluation.scores import LEAST_IMAGES
from longtail.recipes import resolve
from longtail.runs import Run, features

# what inspect and labels write; both may share a folder
WRITTEN = (
    "counts.csv", "distribution.png", "findings.json", "near-duplicates.html", "together.csv",
    "labels.csv", "labels.html",
)  # fmt: skip
MOST_SHOWN = 10  # suspicious labels that are printed

app = typer.Typer(
    help="Inspect images before you train on them.", no_args_is_help=True,
    add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
)  # fmt: skip


@app.command("inspect")
def inspect_data(
    path: Annotated[Path, typer.Argument(help="Folder or table of images.")],
    root: Annotated[
        Path | None, typer.Option(help="Folder that relative paths in a table start from.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for distribution.png, counts.csv, findings.json, near-duplicates.html; with "
            "--features also together.csv, a table that keeps near-duplicates in one split."
        ),
    ] = None,
    *,
    by_features: Annotated[
        bool,
        typer.Option(
            "--features",
            help="Find cropped copies and bursts too, by features of a pretrained network (minutes).",
        ),
    ] = False,
    on_similar_names: Annotated[
        OnSimilarNames,
        typer.Option(
            help="What to do with classes whose names differ only in case: error, merge or keep."
        ),
    ] = "error",
    bit_depth: Annotated[
        int | None,
        typer.Option(
            min=8,
            max=16,
            help="Number of bits in use, for files that store more than 8 bits per channel.",
        ),
    ] = None,
) -> None:
    """Count classes, draw the distribution, and find damaged, duplicate and leaking images.

    If the images have no split, this shows the split that `longtail train` would draw.

    Example: longtail data inspect my-images --out inspection
    """
    if out is not None:
        require_writable(out / "counts.csv")
        require_own_folder(out, WRITTEN, "Findings")
    with checking() as progress:
        config = _as_trained(path, root, bit_depth=bit_depth, on_similar_names=on_similar_names)
        prepared = prepare(config, progress=progress)
        near = [prepared.near] if prepared.near is not None else []
        pairs = prepared.near is not None and len(prepared.near.pairs) > 0
        pages = out is not None and (pairs or prepared.with_several_labels())
        if by_features or pages:
            run = resolve(str(path), [f"data.{key}={value}" for key, value in _asked(config)])
            data = Run(RunFolder(Path()), run).open_data(progress)
        if by_features:
            values = features(run, data=data, note=say, progress=progress).values
            near.append(near_by_features(values, equal_rows(data.pixels)))
    found = inspect_prepared(prepared, near[1] if by_features else None)
    _print(found, drawn=prepared.drawn)
    if out is not None:
        _write(found, out)
        if found.near_duplicates or found.conflicting:
            _write_near(data, near, out)
        if by_features and prepared.drawn and len(near[-1].pairs):
            _write_together(found, near[-1], out / "together.csv")
            start = path if isinstance(config, FolderData) else root or path.parent
            command = ["longtail", "train", str(out / "together.csv"), f"data.root={start}"]
            say(
                "the split above ignores what only the features find; to keep those images together as "
                f"well: {shlex.join([*command, 'data.keep_together=together'])}"
            )
            return
    command = ["longtail", "train", str(path)]
    command += [f"data.root={root}"] if root is not None else []
    command += ["--on-bad-image", "skip"] if found.damaged else []
    say(f"to train: {shlex.join(command)}")


@app.command("labels")
def labels(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder or table of images, or a recipe.", autocompletion=complete_recipe
        ),
    ],
    overrides: Overrides = None,
    root: Annotated[
        Path | None, typer.Option(help="Folder that relative paths in a table start from.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for labels.csv and labels.html, a page with the images.")
    ] = Path("labels"),
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or mps.")] = None,
) -> None:
    """Rank images by how probably their label is wrong, judged by a classifier that did not see them.

    It works on frozen features of a pretrained network, which are computed once and kept (longtail
    features), and looks at all images, whatever their split. It changes nothing.

    Examples:

      longtail data labels my-images

      longtail data labels images.csv --root photos --out suspicious
    """
    require_writable(out / "labels.csv")
    require_own_folder(out, WRITTEN, "Findings")
    changes = ["data.on_bad_image=skip"] if Path(source).expanduser().exists() else []
    changes += [f"data.root={root}"] if root is not None else []
    with checking() as progress:
        config = resolve(source, [*changes, *(overrides or ())])
        data = Run(RunFolder(Path()), config).open_data(progress)
        found = features(config, device=device, data=data, note=say, progress=progress)
    manifest = data.manifest
    same = equal_rows(data.pixels)
    near = near_by_features(found.values, same)
    units = with_copies(data.together, [*same, *near.groups()], len(manifest))
    quality = judge_labels(found.values, manifest.labels, len(manifest.classes), together=units)
    if data.skipped:
        say(f"note: {data.describe_skipped()}")
    ranking = quality.ranking()
    groups = ShotGroups.from_counts(manifest.class_counts(), "threshold")
    _write_labels(data, quality, groups, out)
    twice = with_several_labels(manifest, same)
    told = np.isin(np.arange(len(manifest)), [row for rows in twice for row in rows])
    suspicious = quality.suspicious & ~told
    if twice:
        paths = [[_where(data, row) for row in rows] for rows in twice]
        say(describe_several_labels(paths))
    of = (
        f"of {'the other ' if twice else ''}{counted(int((~told).sum()), 'label is', 'labels are')}"
    )
    say(
        f"{manifest.name}: {int(suspicious.sum()):,} {of} suspicious, by features of {found.backbone}"
    )
    for row in ranking[suspicious[ranking]][:MOST_SHOWN].tolist():
        given, other = manifest.labels[row], quality.other[row]
        say(
            f"  {shown(_where(data, row))}: labelled {shown(manifest.classes[given])}, more likely "
            f"{shown(manifest.classes[other])}"
        )
    if left := len(manifest) - len(ranking):
        say(
            f"note: {counted(left, 'label', 'labels')} of classes with a single image cannot be judged"
        )
    say(
        f"written to {out}: labels.html shows the images, labels.csv holds all, first the most suspicious"
    )


@app.command("verify")
def verify(
    benchmark: Annotated[str, typer.Argument(help="cifar10, cifar100, imagenet-lt, ...")],
    root: Annotated[
        Path | None, typer.Option(help="Folder of the benchmark; $LONGTAIL_DATA if not given.")
    ] = None,
) -> None:
    """Compare a copy of a benchmark with its published counts and checksums.

    Example: longtail data verify cifar100 --root ~/data
    """
    folder = expanded(root or data_root())
    if benchmark in LAYOUTS:
        checks = verify_cifar(benchmark, folder)
    elif benchmark in LIST_FILES:
        checks = verify_lists(benchmark, folder)
    elif benchmark == "imagenet":
        checks = verify_imagenet(folder)
    else:
        known = ", ".join([*LAYOUTS, *LIST_FILES, "imagenet"])
        raise ConfigError(f"There is no benchmark {benchmark!r}; choose from {known}.")
    table = Table("", "what", "found", "expected")
    for check in checks:
        table.add_row(_mark(check), check.what, check.found, check.expected)
    console().print(table)
    if any(check.passed is False for check in checks):
        raise DataError(f"{folder} is not the published {benchmark}: see the lines marked FAIL.")


def _mark(check: Check) -> str:
    return {True: "ok", False: "FAIL", None: "note"}[check.passed]


def _as_trained(path: Path, root: Path | None, **more: object) -> FolderData | TableData:
    """Return the data as `longtail train` would open it; damaged images are named and no error."""
    raw = {"path": path, "on_bad_image": "skip", **more}
    try:
        folder = expanded(path).is_dir()
        if folder and root is not None:
            raise ConfigError(f"--root works only with a table, but {path} is a folder.")
        refuse_one_file(expanded(path))
        if folder:
            return FolderData.model_validate({**raw, "name": "folder"})
        return TableData.model_validate({**raw, "name": "table", "root": root})
    except ValidationError as error:
        raise ConfigError("; ".join(str(found["msg"]) for found in error.errors())) from error
    except (OSError, RuntimeError) as error:  # a folder above it is closed, or `~` means nothing
        raise DataError(f"{shown(str(path))} cannot be read ({error}).") from error


def _asked(config: FolderData | TableData) -> Iterator[tuple[str, object]]:
    """Yield what `_as_trained` set, as options of a training."""
    for key in ("root", "bit_depth", "on_similar_names", "on_bad_image"):
        if (value := getattr(config, key, None)) is not None:
            yield key, value


def _print(found: Inspection, *, drawn: bool) -> None:
    out = console()
    counts = found.manifest.class_counts()
    sizes = ", ".join(f"{split} {size:,}" for split, size in found.sizes.items() if size)
    total = len(found.manifest)
    images = f"{total:,} images"
    rest = ""
    if bad := len(found.damaged):
        images = f"{total:,} of {total + bad:,} images"
        rest = f"; the other {'one' if bad == 1 else f'{bad:,}'} cannot be read"
    say(f"{found.manifest.name}: {len(counts)} classes, {images} ({sizes}){rest}")
    if drawn:
        say("they have no split; this is the one that longtail train would draw")
    say(f"imbalance ratio (largest over smallest class in train): {found.imbalance_ratio:.1f}")
    say(f"groups: {found.groups[0]}")
    _print_counts(found)
    if drawn and not found.sizes["test"]:
        say("no class has enough images to put one into test, so no accuracy can be measured there")
    few = [f"{shown(name)} ({size})" for name, size in found.few_to_judge(LEAST_IMAGES)]
    if few:
        more = f" and {len(few) - MOST_SHOWN:,} more" if len(few) > MOST_SHOWN else ""
        have = counted(len(few), "class has", "classes have")
        say(
            f"{have} fewer than {LEAST_IMAGES} test images, too few to judge a class: "
            f"{', '.join(few[:MOST_SHOWN])}{more}"
        )
    if drawn and (tiny := found.tiny_that_gave(LEAST_IMAGES)):
        name, train, total = tiny[0]
        say(
            f"{counted(len(tiny), 'tiny class gives', 'tiny classes give')} images to val and test, such as "
            f"{shown(name)}: {train} of {total} images stay in train (data.keep_in_train=N keeps N of each)"
        )
    for warning in found.warnings():
        say(f"warning: {warning}")
    if found.damaged:
        say(
            "longtail train stops at images that cannot be read, unless it is given --on-bad-image skip"
        )
    if not found.warnings():
        out.print("nothing suspicious found")


def _print_counts(found: Inspection) -> None:
    """Print how many images of each class each split has; of many classes the largest and smallest."""
    counts, splits = found.manifest.class_counts(), [s for s, size in found.sizes.items() if size]
    table = Table("class", *splits, "")
    ranking = counts.ranking()
    listed = ranking if len(ranking) <= 20 else (*ranking[:10], *ranking[-10:])
    largest = max(counts.values)
    each = {split: found.manifest.histogram(split) for split in splits}
    for place, label in enumerate(listed):
        if place == 10 and len(ranking) > 20:
            table.add_row("...", *("" for _ in splits), "")
        bar = "#" * max(1, round(40 * counts.values[label] / largest))
        numbers = (f"{each[split][label]:,}" for split in splits)
        table.add_row(counts.names[label], *numbers, bar)
    console().print(table)


def _write(found: Inspection, out: Path) -> None:
    # what draws takes a second to import
    from longtail.report.distribution import draw_distribution
    from longtail.report.saving import describe_missing

    counts = found.manifest.class_counts()
    with writing(out / "counts.csv") as file:
        each = [found.manifest.histogram(split).tolist() for split in SPLITS]
        text = csv_text([("class", *SPLITS), *zip(counts.names, *each, strict=True)])
        file.write_text(text, encoding="utf-8", newline="\n")
    findings = asdict(found)
    del findings["manifest"]
    with writing(out / "findings.json") as file:
        file.write_text(json.dumps(findings, indent=1) + "\n", encoding="utf-8")
    with writing(out / "distribution.png") as file:
        missing = draw_distribution(counts, file)
    kinds = ["the near-duplicates"] if found.near_duplicates else []
    if found.conflicting:
        kinds = ["the images with different labels", *kinds]
    pages = f": near-duplicates.html shows {' and '.join(kinds)}" if kinds else ""
    say(f"written to {out}{pages}")
    if missing:
        where = ("distribution.png shows", "counts.csv contains")
        say(f"note: {describe_missing(missing, *where)}")


def _write_together(found: Inspection, near: NearDuplicates, file: Path) -> None:
    """Write path, label and group of every image as a table that can be trained on."""
    manifest = found.manifest
    group = {row: f"group {n}" for n, rows in enumerate(near.groups(), start=1) for row in rows}
    rows = [
        (path, manifest.classes[label], group.get(row, ""))
        for row, (path, label) in enumerate(
            zip(manifest.paths, manifest.labels.tolist(), strict=True)
        )
    ]
    with writing(file) as written:
        text = csv_text([("path", "label", "together"), *rows], safe=False)
        written.write_text(text, encoding="utf-8", newline="\n")


def _write_near(data: DataSet, found: Sequence[NearDuplicates], out: Path) -> None:
    from longtail.report.collection import near_page

    with writing(out / "near-duplicates.html") as file:
        file.write_text(near_page(data, found), encoding="utf-8")


def _write_labels(data: DataSet, quality: LabelQuality, groups: ShotGroups, out: Path) -> None:
    # what draws takes a second to import
    from longtail.report.collection import labels_page, ranking_rows

    with writing(out / "labels.csv") as file:
        file.write_text(csv_text(ranking_rows(data, quality)), encoding="utf-8", newline="\n")
    with writing(out / "labels.html") as file:
        file.write_text(labels_page(data, quality, groups), encoding="utf-8")


def _where(data: DataSet, row: int) -> str:
    return data.manifest.paths[row] if data.manifest.paths else f"image {data.manifest.ids[row]}"
