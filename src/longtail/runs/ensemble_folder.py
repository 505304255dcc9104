"""The folder of an ensemble: copies of its members and how they are combined; the runs may go.

ensemble.json              the combination, its members, how it was chosen and what it scored
combination.safetensors    its weights
members/1, members/2, ...  what predicts with a run: configuration and last checkpoint, without the state that
                           a training would go on from
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from longtail.core.errors import CheckpointError, ConfigError
from longtail.engine.checkpoint import METADATA, WEIGHTS
from longtail.engine.checksums import checksum, json_text, read_bytes, read_json, sealed
from longtail.engine.run_folder import writing_folder
from longtail.ensembles.combination import Combination
from longtail.runs.run import Run

ENSEMBLE, COMBINATION, MEMBERS = "ensemble.json", "combination.safetensors", "members"


class Note(BaseModel):
    """What `ensemble.json` says.

    Attributes:
        combination: Name of the combination.
        sub_models: Names of the T sub-models, of all members together.
        members: Their number.
        classes: Names of the logits.
        combination_sha256: Of `combination.safetensors`.
    """

    model_config = ConfigDict(extra="allow", strict=True)
    combination: str
    sub_models: list[str] = Field(min_length=2)
    members: int = Field(ge=1)
    classes: list[str]
    combination_sha256: str


def is_ensemble(path: Path) -> bool:
    """Say whether a folder holds an ensemble."""
    return (path / ENSEMBLE).is_file()


def member_folders(path: Path) -> list[Path]:
    """Return the run folders in the folder of an ensemble; a run folder itself.

    Raises:
        CheckpointError: If the folder of an ensemble is damaged.
    """
    if not is_ensemble(path):
        return [path]
    return [_member(path, number) for number in range(1, read_note(path).members + 1)]


def write_ensemble(
    runs: Sequence[Run], combination: Combination, out: Path, described: Mapping[str, Any]
) -> None:
    """Write an ensemble, all of it or nothing.

    Args:
        runs: The members.
        combination: Of their sub-models.
        out: The folder; missing or empty.
        described: For `ensemble.json`, as JSON; with `classes` and `sub_models`.

    Raises:
        ConfigError: If `out` holds something.
        CheckpointError: If it cannot be written.
    """
    require_empty(out)
    weights = safetensors.torch.save({k: v.cpu() for k, v in combination.state_dict().items()})
    with writing_folder(out) as folder:
        for number, run in enumerate(runs, start=1):
            _copy(run, _member(folder, number))
        (folder / COMBINATION).write_bytes(weights)
        note = {
            "combination": combination.name,
            "members": len(runs),
            "combination_sha256": checksum(weights),
            **described,
        }
        text = json_text(sealed(note), indent=1) + "\n"
        (folder / ENSEMBLE).write_text(text, encoding="utf-8")


def require_empty(out: Path) -> None:
    """Refuse a place that holds something.

    Raises:
        ConfigError: If it does.
    """
    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise ConfigError(f"{out} already exists; choose another place with --out.")


def read_note(path: Path) -> Note:
    """Read what a folder says of its ensemble.

    Raises:
        CheckpointError: If the file is damaged.
    """
    file = path / ENSEMBLE
    try:
        return Note.model_validate(read_json(file, needs_seal=True))
    except ValidationError as error:
        first = error.errors()[0]
        raise CheckpointError(
            f"{file} does not describe an ensemble ({'.'.join(map(str, first['loc']))}: {first['msg']})."
        ) from error


def read_combination(path: Path) -> Combination:
    """Read how the members of an ensemble are combined.

    Raises:
        CheckpointError: If a file is missing, damaged or was changed.
    """
    note, file = read_note(path), path / COMBINATION
    content = read_bytes(file)
    if checksum(content) != note.combination_sha256:
        raise CheckpointError(f"{file} was changed after it was written, or it is damaged.")
    combination = Combination(note.combination, len(note.sub_models), len(note.classes))
    combination.load_state_dict(safetensors.torch.load(content))
    return combination


def _member(path: Path, number: int) -> Path:
    return path / MEMBERS / str(number)


def _copy(run: Run, target: Path) -> None:
    """Copy what predicts with a run."""
    checkpoint, _ = run.checkpoint()
    folder = run.folder
    kept = [folder.config, folder.run, folder.environment, folder.split, folder.skipped]
    own = target / folder.checkpoints.name / checkpoint.name
    own.mkdir(parents=True)
    for file in filter(Path.exists, kept):
        shutil.copyfile(file, target / file.name)
    for name in (WEIGHTS, METADATA):
        shutil.copyfile(checkpoint / name, own / name)
