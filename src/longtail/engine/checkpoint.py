"""Checkpoints: complete or not there; weights as safetensors, the rest without pickled code."""

from __future__ import annotations

import hashlib
import pickle
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from longtail.core.errors import CheckpointError
from longtail.data.options import Options
from longtail.engine.run_folder import flush
from longtail.methods.method import Method

WEIGHTS, STATE, CARD = "weights.safetensors", "state.pt", "checkpoint.json"
KEPT = 2  # besides the ends of stages and the best epoch


class CheckpointCard(Options):
    """What a checkpoint is, readable without loading it.

    Attributes:
        method: Name of the method.
        classes: C class names; the meaning of the logits.
        class_counts: Training pictures per class.
        corrections: What training did about the imbalance.
        mean: Normalisation of pixels in 0..1, per channel.
        std: Likewise.
        image_size: Side in pixels.
        train_checksum: Of the manifest of the training pictures; empty in old checkpoints.
        stage: Index of the stage.
        epoch: Epochs of the stage that are done.
        epochs_done: Epochs of the whole run that are done.
        selected_epoch: Where val selects, the epoch (as `epochs_done`) that these weights are of.
        finished: Whether this is the end of the run.
        weights_sha256: Of the weights file.
        format: Version of this layout.
    """

    method: str
    classes: tuple[str, ...]
    class_counts: tuple[int, ...]
    corrections: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    stage: int
    epoch: int
    epochs_done: int
    finished: bool
    selected_epoch: int | None = None
    train_checksum: str = ""
    weights_sha256: str = ""
    format: Literal[1] = 1


def save_checkpoint(
    folder: Path,
    name: str,
    card: CheckpointCard,
    weights: Mapping[str, Tensor],
    state: Mapping[str, Any],
) -> None:
    """Write a checkpoint under a temporary name, flush it, and rename it.

    Args:
        folder: The run's `checkpoints`.
        name: Of the checkpoint.
        card: What it is; the hash of the weights is filled in.
        weights: Parameters and buffers.
        state: Optimiser and the like: tensors, numbers, strings, lists and dicts.

    Raises:
        CheckpointError: If it cannot be written (full disk, read-only folder). Earlier checkpoints
            are untouched.
    """
    temporary = folder / f".{name}.tmp"
    target = folder / name
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        # safetensors does not store memory formats
        plain = {key: value.detach().cpu().contiguous() for key, value in weights.items()}
        safetensors.torch.save_file(plain, temporary / WEIGHTS)
        torch.save(dict(state), temporary / STATE)
        digest = hashlib.sha256((temporary / WEIGHTS).read_bytes()).hexdigest()
        described = card.model_copy(update={"weights_sha256": digest})
        (temporary / CARD).write_text(described.model_dump_json(indent=1) + "\n", encoding="utf-8")
        for file in (WEIGHTS, STATE, CARD):
            flush(temporary / file)
        if target.exists():
            shutil.rmtree(target)
        temporary.rename(target)
        flush(folder)
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        # torch reports a full disk as a RuntimeError of its file writer
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(
            f"The checkpoint {target} cannot be written ({error}). Free some space or mend the "
            "folder, then go on with --resume: the previous checkpoint is untouched."
        ) from error


def checkpoint_name(stage: int, epoch: int, *, finished: bool) -> str:
    """Return `stage-0-epoch-012`, or `stage-0-end`."""
    return f"stage-{stage}-end" if finished else f"stage-{stage}-epoch-{epoch:04d}"


