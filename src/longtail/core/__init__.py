"""The words of long-tailed recognition, with torch, NumPy and the standard library only; no files.

Names are imported when they are first asked for: the command line needs `core.errors` before PyTorch, which
takes seconds to import.
"""

from typing import TYPE_CHECKING

from longtail.core.lazy import names_from

if TYPE_CHECKING:
    from longtail.core.batch import Batch, Position, StepOutput
    from longtail.core.counts import ClassCounts
    from longtail.core.errors import (
        CheckpointError,
        ConfigError,
        DataError,
        LongtailError,
        OutOfTimeError,
        OutputError,
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
    "OutOfTimeError",
    "OutputError",
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

__getattr__, __dir__ = names_from(
    __name__,
    {
        "batch": "Batch Position StepOutput",
        "counts": "ClassCounts",
        "errors": "CheckpointError ConfigError DataError LongtailError "
        "OutOfTimeError OutputError ProtocolError TrainingError",
        "groups": "GROUP_NAMES GroupRule ShotGroups",
        "manifest": "SPLITS Manifest",
        "predictions": "Predictions",
        "protocol": "Protocol Selection",
        "stage": "SamplerName Sampling Stage epochs_of",
    },
)
