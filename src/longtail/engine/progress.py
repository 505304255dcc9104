"""Where a training is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class Progress:
    """What a resumed run must know besides weights and optimiser.

    Attributes:
        stage: Number of the stage, from 0.
        epoch: Finished epochs of the stage.
        epochs_done: Of all stages.
        lines: Of `metrics.jsonl`.
        best: Best macro accuracy on val of the stage, in [0, 1]; -1 before the first.
        selected: Epoch of all stages that val selected.
        since_best: Epochs since the best one.
        stopped: Whether early stopping has ended the stage.
    """

    stage: int = 0
    epoch: int = 0
    epochs_done: int = 0
    lines: int = 0
    best: float = -1.0
    selected: int | None = None
    since_best: int = 0
    stopped: bool = False

    def as_state(self, *, end_of_stage: bool) -> dict[str, Any]:
        """Return what a checkpoint holds of it, beside what its metadata say."""
        return {
            "best": self.best,
            "lines": self.lines,
            "selected": self.selected,
            "since_best": self.since_best,
            "stopped": self.stopped,
            "end_of_stage": end_of_stage,
        }
