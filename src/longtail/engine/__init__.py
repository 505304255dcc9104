"""Runs a method; knows none by name."""

from longtail.engine.config import TrainingConfig
from longtail.engine.loop import Trainer
from longtail.engine.run_folder import RunFolder

__all__ = ["RunFolder", "Trainer", "TrainingConfig"]
