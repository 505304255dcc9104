"""A run from its start to its record: trained, opened, loaded, scored; not how an epoch is computed.

That, and the format of its files, is in `engine`.
"""

from longtail.runs.calibrating import Wish, calibrate
from longtail.runs.feature_table import Features, features
from longtail.runs.model import LoadedModel, build, load, predict
from longtail.runs.records import append_measurement, append_record, record, write_summary
from longtail.runs.run import Run
from longtail.runs.run_folders import default_folder
from longtail.runs.scoring import evaluate
from longtail.runs.suggesting import suggest
from longtail.runs.training import train

__all__ = [
    "Features",
    "LoadedModel",
    "Run",
    "Wish",
    "append_measurement",
    "append_record",
    "build",
    "calibrate",
    "default_folder",
    "evaluate",
    "features",
    "load",
    "predict",
    "record",
    "suggest",
    "train",
    "write_summary",
]
