"""`longtail train`."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import typer

from longtail.cli.lines import console, say
from longtail.cli.lists import complete_override
from longtail.cli.processes import start_processes
from longtail.cli.recipes import complete_recipe
from longtail.cli.show import checking, comparison_table, score_table, summary_table
from longtail.cli.submit import FOLDER, SLURM, SUBMIT, Cluster, Submission
from longtail.core import distributed
from longtail.core.errors import ConfigError
from longtail.core.interrupts import continued_in
from longtail.core.words import folder_name
from longtail.data.sources.file_set import OnBadImage
from longtail.data.sources.folder_contents import refuse_images_among_runs
from longtail.engine.hardware import find_device
from longtail.engine.log import Log, Logs, NotesOnce, SilentLog, default_log
from longtail.engine.run_folder import RunFolder, require_writable
from longtail.engine.threads import Threads, choose_threads
from longtail.recipes import RunConfig, resolve
from longtail.report.of_run import write_report
from longtail.run_queue.parallel import PARALLEL, train_parallel, wants_company
from longtail.runs import Run, default_folder, records, training, write_summary
from longtail.runs.run_folders import continued

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help="key=value, for example epochs=40 loss=ldam.", autocompletion=complete_override
    ),
]
Source = Annotated[
    str | None,
    typer.Argument(
        help="Folder or table of your images, shipped recipe, or YAML file.",
        autocompletion=complete_recipe,
    ),
]
Processes = Annotated[
    str | None,
    typer.Option(help="Train one run in this many processes: a number, or auto for one per GPU."),
]


def train(
    source: Source = None,
    overrides: Overrides = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds to train.")] = 1,
    out: Annotated[
        Path | None, typer.Option(help="Run folder; runs/NAME-DATE if not given.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or mps.")] = None,
    on_bad_image: Annotated[
        OnBadImage | None, typer.Option(help="What to do with damaged files: error or skip.")
    ] = None,
    record: Annotated[
        Path | None, typer.Option(help="Append one line per run to this results file.")
    ] = None,
    *,
    each: Annotated[
        str | None,
        typer.Option(help="KEY=A,B,...: train one run per value; shared stages are trained once."),
    ] = None,
    parallel: Annotated[int | None, typer.Option(min=1, help=PARALLEL)] = None,
    processes: Processes = None,
    submit: Annotated[Cluster | None, typer.Option(help=SUBMIT)] = None,
    slurm: Annotated[list[str] | None, typer.Option(help=SLURM)] = None,
) -> None:
    """Train on your own images or by a recipe, then score the model on the test split.

    Examples:

      longtail train my-images/

      longtail train my-images/ backbone=resnet50 pretrained=true loss=logit-adjusted

      longtail train digits-lt/balanced-softmax --seeds 3 --parallel 3

      longtail train digits-lt/crt --each classifier=joint,crt,lws,tau,ncm

      longtail train --resume --out runs/my-run

      longtail train imagenet-lt/cross-entropy --processes auto

      longtail train cifar100-lt/reslt --seeds 3 --submit slurm --slurm time=240 --slurm gpus=1
    """
    if processes is not None and submit is not None:
        raise ConfigError("For several processes in a job, use --slurm ntasks-per-node=N.")
    if processes is not None:
        start_processes(processes, device)
    place = find_device(device) if submit is None else None  # before the images are read
    more = [] if on_bad_image is None else [f"data.on_bad_image={on_bad_image}"]
    asked = [] if on_bad_image is None else ["--on-bad-image", on_bad_image]
    changes = [*(overrides or ()), *more]
    variants = {
        label: _configuration(source, [*changes, *own], out, resume=resume)
        for label, own in _variants(each)
    }
    config = next(iter(variants.values()))
    if record is not None:
        require_writable(record)
    if place is not None:
        distributed.start(place)
    folder = out or distributed.broadcast(default_folder(config))
    plan = _plan(variants, folder, seeds)
    if distributed.is_main():
        _require_free(plan, folder, resume=resume)
    if resume:
        _say_what_stands(plan)
    told = _Told()
    if submission := Submission.asked(submit, slurm, folder / FOLDER, device, parallel):
        done = _submit(plan, submission, resume=resume)
    else:
        done = _train_plan(plan, parallel, resume=resume, device=device, told=told)
    with continued_in(folder):
        finished = _collected(done, plan, record)
    if distributed.is_main() and finished:
        _show(finished, folder, told.notes)
        # without overrides, a continued run keeps its own
        named = source if source and (changes or not resume) else str(folder / "config.yaml")
        beside = (out, seeds) if out is not None and each is None else None
        _say_how_to_train_another(finished, [named, *(overrides or ())], asked, beside)


def _collected(
    done: Iterator[tuple[str, Run]], plan: Plan, record: Path | None
) -> dict[str, list[Run]]:
    """Return the runs by variant, in the order of their seeds, and append each to `record` as it ends."""
    results: dict[str, list[Run]] = {label: [] for label in plan}
    for label, run in done:
        results[label].append(run)
        if record is not None and distributed.is_main():
            records.append_record(record, records.record(run, run.evaluated_splits()[0]))
    for runs in results.values():
        runs.sort(key=lambda run: run.config.training.seed)
    return {label: runs for label, runs in results.items() if runs}


def _say_how_to_train_another(
    finished: Mapping[str, list[Run]],
    words: list[str],
    asked: list[str],
    beside: tuple[Path, int] | None,
) -> None:
    """Name the command for the next seed: source and overrides, options, and a folder beside `--out`."""
    seed = 1 + max(run.config.training.seed for runs in finished.values() for run in runs)
    kept = [word for word in words if not word.split("=")[0].endswith("seed")]
    again = ["train", *kept, f"seed={seed}", *asked]
    if beside is not None:
        again += ["--out", _beside(beside[0], seed, beside[1])]
    say(f"to train another seed: longtail {shlex.join(again)}")


class _Told(SilentLog):
    """Remembers what was said, so that the same is not said again after the training."""

    def __init__(self) -> None:
        self.notes: set[str] = set()

    def note(self, text: str) -> None:
        """Remember a sentence."""
        self.notes.add(text)


Plan = Mapping[str, Mapping[Path, RunConfig]]  # variant -> run folder -> what is trained into it


def _plan(variants: Mapping[str, RunConfig], folder: Path, seeds: int) -> Plan:
    plan: dict[str, dict[Path, RunConfig]] = {}
    for label, variant in variants.items():
        start, plan[label] = variant.start or _shared_start(folder, label, variants), {}
        for seed in range(variant.training.seed, variant.training.seed + seeds):
            training = variant.training.model_copy(update={"seed": seed})
            place = _place(folder, label, seed if seeds > 1 else None)
            plan[label][place] = variant.model_copy(update={"training": training, "start": start})
    return plan


def _train_plan(
    plan: Plan, parallel: int | None, *, resume: bool, device: str | None, told: _Told
) -> Iterator[tuple[str, Run]]:
    """Train one variant after the other, which may need its first stage, and yield their runs as they end."""
    seeds = len(next(iter(plan.values())))
    # one number, whether they are trained in parallel or one after another: the results are the same
    threads = choose_threads(seeds * distributed.world_size())
    log = Logs(NotesOnce(default_log()), told) if distributed.is_main() else SilentLog()
    for label, configs in plan.items():
        done: Iterator[Run]
        if wants_company(parallel, len(configs), device, threads):
            done = train_parallel(
                configs, parallel, resume=resume, device=device, threads=threads, note=say
            )
        else:
            done = (_train(c, place, resume, device, threads, log) for place, c in configs.items())
        yield from ((label, run) for run in done)


def _submit(plan: Plan, submission: Submission, *, resume: bool) -> Iterator[tuple[str, Run]]:
    """Submit all runs, and yield those that are finished."""
    label_of = {place: label for label, configs in plan.items() for place in configs}
    configs = {place: config for own in plan.values() for place, config in own.items()}
    after = {
        place: start / place.name if (start := Path(config.start)) not in configs else start
        for place, config in configs.items()
        if config.start is not None
    }
    again = [*sys.argv[1:], *(() if resume else ("--resume",))]
    if "--out" not in again:
        again += ["--out", str(submission.folder.parent)]
    for run in submission.train(configs, after, again=shlex.join(["longtail", *again])):
        yield label_of[run.folder.path], run


def _require_free(plan: Plan, folder: Path, *, resume: bool) -> None:
    """Refuse folders that the runs may not have, before the first of them reads its images."""
    for place in (place for configs in plan.values() for place in configs):
        if not (resume and RunFolder(place).config.exists()):
            RunFolder(place).require_free()
        if place != folder:
            refuse_images_among_runs(folder)


def _say_what_stands(plan: Plan) -> None:
    """Name the folders that `--resume` was given for and that hold no run or a finished one.

    A slip would cost a whole training, and old scores would look like new ones.
    """
    for place, config in (each for configs in plan.values() for each in configs.items()):
        if not (place / "config.yaml").exists():
            say(f"{place} contains no run yet, so a new one starts.")
            continue
        continued(config, RunFolder(place))  # another run is refused, before it is called finished
        if Run.open(place).evaluated_splits():
            say(f"{place} is already finished; nothing is left to train.")


def _train(
    config: RunConfig,
    place: Path,
    resume: bool,
    device: str | None,
    threads: Threads,
    log: Log,
) -> Run:
    with checking() as progress:
        return training.train(
            config,
            out=place,
            resume=resume,
            device=device,
            threads=threads,
            log=log,
            report=write_report,
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
            f"--each needs KEY=A,B,..., for example classifier=crt,lws, not {each!r}."
        )
    name, labels = key.rpartition(".")[2], dict[str, list[str]]()
    for value in dict.fromkeys(values):
        # a value may be a path or hold what no folder can be called: the runs stay inside --out
        stem = label = folder_name(f"{name}-{value}")
        while label in labels:
            label = f"{stem}-{len(labels) + 1}"
        labels[label] = [f"{key}={value}"]
    return list(labels.items())


def _place(folder: Path, label: str, seed: int | None) -> Path:
    variant = folder / label if label else folder
    return variant if seed is None else variant / f"seed-{seed}"


def _beside(out: Path, seed: int, seeds: int) -> str:
    """Return where one more seed of the run in `out` goes."""
    if seeds > 1:
        return str(_place(out, "", seed))
    return str(out.with_name(f"{re.sub(r'-seed-[0-9]+$', '', out.name)}-seed-{seed}"))


def _shared_start(folder: Path, label: str, variants: Mapping[str, RunConfig]) -> str | None:
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
    if source is not None and resume and out is None:
        begun = sorted(Path("runs").glob("*/config.yaml"), key=lambda file: file.stat().st_mtime)
        latest = f" The newest run here is {begun[-1].parent}." if begun else ""
        raise ConfigError(
            f"--resume continues a run, so name it: longtail train --resume --out RUN.{latest}"
        )
    if source is not None:
        config = resolve(source, changes)
        return config if changes or out is None or not resume else _moved(config, out)
    if not resume or out is None:
        raise ConfigError(
            "Name a recipe or a folder of images, for example: longtail train "
            "digits-lt/cross-entropy. To continue a run: longtail train --resume --out RUN."
        )
    seeds = sorted(out.glob("seed-*/config.yaml"))
    config = Run.open(seeds[0].parent if seeds else out).config
    if seeds:
        raise ConfigError(
            f"{out} contains {len(seeds)} seeds; continue them with the recipe: longtail train "
            f"{config.recipe} --seeds N --resume --out {out}."
        )
    return config


def _moved(config: RunConfig, out: Path) -> RunConfig:
    """Return the configuration of the run in `out` with images at another place, named without any option."""
    own = ("folder", "table")
    if config.data.name not in own or not RunFolder(out).config.exists():
        return config
    stored = Run.open(out).config
    if stored.data.name != config.data.name:
        return config
    place = {
        key: getattr(config.data, key) for key in ("path", "root") if hasattr(config.data, key)
    }
    return stored.model_copy(update={"data": stored.data.model_copy(update=place)})


def _show(results: dict[str, list[Run]], folder: Path, told: set[str]) -> None:
    out = console()
    scored = {
        label: found
        for label, runs in results.items()
        if (found := [run for run in runs if run.evaluated_splits()])
    }
    if len(scored) > 1:
        rows = [(label, write_summary(runs, folder / label)) for label, runs in scored.items()]
        out.print(comparison_table(rows))
    for runs in scored.values() if len(scored) == 1 else ():
        if len(runs) > 1:
            out.print(summary_table(write_summary(runs, folder)))
            continue
        scores = runs[0].scores(runs[0].evaluated_splits()[0])
        out.print(score_table([(scores["recipe"], scores)]))
        for note in (f"note: {note}" for note in scores["notes"]):
            if note not in told:
                say(note)
    first = next(run for runs in results.values() for run in runs)
    say(f"run folder: {folder}")
    say(f"to see the results: longtail report {shlex.quote(str(folder))}")
    say(f"to use the model: longtail predict {shlex.quote(str(first.folder.path))} IMAGES")
