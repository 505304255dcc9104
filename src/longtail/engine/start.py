"""Begin a run with the first stage of another one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from longtail.core.errors import ConfigError
from longtail.engine.checkpoint import CheckpointCard, checkpoint_name, read_card, read_weights
from longtail.engine.run_folder import RunFolder


@dataclass(frozen=True)
class FirstStage:
    """What a run takes from another one.

    Attributes:
        checkpoint: Where it lies.
        weights: Parameters and buffers at the end of the first stage.
        card: Of the checkpoint.
    """

    checkpoint: Path
    weights: Mapping[str, Tensor]
    card: CheckpointCard


def read_first_stage(run: Path, seed: int, own: CheckpointCard) -> FirstStage:
    """Read the end of the first stage of `run`.

    Args:
        run: A run folder, or a folder of seeds: then the run of the same seed is taken.
        seed: Of the new run.
        own: Describes the new run; classes, counts and the form of the pictures must be equal, or
            the representation would have seen other pictures than the record says.

    Raises:
        ConfigError: If there is no such run, its first stage is not finished, or it differs.
        CheckpointError: If it is damaged.
    """
    of_seed = run / f"seed-{seed}"
    folder = RunFolder(of_seed if of_seed.exists() else run)
    if not folder.config.exists():
        seeds = sorted(path.name for path in run.glob("seed-*"))
        there = f"; it holds {', '.join(seeds)}, and this run has seed {seed}" if seeds else ""
        raise ConfigError(f"from: {run} is no run folder{there}.")
    checkpoint = folder.checkpoints / checkpoint_name(0, 0, finished=True)
    if not checkpoint.exists():
        raise ConfigError(
            f"from: the first stage of {folder.path} is not finished; finish it first: longtail "
            f"train --resume --out {folder.path}"
        )
    card = read_card(checkpoint)
    differing = [
        name
        for name in ("classes", "class_counts", "image_size", "mean", "std")
        if getattr(card, name) != getattr(own, name)
    ]
    if differing:
        raise ConfigError(
            f"from: {folder.path} was trained on other data ({', '.join(differing)} differ). Use the "
            "same data section, or train the first stage anew."
        )
    if card.train_checksum and card.train_checksum != own.train_checksum:
        raise ConfigError(
            f"from: {folder.path} was trained on other pictures of these classes, perhaps some that this run "
            "holds out. Use the same data section (data.split_seed, too), or train the first stage anew."
        )
    return FirstStage(checkpoint, read_weights(checkpoint), card)
