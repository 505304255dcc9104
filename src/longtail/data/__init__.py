"""From a source of images to batches, see `source_to_batch`; no networks, losses or scores."""

from longtail.data.data_set import DataSet
from longtail.data.images.storage import ArrayImages, FileImages
from longtail.data.options import DataConfig, LongTail
from longtail.data.preparation import Phases, Progress
from longtail.data.sampling.samplers import EpochSampler, class_probability, group_preferred
from longtail.data.source_to_batch import open_data

__all__ = [
    "ArrayImages",
    "DataConfig",
    "DataSet",
    "EpochSampler",
    "FileImages",
    "LongTail",
    "Phases",
    "Progress",
    "class_probability",
    "group_preferred",
    "open_data",
]
