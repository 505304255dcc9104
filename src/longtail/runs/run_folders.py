"""Run folders, begun and continued."""

from __future__ import annotations

import shlex
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from longtail.core import distributed
from longtail.core.errors import CheckpointError, ConfigError
from longtail.core.table_cells import csv_text
from longtail.core.words import folder_name
from longtail.data.data_set import DataSet
from longtail.data.splits.split_file import split_table
from longtail.engine import checkpoint as ckpt
from longtail.engine.hardware import describe_environment
from longtail.engine.identity import Identity, images_differ, require_own
from longtail.engine.run_folder import RunFolder, writing
from longtail.engine.threads import Threads, choose_threads, kept_threads
from longtail.models.weights import checksum as checksum_of_file
from longtail.recipes import RunConfig
from longtail.recipes.plugins import plugins_of
from longtail.recipes.settling import settled_as
from longtail.runs.run import MOVABLE, Run, differing

SECONDS_TO_APPEAR = 60.0  # a shared file system may show a new file late


def default_folder(config: RunConfig) -> Path:
    """Return `runs/<recipe>-<date and time>`, a name that is not taken."""
    stem = f"{folder_name(config.recipe)}-{datetime.now():%Y-%m-%d-%H%M%S}"
    path, number = Path("runs") / stem, 2
    while path.exists():
        path, number = Path("runs") / f"{stem}-{number}", number + 1
    return path


def require_shared(folder: RunFolder) -> None:
    """Refuse a run folder of which the processes, on several machines, do not all see the same run.

    Raises:
        ConfigError: On all of them.
    """
    if not distributed.active():
        return
    wanted = distributed.broadcast(_seen(folder))
    until = time.monotonic() + SECONDS_TO_APPEAR
    while _seen(folder) != wanted and time.monotonic() < until:
        time.sleep(0.5)
    same = distributed.gather(_seen(folder) == wanted)
    if not all(same):
        raise ConfigError(
            f"Process {same.index(False)} does not see the files of {folder.path} that process 0 sees. All "
            "processes need the same run folder: on several machines, choose one on a shared file system "
            "with --out."
        )


def _seen(folder: RunFolder) -> bytes | None:
    """Return what identifies the run in a folder; None if there is none."""
    return folder.run.read_bytes() if folder.run.exists() else None


def begin(
    folder: RunFolder,
    config: RunConfig,
    data: DataSet,
    device: torch.device,
    facts: dict[str, Any],
) -> Identity:
    """Make the folder of a run and write down what it is.

    Args:
        folder: Of the run.
        config: Resolved.
        data: Opened.
        device: Where it will be trained.
        facts: What else `environment.json` should say.

    Raises:
        ConfigError: If the folder already contains a run.
        CheckpointError: If it cannot be written.
    """
    folder.create()
    if (weights := config.model.weights_file()) is not None:
        facts = {**facts, "weights": {"file": str(weights), "sha256": checksum_of_file(weights)}}
    if plugins := plugins_of(config.method):
        facts = {**facts, "plugins": plugins}
    folder.write_json(
        folder.environment,
        describe_environment(device)
        | {
            "command": _command(),
            "started": f"{datetime.now():%Y-%m-%dT%H:%M:%S}",
            "data_checksum": data.manifest.checksum(),
            "processes": distributed.world_size(),
            **facts,
        },
    )
    if data.skipped:
        with writing(folder.skipped) as file:
            text = csv_text([("path", "reason"), *data.skipped], safe=False)
            file.write_text(text, encoding="utf-8", newline="\n")
    if data.manifest.paths:
        with writing(folder.split) as file:
            table = split_table(data.manifest, data.digests)
            text = csv_text([list(table.columns), *table.itertuples(index=False)], safe=False)
            file.write_text(text, encoding="utf-8", newline="\n")
    content = config.model_dump(mode="json")
    identity = Identity(
        config=content,
        data=data.manifest.checksum(),
        images=data.contents(),
        drawn_split=data.drawn_split,
        files={},
    )
    written = folder.write_config(content, identity)
    assert written is not None, "the identity is known"
    return written


