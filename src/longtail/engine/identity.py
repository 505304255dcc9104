"""What a run is: its configuration, its data, and the files that were written when it began.

`run.json` holds it, written once; every checkpoint and every file of scores or predictions names the run that
it belongs to. The checksums are against accidents (damaged disks, edited or mixed up files), not against
forgery: who can write the folder can write checksums.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from longtail.config import Options
from longtail.core.errors import CheckpointError
from longtail.engine.checksums import (
    SEAL,
    checksum_of,
    checksum_of_text,
    read_bytes,
    read_json,
    sealed,
)

OLD = (
    "This run was started before run folders had checksums, so it cannot be checked whether "
    "its files are unchanged."
)


class Identity(Options):
    """Content of `run.json`.

    Attributes:
        config: The resolved configuration, the seed among it.
        data: SHA-256 of classes, ids, labels, splits and paths of all images.
        images: By split, SHA-256 of the content of its images in their order; empty where it is not known.
        drawn_split: Whether the split was drawn for this run; `split.csv` is the only place that holds it
            then.
        files: SHA-256 of each file that was written when the run began.
        format: Version of this layout.
    """

    config: dict[str, Any]
    data: str
    images: dict[str, str]
    drawn_split: bool
    files: dict[str, str]
    format: Literal[1] = 1

    @property
    def run(self) -> str:
        """Name of the run: equal for runs of equal configuration, seed, data and split, whenever they "
        "began."""
        return checksum_of(self.model_dump(mode="json", exclude={"files", "format"}))

    def sealed(self) -> dict[str, Any]:
        """Return the content of the file."""
        return sealed(self.model_dump(mode="json"))

    def require_unchanged(self, path: Path) -> None:
        """Refuse a file that was written when the run began and has changed since.

        Raises:
            CheckpointError: If it is another one, cannot be read, or is missing.
        """
        if checksum_of_text(path, read_bytes(path)) != self.files.get(path.name):
            raise CheckpointError(
                f"{path} was changed after the run started, or it belongs to another run. Restore the file "
                "of this run."
            )


def read_identity(path: Path) -> Identity | None:
    """Read `run.json`; None in the folder of a run that an earlier version began.

    Raises:
        CheckpointError: If it is damaged.
    """
    if not path.exists():
        return None
    try:
        content = read_json(path, needs_seal=True)
        content.pop(SEAL)
        return Identity.model_validate(content)
    except (CheckpointError, ValidationError) as error:
        what = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise CheckpointError(
            f"{path} does not describe the run: {what} Restore it from a copy of the folder; this "
            "information is stored nowhere else."
        ) from error


def require_own(path: Path, named: str, identity: Identity | None) -> None:
    """Refuse a file that belongs to another run.

    Args:
        path: The file, for the message.
        named: The run that it names; empty if an earlier version wrote it.
        identity: Of the run whose folder it lies in.

    Raises:
        CheckpointError: If they differ.
    """
    own = identity.run if identity is not None else ""
    if named == own:
        return
    if identity is None:
        raise CheckpointError(
            f"{path} belongs to a run with a run.json, which is missing next to config.yaml. Restore "
            "it: without it, the configuration and the data cannot be checked against those of the "
            "training."
        )
    raise CheckpointError(
        f"{path} belongs to another run: its configuration, seed, data or split differs from run.json."
    )


def images_differ(one: Mapping[str, str], other: Mapping[str, str], split: str) -> bool:
    """Say whether the content of a split is known of two runs, and another one."""
    known = one.get(split, ""), other.get(split, "")
    return all(known) and known[0] != known[1]
