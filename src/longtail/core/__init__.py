"""The words of long-tailed recognition. Imports torch, NumPy and the standard library only."""

from longtail.core.batch import Batch, Position, StepOutput
from longtail.core.counts import ClassCounts
from longtail.core.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    LongtailError,
    ProtocolError,
    TrainingError,
)
from longtail.core.groups import GROUP_NAMES, GroupRule, ShotGroups
from longtail.core.manifest import SPLITS, Manifest
from longtail.core.predictions import Predictions
from longtail.core.protocol import Protocol, Selection
from longtail.core.stage import SamplerName, Sampling, Stage, epochs_of

__all__ = [
    "GROUP_NAMES",
    "SPLITS",
    "Batch",
    "CheckpointError",
    "ClassCounts",
    "ConfigError",
    "DataError",
    "GroupRule",
    "LongtailError",
    "Manifest",
    "Position",
    "Predictions",
    "Protocol",
    "ProtocolError",
    "SamplerName",
    "Sampling",
    "Selection",
    "ShotGroups",
    "Stage",
    "StepOutput",
    "TrainingError",
    "epochs_of",
]