def _command() -> str:
    """Return what was typed: `longtail ...`, or the Python program that called `train`."""
    program, *arguments = sys.argv
    path = Path(program)
    # python -m longtail; -m of another package has a __main__.py too
    own = path.stem == "longtail" or path.parts[-2:] == ("longtail", "__main__.py")
    return shlex.join(["longtail", *arguments] if own else ["python", program, *arguments])


def continued(config: RunConfig, folder: RunFolder) -> RunConfig:
    """Return the configuration that the run in `folder` was begun with; `config` if there is none yet.

    Raises:
        ConfigError: If `config` asks for something else.
        CheckpointError: If the run is finished and its weights are gone.
    """
    if not folder.config.exists():
        return config  # killed before the first file was written: begin
    ckpt.require_not_lost(folder.checkpoints)
    stored = Run.open(folder.path).config
    chosen_later = {"model.backbone": config.model.backbone,
                    "data.image_size": getattr(config.data, "image_size", None)}  # fmt: skip
    others = differing(stored, settled_as(config, stored))
    others = [
        key for key in others if key not in MOVABLE and chosen_later.get(key, key) is not None
    ]
    if others:
        raise ConfigError(
            f"{folder.path} was started with other values of {', '.join(others)}. Resume it without "
            "overrides, or start a new run in another folder."
        )
    moved: dict[str, dict[str, Any]] = {part: {} for part in ("data", "training")}
    for part, key in (key.split(".") for key in sorted(MOVABLE)):
        if hasattr(getattr(config, part), key):
            moved[part][key] = getattr(getattr(config, part), key)
    parts = {part: getattr(stored, part).model_copy(update=new) for part, new in moved.items()}
    return stored.model_copy(update=parts)


def remember_place(folder: RunFolder, config: RunConfig) -> None:
    """Write down where the data of a continued run lie, if they have moved: other commands look there, too.

    Args:
        folder: Of the run.
        config: As `continued` returns it.
    """
    stored = Run.open(folder.path).config
    if config.data != stored.data:
        there = stored.model_copy(update={"data": config.data})
        folder.write_config(there.model_dump(mode="json"), None)


def require_continues(folder: RunFolder, identity: Identity | None, data: DataSet) -> None:
    """Refuse to continue another run's checkpoint, or a run whose images have changed.

    Raises:
        CheckpointError: In words; a finished run may have lost its images.
    """
    newest = ckpt.newest(folder.checkpoints)
    assert newest is not None, "the run has begun"
    metadata = ckpt.read_metadata(newest)
    require_own(newest, metadata.run, identity)
    if identity is None or metadata.finished:
        return
    now = data.contents()
    for split in ("train", "val"):
        if images_differ(identity.images, now, split):
            raise CheckpointError(
                f"The images of {split} have changed since the run started, so it cannot be continued. "
                "Restore the images, or start a new run in another folder."
            )


def threads_of(
    folder: RunFolder, device: torch.device, wish: Threads | None, *, resume: bool
) -> Threads:
    """Return what a run computes with: its own threads if it is continued; the same in all of its processes.

    Args:
        folder: Of the run.
        device: Where it is trained; only a CPU's threads are chosen.
        wish: What a new run is to take; chosen by what is free if not given.
        resume: Whether the run is continued.

    Raises:
        CheckpointError: If it is continued and its files do not say.
    """
    if device.type != "cpu":
        return wish or Threads(torch.get_num_threads())
    chosen = wish or choose_threads(distributed.world_size())
    if resume and folder.config.exists():
        newest = ckpt.newest(folder.checkpoints)
        stored = ckpt.read_metadata(newest).threads if newest is not None else None
        # in a checkpoint of an earlier version, or before the first one
        stored = stored or Run.open(folder.path).environment()["hardware"].get("threads")
        chosen = kept_threads(stored) if isinstance(stored, int) and stored > 0 else chosen
    return distributed.broadcast(chosen)
