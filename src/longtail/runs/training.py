"""Train one run from its configuration to its scores."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from longtail.core import distributed
from longtail.core.groups import ShotGroups
from longtail.core.host_memory import keeping_freed_memory
from longtail.core.paths import expanded
from longtail.core.protocol import Protocol
from longtail.data.data_set import DataSet
from longtail.data.images.storage import ArrayImages
from longtail.data.preparation import Progress
from longtail.engine import checkpoint as ckpt
from longtail.engine.checksums import checksum
from longtail.engine.dry_run import try_once
from longtail.engine.hardware import find_device
from longtail.engine.identity import OLD
from longtail.engine.log import Log, Logs, SilentLog
from longtail.engine.loop import Trainer
from longtail.engine.pace import Pace
from longtail.engine.run_folder import RunFolder
from longtail.engine.shared_first_stage import read_first_stage
from longtail.engine.threads import Threads, computing_with
from longtail.engine.tracking import TrackedRun, Tracking, open_tracker, require_tracker
from longtail.methods import Method
from longtail.models.light import describe_light
from longtail.models.low_rank import describe_low_rank
from longtail.recipes import RunConfig, resolve
from longtail.recipes.settling import notes_on_weights, settle, shorter_ways
from longtail.runs.model import build
from longtail.runs.repeated_scores import RepeatedScores
from longtail.runs.run import Run
from longtail.runs.run_folders import (
    begin,
    continued,
    default_folder,
    remember_place,
    require_continues,
    require_shared,
    threads_of,
)
from longtail.runs.scoring import evaluate


def train(
    source: str | Path | RunConfig,
    overrides: Sequence[str] = (),
    *,
    out: Path | str | None = None,
    resume: bool = False,
    device: str | None = None,
    threads: Threads | None = None,
    deadline: float | None = None,
    log: Log | None = None,
    progress: Progress = lambda done, size: None,
    report: Callable[[Run], Path] | None = None,
) -> Run:
    """Train one run and score it on its test split (on val if there is no test).

    Args:
        source: A recipe, YAML file, folder or table; or a configuration.
        overrides: `key=value`.
        out: Run folder; `runs/<recipe>-<date>` if not given.
        resume: Continue the run in `out`.
        device: `cpu`, `cuda`, `cuda:1`, `mps`; the best there is if not given.
        threads: That a new run computes with on a CPU, see `choose_threads`; a continued run keeps its own.
        deadline: When to stop, by `time.monotonic`, at the last checkpoint before it.
        log: Where to report; silent if not given.
        progress: Called while image files are checked.
        report: Writes the page about the run, for its tracker if it has one.

    Raises:
        OutOfTimeError: If the deadline comes before the end; the run can be resumed.
        LongtailError: In words, whatever went wrong; a run can be resumed after it.
    """
    config = source if isinstance(source, RunConfig) else resolve(str(source), overrides)
    place = find_device(device)
    distributed.start(place)
    log = (log or SilentLog()) if distributed.is_main() else SilentLog()
    folder = RunFolder(distributed.broadcast(expanded(out) if out else default_folder(config)))
    require_shared(folder)
    if resume:
        config = continued(config, folder)
    if distributed.is_main() and not (resume and folder.config.exists()):
        folder.require_free()  # before the images are read
    own = threads_of(folder, place, threads, resume=resume)
    if own.note:
        log.note(f"note: {own.note}")
    with computing_with(own.number), keeping_freed_memory(place):
        return _train(
            config, folder, place, log, progress, report, resume=resume, deadline=deadline
        )


def _train(
    config: RunConfig,
    folder: RunFolder,
    place: torch.device,
    log: Log,
    progress: Progress,
    report: Callable[[Run], Path] | None,
    *,
    resume: bool,
    deadline: float | None,
) -> Run:
    require_tracker(config.training.tracker)
    identity = folder.identity() if resume and folder.config.exists() else None
    config, data, chosen = _open(Run(folder, config, identity), place, progress)
    counts = data.manifest.class_counts()
    method = build(config, config.model, counts, data.images.size).to(place)
    if config.training.channels_last:
        method = method.to(memory_format=torch.channels_last)
    if not type(method).__module__.startswith("longtail."):
        try_once(method, counts, data.images.size)
    data = replace(data, notes=(*data.notes, *method.notes))
    _announce(data, config, method, log)
    for note in () if resume else chosen or notes_on_weights(config, method):
        log.note(f"note: {note}")
    metadata = _metadata(config, data, method)
    trainer = _trainer(config, data, method, folder, metadata, place, log)
    trainer.deadline = deadline
    trainer.pace = _pace(config, trainer.protocol, place, log)
    trainer.check()
    facts = {}
    begun = resume and folder.config.exists() and ckpt.newest(folder.checkpoints) is not None
    if begun:
        require_continues(folder, identity, data)
    if config.start is not None and not begun:
        start, seed = expanded(config.start), config.training.seed
        first = read_first_stage(start, seed, metadata, data.contents())
        trainer.start_from(first.weights, first.metadata.epochs_done, str(first.checkpoint))
        facts["started_from"] = {
            "checkpoint": str(first.checkpoint),
            "weights_sha256": first.metadata.weights_sha256,
        }
        log.note(f"first stage taken from {first.checkpoint}")
    if not (resume and folder.config.exists()):
        identity = begin(folder, config, data, place, facts) if distributed.is_main() else None
        identity = distributed.broadcast(identity)
    else:
        if distributed.is_main():
            remember_place(folder, config)
        if identity is None:
            log.note(f"note: {OLD}")
    trainer.metadata = metadata.model_copy(update={"run": "" if identity is None else identity.run})
    require_shared(folder)
    run = Run(folder, config, identity)
    tracker = config.training.tracker if distributed.is_main() else "none"
    with open_tracker(tracker, _tracked(run), log.note) as tracking:
        trainer.log = log if tracking is None else Logs(log, tracking)
        with folder.held() if distributed.is_main() else nullcontext():
            trainer.run(resume=resume)
        _score(run, data, place, log, tracking, report)
    return run


def _tracked(run: Run) -> TrackedRun:
    place = run.folder.path.resolve()
    name = "" if run.identity is None else run.identity.run  # runs of one configuration share it
    plain = {
        key: value if isinstance(value, str | int | float | bool) else json.dumps(value)
        for key, value in run.config.dotted().items()
    }
    return TrackedRun(checksum(f"{name} {place}".encode())[:16], place.name, place, plain)


def _score(
    run: Run,
    data: DataSet,
    place: torch.device,
    log: Log,
    tracking: Tracking | None,
    report: Callable[[Run], Path] | None,
) -> None:
    split = "test" if data.manifest.has("test") else "val"
    if not data.manifest.has(split):
        log.note("There is neither a test split nor a val split, so nothing was scored.")
        return
    scores = evaluate(run, split, data=data, device=str(place), note=log.note)
    if tracking is None:
        return
    steps = (line.get("epochs_done", 0) for line in run.folder.read_metrics())
    tracking.scores(scores, max(steps, default=0))
    if report is not None:
        tracking.file(lambda: report(run))


def _trainer(
    config: RunConfig,
    data: DataSet,
    method: Method,
    folder: RunFolder,
    metadata: ckpt.CheckpointMetadata,
    device: torch.device,
    log: Log,
) -> Trainer:
    has_val = data.manifest.has("val")
    protocol = Protocol(has_val, config.training.selection(has_val))
    return Trainer(
        method,
        data.split("train"),
        config.training,
        protocol,
        folder,
        metadata,
        device,
        log,
        RepeatedScores(data.split("val"), "val", config.training, device) if has_val else None,
        data.split("val") if has_val else None,
        RepeatedScores(data.split("test"), "test", config.training, device)
        if config.training.watch_test
        else None,
    )


def _open(
    run: Run, device: torch.device, progress: Progress
) -> tuple[RunConfig, DataSet, tuple[str, ...]]:
    """Open the data, and write down what was chosen for the user: weights, epochs, backbone, image size."""
    data = run.open_data(progress)
    config, chosen = distributed.broadcast(
        settle(run.config, data, device) if distributed.is_main() else (run.config, ())
    )
    size = data.images.size
    updates: dict[str, Any] = {"model": config.model.resolved(size)}
    if hasattr(config.data, "image_size"):
        updates["data"] = config.data.model_copy(update={"image_size": size})
    config = config.model_copy(update=updates)
    if (expected := config.model.normalisation()) is not None:
        data = data.normalised_by(*expected)
    return config, data, chosen


def _pace(config: RunConfig, protocol: Protocol, device: torch.device, log: Log) -> Pace:
    training = config.training
    return Pace(
        log.note,
        shorter_ways(config, device),
        training.batch_size,
        on_cpu=device.type == "cpu",
        may_stop=training.early_stopping is not None and protocol.selection != "last",
    )


def _metadata(config: RunConfig, data: DataSet, method: Method) -> ckpt.CheckpointMetadata:
    counts = data.manifest.class_counts()
    return ckpt.CheckpointMetadata(
        method=config.method_name,
        classes=counts.names,
        class_counts=counts.values,
        corrections=method.corrections(),
        mean=data.mean,
        std=data.std,
        image_size=data.images.size,
        fit=getattr(config.data, "fit", "crop"),
        bit_depth=getattr(config.data, "bit_depth", None),
        train_checksum=data.manifest.take(data.manifest.rows("train")).checksum(),
        stage=0,
        epoch=0,
        epochs_done=0,
        finished=False,
        threads=torch.get_num_threads(),
    )


def _announce(data: DataSet, config: RunConfig, method: Method, log: Log) -> None:
    manifest, counts = data.manifest, data.manifest.class_counts()
    sizes = ", ".join(
        f"{split} {len(manifest.rows(split)):,}"
        for split in ("train", "val", "test")
        if manifest.has(split)
    )
    where = "in memory" if isinstance(data.images, ArrayImages) else "from files"
    log.note(
        f"{manifest.name}: {len(counts)} classes, {sizes} images of {data.images.size} pixels "
        f"({where}), imbalance ratio {counts.imbalance_ratio:.1f}"
    )
    log.note(f"groups: {ShotGroups.from_counts(counts, config.data.groups).describe()}")
    added = describe_low_rank(method) or describe_light(method)
    with_what = f" with {added}" if added else ""
    log.note(f"model: {config.model.backbone}{with_what}, method: {config.method_name}")
    for note in data.notes:
        log.note(f"note: {note}")
