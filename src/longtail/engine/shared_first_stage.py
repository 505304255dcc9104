"""Begin a run with the first stage of another one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from longtail.core.errors import ConfigError
from longtail.engine.checkpoint import (
    CheckpointMetadata,
    checkpoint_name,
    read_metadata,
    read_weights,
)
from longtail.engine.identity import images_differ, require_own
from longtail.engine.run_folder import RunFolder


@dataclass(frozen=True)
class FirstStage:
    """What a run takes from another one.

    Attributes:
        checkpoint: Where it lies.
        weights: Parameters and buffers at the end of the first stage.
        metadata: Of the checkpoint.
    """

    checkpoint: Path
    weights: Mapping[str, Tensor]
    metadata: CheckpointMetadata


def read_first_stage(
    run: Path, seed: int, own: CheckpointMetadata, images: Mapping[str, str]
) -> FirstStage:
    """Read the end of the first stage of `run`.

    Args:
        run: A run folder, or a folder of seeds: then the run of the same seed is taken.
        seed: Of the new run.
        own: Describes the new run; classes, counts and the form of the images must be equal, or
            the representation would have seen other images than the record says.
        images: By split, SHA-256 of the content of the images of the new run.

    Raises:
        ConfigError: If there is no such run, its first stage is not finished, or it differs.
        CheckpointError: If it is damaged.
    """
    of_seed = run / f"seed-{seed}"
    folder = RunFolder(of_seed if of_seed.exists() else run)
    if not folder.config.exists():
        seeds = sorted(path.name for path in run.glob("seed-*"))
        there = f"; it contains {', '.join(seeds)}, and this run has seed {seed}" if seeds else ""
        raise ConfigError(f"from: {run} is not a run folder{there}.")
    folder.require()
    identity = folder.identity()
    checkpoint = folder.checkpoints / checkpoint_name(0, 0, finished=True)
    if not checkpoint.exists():
        raise ConfigError(
            f"from: the first stage of {folder.path} is not finished; finish it first: longtail "
            f"train --resume --out {folder.path}"
        )
    metadata = read_metadata(checkpoint)
    require_own(checkpoint, metadata.run, identity)
    differing = [
        name
        for name in ("classes", "class_counts", "image_size", "mean", "std")
        if getattr(metadata, name) != getattr(own, name)
    ]
    if differing:
        raise ConfigError(
            f"from: {folder.path} was trained on different data ({', '.join(differing)} differ). Use "
            "the same data section, or train the first stage again."
        )
    other_list = metadata.train_checksum and metadata.train_checksum != own.train_checksum
    other_content = identity is not None and images_differ(identity.images, images, "train")
    if other_list or other_content:
        raise ConfigError(
            f"from: {folder.path} was trained on other images of these classes, possibly including "
            "some that this run holds out. Use the same data section (and data.split_seed), or train "
            "the first stage again."
        )
    return FirstStage(checkpoint, read_weights(checkpoint), metadata)
