"""Apply a correction: read a trained model, correct it, show before and after, write it; no training.

The corrections themselves are plain functions in `longtail.adjust`.
"""

from longtail.adjust.tool.adjustment import Adjustment, adjust
from longtail.adjust.tool.checkpoints import read_checkpoint
from longtail.adjust.tool.corrections import CORRECTIONS, Corrected, Request
from longtail.adjust.tool.delivery import adjust_run
from longtail.adjust.tool.evidence import Classifier, Evidence, Outputs
from longtail.adjust.tool.runs import read_run
from longtail.adjust.tool.tables import read_tables

__all__ = [
    "CORRECTIONS",
    "Adjustment",
    "Classifier",
    "Corrected",
    "Evidence",
    "Outputs",
    "Request",
    "adjust",
    "adjust_run",
    "read_checkpoint",
    "read_run",
    "read_tables",
]
