"""TensorBoard: files in the run folder, which `tensorboard --logdir RUN` shows. It keeps no other files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from longtail.engine.tracking.tracked import TrackedRun


class OnTensorBoard:
    """A writer of event files."""

    def __init__(self, run: TrackedRun) -> None:
        self._writer = SummaryWriter(str(run.folder / "tensorboard"))
        # four spaces are a block of code in its Markdown
        self._writer.add_text("options", f"    {json.dumps(run.options, indent=4)}")

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """Add scalars."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def file(self, path: Path) -> None:
        """Show where the file is."""
        self._writer.add_text(path.name, str(path.absolute()))

    def close(self, *, finished: bool) -> None:
        """Write what is left."""
        self._writer.close()


def begin(run: TrackedRun, project: str) -> OnTensorBoard:
    """Begin or continue; the project does not matter, each run folder is its own."""
    return OnTensorBoard(run)
