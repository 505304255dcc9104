"""Checkpoints: complete or not there; weights as safetensors, the rest without pickled code."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch
from pydantic import ValidationError, model_validator
from torch import Tensor, nn

from longtail.config import Options
from longtail.core.counts import ClassCounts
from longtail.core.errors import CheckpointError, TrainingError
from longtail.core.prior import Prior, read_stated, stated_prior
from longtail.core.words import counted
from longtail.data.images.resize import Fit
from longtail.engine.checksums import SEAL, checksum, json_text, read_bytes, read_json, sealed
from longtail.engine.run_folder import flush, remove_leftovers, temporary_of
from longtail.methods.method import Method

WEIGHTS, STATE, METADATA = "weights.safetensors", "state.pt", "checkpoint.json"
KEPT = 2  # besides the ends of stages and the best epoch


class CheckpointMetadata(Options):
    """What a checkpoint is, readable without loading it.

    Attributes:
        method: Name of the method.
        classes: C class names; the meaning of the logits.
        class_counts: Training images per class.
        corrections: What training did about the imbalance.
        assumed_prior: Class distribution that the scores assume, C positive shares that sum to 1, or
            `unknown`; None in old checkpoints, see `prior`.
        mean: Normalisation of pixels in 0..1, per channel.
        std: Likewise.
        image_size: Side in pixels.
        fit: How an image file that is no square becomes one.
        bit_depth: Bits that image files of more than 8 bits really use; None where they say it themselves.
        train_checksum: Of the manifest of the training images; empty in old checkpoints.
        stage: Index of the stage.
        epoch: Epochs of the stage that are done.
        epochs_done: Epochs of the whole run that are done.
        selected_epoch: Where val selects, the epoch (as `epochs_done`) that these weights are of.
        finished: Whether this is the end of the run.
        threads: That the run computes with; None in old checkpoints.
        run: The run that it belongs to, see `Identity.run`; empty if an earlier version began it.
        weights_sha256: Of the weights file.
        state_sha256: Of the file of the optimiser and the like; empty in old checkpoints.
        metrics_sha256: Of the lines that `metrics.jsonl` had then; empty in old checkpoints.
        format: Version of this layout.
    """

    method: str
    classes: tuple[str, ...]
    class_counts: tuple[int, ...]
    corrections: tuple[str, ...]
    assumed_prior: Prior = None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    stage: int
    epoch: int
    epochs_done: int
    finished: bool
    selected_epoch: int | None = None
    fit: Fit = "crop"
    bit_depth: int | None = None
    train_checksum: str = ""
    threads: int | None = None
    run: str = ""
    weights_sha256: str = ""
    state_sha256: str = ""
    metrics_sha256: str = ""
    format: Literal[1] = 1

    @model_validator(mode="after")
    def _a_distribution(self) -> CheckpointMetadata:
        shares = read_stated(self.assumed_prior)
        if isinstance(shares, tuple) and len(shares) != len(self.classes):
            raise ValueError("assumed_prior must have a share for each class")
        return self

    def prior(self) -> Tensor | None:
        """Return the class distribution that the scores assume, float64 [C], or None if unknown."""
        return stated_prior(self.assumed_prior, self.counts(), self.corrections)

    def counts(self) -> ClassCounts:
        """Return the training images per class, with the names of the classes."""
        return ClassCounts(self.class_counts, self.classes)


def save_checkpoint(
    folder: Path,
    name: str,
    metadata: CheckpointMetadata,
    weights: Mapping[str, Tensor],
    state: Mapping[str, Any],
) -> None:
    """Write a checkpoint under a temporary name, flush it, and rename it.

    Args:
        folder: The run's `checkpoints`.
        name: Of the checkpoint.
        metadata: What it is; the checksums of weights and state are filled in.
        weights: Parameters and buffers.
        state: Optimiser and the like: tensors, numbers, strings, lists and dicts.

    Raises:
        CheckpointError: If it cannot be written (full disk, read-only folder). Earlier checkpoints
            are untouched.
        TrainingError: If a weight is not finite; nothing is written.
    """
    target = folder / name
    # read from the device once; safetensors does not store memory formats
    plain = {key: value.detach().cpu().contiguous() for key, value in weights.items()}
    if wrong := describe_not_finite(plain):
        raise TrainingError(
            f"The checkpoint {target} was not written: {wrong}. The previous checkpoint is intact. Try "
            "a lower training.learning_rate, training.clip_norm=1 or training.precision=fp32, then "
            "--resume."
        )
    temporary = temporary_of(target)
    # written from memory: the writers of safetensors and torch end in tracebacks, or abort, on a full disk
    content = {WEIGHTS: safetensors.torch.save(plain), STATE: _state_as_bytes(state)}
    described = metadata.model_copy(
        update={
            "weights_sha256": checksum(content[WEIGHTS]),
            "state_sha256": checksum(content[STATE]),
        }
    )
    text = json_text(sealed(described.model_dump(mode="json")), indent=1) + "\n"
    content[METADATA] = text.encode()
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for file, written in content.items():
            (temporary / file).write_bytes(written)
            flush(temporary / file)
        if target.exists():
            remove_checkpoint(target)
        temporary.rename(target)
        flush(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(
            f"The checkpoint {target} cannot be written ({error.strerror or error}). Free some space "
            "or fix the folder, then continue with --resume: the previous checkpoint is untouched."
        ) from error


def _state_as_bytes(state: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    return buffer.getvalue()


def describe_not_finite(weights: Mapping[str, Tensor]) -> str:
    """Say which weights are NaN or infinite; empty if none is."""
    floating = {name: value for name, value in weights.items() if value.is_floating_point()}
    wrong = [name for name, value in floating.items() if not bool(value.isfinite().all())]
    if not wrong:
        return ""
    return f"{counted(len(wrong), 'tensor', 'tensors')} of the weights not finite, for example {wrong[0]}"


def remove_checkpoint(checkpoint: Path) -> None:
    """Remove a checkpoint at once: half of one is never taken for a damaged one."""
    # not the name under which its successor has been written
    temporary = temporary_of(checkpoint.with_name(f"{checkpoint.name}-before"))
    checkpoint.rename(temporary)
    shutil.rmtree(temporary)


def checkpoint_name(stage: int, epoch: int, *, finished: bool) -> str:
    """Return `stage-0-epoch-012`, or `stage-0-end`."""
    return f"stage-{stage}-end" if finished else f"stage-{stage}-epoch-{epoch:04d}"


def drop_old(folder: Path) -> None:
    """Remove all but the newest two checkpoints and the best epoch; ends of stages stay."""
    epochs = sorted((p for p in folder.glob("stage-*-epoch-*") if p.is_dir()), key=_order)
    best = sorted(folder.glob("best-epoch-*"))
    for old in [*epochs[:-KEPT], *best[:-1]]:
        remove_checkpoint(old)
    remove_leftovers(folder)


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
        raise CheckpointError(f"The checkpoint of the best epoch is missing from {folder}.")
    return found[-1]


def finished(folder: Path) -> Path:
    """Return the checkpoint that predicts: the end of the last stage.

    Raises:
        CheckpointError: If the run is not finished or holds no checkpoint.
    """
    require_not_lost(folder)
    last = newest(folder)
    if last is None:
        raise CheckpointError(
            f"The run {folder.parent} was interrupted before its first checkpoint; to start it again: "
            f"longtail train --resume --out {folder.parent}"
        )
    if not read_metadata(last).finished:
        raise CheckpointError(
            f"The run {folder.parent} was interrupted; finish it first: longtail train --resume "
            f"--out {folder.parent}"
        )
    return last


def require_not_lost(folder: Path) -> None:
    """Refuse a finished run whose checkpoints were deleted: there is nothing to predict with, or to continue.

    Args:
        folder: Of the checkpoints.

    Raises:
        CheckpointError: If the run was scored and no checkpoint is left.
    """
    if any(folder.parent.glob("scores-*.json")) and newest(folder) is None:
        raise CheckpointError(
            f"The run {folder.parent} is finished, but its weights are missing from {folder}. Restore that "
            "folder from a copy, or train again with another --out."
        )


def newest(folder: Path) -> Path | None:
    """Return the checkpoint with the most epochs, or None."""
    found = [p for p in folder.glob("stage-*") if p.is_dir() and (p / METADATA).exists()]
    return max(found, key=_order) if found else None


def read_metadata(checkpoint: Path) -> CheckpointMetadata:
    """Read the description of a checkpoint.

    Raises:
        CheckpointError: If it is missing or damaged.
    """
    try:
        content = read_json(checkpoint / METADATA)
        content.pop(SEAL, None)
        return CheckpointMetadata.model_validate(content)
    except ValidationError as error:
        raise CheckpointError(
            f"{checkpoint} is not a checkpoint, or it is damaged ({error.errors()[0]['msg']})."
        ) from error


def check_continues(
    checkpoint: Path, metadata: CheckpointMetadata, own: CheckpointMetadata
) -> None:
    """Refuse to continue a checkpoint with another method, other classes or other training images.

    Raises:
        CheckpointError: If one of them differs; a finished run may have lost its images.
    """
    if metadata.method != own.method or metadata.classes != own.classes:
        raise CheckpointError(
            f"{checkpoint} was trained with method {metadata.method} on {len(metadata.classes)} "
            f"classes, not with {own.method} on {len(own.classes)}, so it cannot be continued."
        )
    if (
        not metadata.finished
        and metadata.train_checksum
        and metadata.train_checksum != own.train_checksum
    ):
        raise CheckpointError(
            f"The training images have changed since {checkpoint} was written, so it cannot be "
            "continued. Restore the images, or start a new run in another folder."
        )


def read_weights(checkpoint: Path) -> dict[str, Tensor]:
    """Read the weights and compare their hash with the metadata.

    Raises:
        CheckpointError: If the file is missing, damaged or was changed.
    """
    content = _unchanged(checkpoint / WEIGHTS, read_metadata(checkpoint).weights_sha256)
    try:
        return dict(safetensors.torch.load(content))
    except Exception as error:  # the reader of a foreign format fails in many ways
        raise CheckpointError(
            f"{checkpoint / WEIGHTS} cannot be read ({_first_line(error)})."
        ) from error


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Read optimiser and the like and compare their hash with the metadata; only plain values are accepted.

    Raises:
        CheckpointError: If the file is missing, damaged, was changed or holds anything else.
    """
    content = _unchanged(checkpoint / STATE, read_metadata(checkpoint).state_sha256)
    try:
        state: dict[str, Any] = torch.load(
            io.BytesIO(content), weights_only=True, map_location="cpu"
        )
    except Exception as error:  # as above
        raise CheckpointError(
            f"{checkpoint / STATE} cannot be read ({_first_line(error)})."
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{checkpoint / STATE} does not contain the state of a training.")
    return state


def _unchanged(file: Path, expected: str) -> bytes:
    content = read_bytes(file)
    if expected and checksum(content) != expected:
        checkpoint, run = file.parent, file.parent.parent.parent
        earlier = any(p != checkpoint for p in checkpoint.parent.glob("stage-*"))
        again = (
            f"delete the folder {checkpoint} and continue from the checkpoint before it: longtail train "
            f"--resume --out {run}"
            if earlier
            else "train again"
        )
        raise CheckpointError(
            f"{file} was changed after it was written, or it is damaged. Restore the file from a copy, or "
            f"{again}."
        )
    return content


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


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
