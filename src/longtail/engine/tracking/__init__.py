"""Runs in TensorBoard, Weights & Biases, MLflow or Trackio, one file each; no log for people, see `log`."""

from longtail.engine.tracking.tracked import (
    TrackedRun,
    Tracker,
    Tracking,
    open_tracker,
    require_tracker,
)

__all__ = [
    "TrackedRun",
    "Tracker",
    "Tracking",
    "open_tracker",
    "require_tracker",
]
