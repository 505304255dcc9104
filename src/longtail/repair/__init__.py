"""Repair models that are trained already: read, correct, show before and after, write."""

from longtail.repair.checkpoints import read_checkpoint
from longtail.repair.corrections import CORRECTIONS, Corrected, Request
from longtail.repair.evidence import Classifier, Evidence, Outputs
from longtail.repair.repair import Repair, repair
from longtail.repair.runs import read_run
from longtail.repair.tables import read_tables

__all__ = [
    "CORRECTIONS",
    "Classifier",
    "Corrected",
    "Evidence",
    "Outputs",
    "Repair",
    "Request",
    "read_checkpoint",
    "read_run",
    "read_tables",
    "repair",
]