def drop_old(folder: Path) -> None:
    """Remove all but the newest two checkpoints and the best epoch; ends of stages stay."""
    epochs = sorted((p for p in folder.glob("stage-*-epoch-*") if p.is_dir()), key=_order)
    best = sorted(folder.glob("best-epoch-*"))
    for old in [*epochs[:-KEPT], *best[:-1]]:
        shutil.rmtree(old)
    for leftover in folder.glob(".*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


def best_name(epochs_done: int) -> str:
    """Return the name of the checkpoint of the best epoch so far."""
    return f"best-epoch-{epochs_done:05d}"


def best(folder: Path) -> Path:
    """Return the checkpoint of the best epoch of the stage that is being trained.

    Raises:
        CheckpointError: If there is none.
    """
    found = sorted(folder.glob("best-epoch-*"))
    if not found:
        raise CheckpointError(f"{folder} has lost the checkpoint of its best epoch.")
    return found[-1]


def finished(folder: Path) -> Path:
    """Return the checkpoint that predicts: the end of the last stage.

    Raises:
        CheckpointError: If the run is not finished or holds no checkpoint.
    """
    last = newest(folder)
    if last is None:
        raise CheckpointError(f"{folder.parent} holds no checkpoint yet.")
    if not read_card(last).finished:
        raise CheckpointError(
            f"The run {folder.parent} was interrupted; finish it first: longtail train --resume "
            f"--out {folder.parent}"
        )
    return last


def newest(folder: Path) -> Path | None:
    """Return the checkpoint with the most epochs, or None."""
    found = [p for p in folder.glob("stage-*") if p.is_dir() and (p / CARD).exists()]
    return max(found, key=_order) if found else None


def read_card(checkpoint: Path) -> CheckpointCard:
    """Read the description of a checkpoint.

    Raises:
        CheckpointError: If it is missing or damaged.
    """
    try:
        return CheckpointCard.model_validate_json((checkpoint / CARD).read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{checkpoint} is no checkpoint, or is damaged ({error}).") from error


def check_continues(checkpoint: Path, card: CheckpointCard, own: CheckpointCard) -> None:
    """Refuse to continue a checkpoint with another method, other classes or other training pictures.

    Raises:
        CheckpointError: If one of them differs; a finished run may have lost its pictures.
    """
    if card.method != own.method or card.classes != own.classes:
        raise CheckpointError(
            f"{checkpoint} was trained with method {card.method} on {len(card.classes)} classes, not "
            f"with {own.method} on {len(own.classes)}; it cannot be continued."
        )
    if not card.finished and card.train_checksum and card.train_checksum != own.train_checksum:
        raise CheckpointError(
            f"The training pictures have changed since {checkpoint} was written; it cannot be continued. "
            "Bring them back, or begin a new run in another folder."
        )


def read_weights(checkpoint: Path) -> dict[str, Tensor]:
    """Read the weights and compare their hash with the card.

    Raises:
        CheckpointError: If the file is missing, damaged or was changed.
    """
    card = read_card(checkpoint)
    try:
        content = (checkpoint / WEIGHTS).read_bytes()
        if hashlib.sha256(content).hexdigest() != card.weights_sha256:
            raise CheckpointError(f"{checkpoint / WEIGHTS} was changed after it was written.")
        return dict(safetensors.torch.load(content))
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{checkpoint / WEIGHTS} cannot be read ({error}).") from error


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Read optimiser and the like; only tensors and plain values are accepted.

    Raises:
        CheckpointError: If the file is missing, damaged or holds anything else.
    """
    try:
        state: dict[str, Any] = torch.load(
            checkpoint / STATE, weights_only=True, map_location="cpu"
        )
        return state
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{checkpoint / STATE} cannot be read ({error}).") from error


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Copy `weights` into `module`, all of them or none.

    Raises:
        CheckpointError: If a name or shape differs, listing what does: random weights never stay
            unnoticed.
    """
    own = module.state_dict()
    optional = module.omitted() if isinstance(module, Method) else set()
    problems = [f"missing {name}" for name in own if name not in weights and name not in optional]
    problems += [
        f"unexpected {name}" for name in weights if name not in own and name not in optional
    ]
    problems += [
        f"{name} has shape {list(weights[name].shape)} instead of {list(value.shape)}"
        for name, value in own.items()
        if name in weights and weights[name].shape != value.shape
    ]
    if problems:
        shown = "; ".join(problems[:6]) + (
            f"; and {len(problems) - 6} more" if problems[6:] else ""
        )
        raise CheckpointError(
            f"{source} belongs to another model: {shown}. Use the configuration that it was "
            "trained with."
        )
    module.load_state_dict(weights)


def _order(path: Path) -> tuple[int, int]:
    match = re.fullmatch(r"stage-(\d+)-(?:epoch-(\d+)|end)", path.name)
    if not match:
        return (-1, 0)
    return int(match[1]), int(match[2]) if match[2] else 10**9
