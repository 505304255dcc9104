"""`longtail train`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from longtail import api
from longtail.cli.at_once import AT_ONCE, train_at_once, wants_company
from longtail.cli.lists import complete_recipe
from longtail.cli.show import (
    checking,
    comparison_table,
    console,
    say,
    score_table,
    summary_table,
)
from longtail.core import distributed
from longtail.core.errors import ConfigError
from longtail.data.check import OnBadPicture
from longtail.engine.hardware import find_device
from longtail.engine.log import SilentLog, default_log
from longtail.engine.run_folder import require_writable
from longtail.recipes import RunConfig, resolve
from longtail.runs import append_record


def train(
    source: Annotated[
        str | None,
        typer.Argument(
            help="Shipped recipe, YAML file, or a folder or table of your pictures.",
            autocompletion=complete_recipe,
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value, for example epochs=40 loss=ldam.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Train this many seeds.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Run folder.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or mps.")] = None,
    on_bad_picture: Annotated[
        OnBadPicture | None, typer.Option(help="What to do with damaged files: error or skip.")
    ] = None,
    record: Annotated[
        Path | None, typer.Option(help="Append a line per run to this results file.")
    ] = None,
    *,
    each: Annotated[
        str | None,
        typer.Option(help="KEY=A,B,...: one run per value; they share what they can."),
    ] = None,
    at_once: Annotated[int | None, typer.Option(min=1, help=AT_ONCE)] = None,
) -> None:
    """Train a recipe or your own pictures, then score the last epoch on the test split.

    Examples:

      longtail train cifar100-lt/cross-entropy

      longtail train my-pictures/ backbone=resnet50 pretrained=true loss=logit-adjusted

      longtail train digits-lt/balanced-softmax --seeds 3 --at-once 3

      longtail train digits-lt/crt --each classifier=joint,crt,lws,tau,ncm

      longtail train --resume --out runs/my-run
    """
    changes = list(overrides or ())
    if on_bad_picture is not None:
        changes.append(f"data.on_bad_picture={on_bad_picture}")
    variants = {
        label: _configuration(source, [*changes, *more], out, resume=resume)
        for label, more in _variants(each)
    }
    config = next(iter(variants.values()))
    if record is not None:
        require_writable(record)
    distributed.start(find_device(device))
    folder = out or distributed.broadcast(api.default_folder(config))
    results: dict[str, list[api.Run]] = {}
    done: Iterator[api.Run]
    for label, variant in variants.items():
        start = variant.start or _shared_start(folder, label, variants)
        configs = {}
        for seed in range(variant.training.seed, variant.training.seed + seeds):
            training = variant.training.model_copy(update={"seed": seed})
            place = _place(folder, label, seed if seeds > 1 else None)
            configs[place] = variant.model_copy(update={"training": training, "start": start})
        if wants_company(at_once, len(configs), device):
            done = train_at_once(configs, at_once, resume=resume, device=device, note=say)
        else:
            done = (_train(config, place, resume, device) for place, config in configs.items())
        results[label] = []
        for run in done:
            results[label].append(run)
            if record is not None and distributed.is_main():
                append_record(record, api.record(run, run.evaluated_splits()[0]))
        results[label].sort(key=lambda run: run.config.training.seed)
    if distributed.is_main():
        kept = [change for change in changes if not change.split("=")[0].endswith("seed")]
        _show(results, folder, shlex.join([source or config.recipe, *kept]))


def _train(config: RunConfig, place: Path, resume: bool, device: str | None) -> api.Run:
    with checking() as progress:
        return api.train(
            config,
            out=place,
            resume=resume,
            device=device,
            log=default_log(place) if distributed.is_main() else SilentLog(),
            progress=progress,
        )


def _variants(each: str | None) -> list[tuple[str, list[str]]]:
    """Return a label and overrides for every run that `--each` asks for."""
    if each is None:
        return [("", [])]
    key, equals, text = each.partition("=")
    values = re.split(r",(?![^\[]*\])", text)  # commas in brackets belong to a list
    if not equals or not key or not all(values):
        raise ConfigError(
            f"--each wants KEY=A,B,..., for example classifier=crt,lws, not {each!r}."
        )
    name = key.rpartition(".")[2]
    return [(f"{name}-{value}", [f"{key}={value}"]) for value in dict.fromkeys(values)]


def _place(folder: Path, label: str, seed: int | None) -> Path:
    variant = folder / label if label else folder
    return variant if seed is None else variant / f"seed-{seed}"


def _shared_start(folder: Path, label: str, variants: dict[str, RunConfig]) -> str | None:
    """Return an earlier variant that trained the first stage that this one needs."""
    for earlier, config in variants.items():
        if earlier == label:
            return None
        if variants[label].can_start_from(config):
            return str(folder / earlier)
    return None


def _configuration(
    source: str | None, changes: list[str], out: Path | None, *, resume: bool
) -> RunConfig:
    if source is not None:
        return resolve(source, changes)
    if not resume or out is None:
        raise ConfigError(
            "Name a recipe or a folder of pictures, for example: longtail train "
            "digits-lt/cross-entropy. To continue a run: longtail train --resume --out RUN."
        )
    seeds = sorted(out.glob("seed-*/config.yaml"))
    config = api.Run.open(seeds[0].parent if seeds else out).config
    if seeds:
        raise ConfigError(
            f"{out} holds {len(seeds)} seeds; continue them with the recipe: longtail train "
            f"{config.recipe} --seeds N --resume --out {out}."
        )
    return config


def _show(results: dict[str, list[api.Run]], folder: Path, source: str) -> None:
    out = console()
    scored = {
        label: found
        for label, runs in results.items()
        if (found := [run for run in runs if run.evaluated_splits()])
    }
    if len(scored) > 1:
        rows = [(label, api.write_summary(runs, folder / label)) for label, runs in scored.items()]
        out.print(comparison_table(rows))
    for runs in scored.values() if len(scored) == 1 else ():
        if len(runs) > 1:
            out.print(summary_table(api.write_summary(runs, folder)))
            continue
        scores = runs[0].scores(runs[0].evaluated_splits()[0])
        out.print(score_table([(scores["recipe"], scores)]))
        for note in scores["notes"]:
            say(f"note: {note}")
    first = next(run for runs in results.values() for run in runs)
    say(f"run folder: {folder}")
    say(f"look at it: longtail report {folder}")
    say(f"take it into use: longtail predict {first.folder.path} PICTURES")
    seed = max(run.config.training.seed for runs in results.values() for run in runs) + 1
    say(f"once more with another seed: longtail train {source} seed={seed}")
