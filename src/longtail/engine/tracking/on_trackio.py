"""Trackio, with its own settings: TRACKIO_DIR, or TRACKIO_SPACE_ID and TRACKIO_SERVER_URL to send it on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import trackio

from longtail.engine.tracking.tracked import TrackedRun


class OnTrackio:
    """A run of Trackio, which knows runs by their names."""

    def __init__(self, run: TrackedRun, project: str) -> None:
        self._key = run.key
        self._run = trackio.init(
            project=project,
            name=f"{run.name}-{run.key[:8]}",
            config=dict(run.options),
            resume="allow",
            embed=False,
        )

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """Log."""
        self._run.log(dict(values), step=step)

    def file(self, path: Path) -> None:
        """Log an artifact with one file."""
        artifact = trackio.Artifact(f"{path.stem}-{self._key}", type=path.stem)
        artifact.add_file(str(path), name=path.name)
        self._run.log_artifact(artifact)

    def close(self, *, finished: bool) -> None:
        """Finish; Trackio does not ask how it ended."""
        self._run.finish()


def begin(run: TrackedRun, project: str) -> OnTrackio:
    """Begin or continue."""
    return OnTrackio(run, project)
