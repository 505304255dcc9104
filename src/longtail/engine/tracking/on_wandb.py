"""Weights & Biases, with its own settings: WANDB_PROJECT, WANDB_MODE=offline, WANDB_DIR and the login."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import wandb

from longtail.engine.tracking.tracked import TrackedRun


class OnWandb:
    """A run of wandb."""

    def __init__(self, run: TrackedRun, project: str) -> None:
        self._key = run.key
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", project),
            id=run.key,
            name=run.name,
            config=dict(run.options),
            resume="allow",
            dir=os.environ.get("WANDB_DIR", str(run.folder)),
        )

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """Log."""
        self._run.log(dict(values), step=step)

    def file(self, path: Path) -> None:
        """Log an artifact with one file."""
        artifact = wandb.Artifact(f"{path.stem}-{self._key}", type=path.stem)
        artifact.add_file(str(path), name=path.name)
        self._run.log_artifact(artifact)

    def close(self, *, finished: bool) -> None:
        """Finish, which waits for the upload."""
        self._run.finish(exit_code=0 if finished else 1)


def begin(run: TrackedRun, project: str) -> OnWandb:
    """Begin or continue."""
    return OnWandb(run, project)
