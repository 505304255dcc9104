"""From pictures to batches."""

from longtail.data.config import DataConfig, LongTail, open_data
from longtail.data.pictures import ArrayPictures, DataSet, FilePictures
from longtail.data.samplers import EpochSampler, class_probability, group_preferred

__all__ = [
    "ArrayPictures",
    "DataConfig",
    "DataSet",
    "EpochSampler",
    "FilePictures",
    "LongTail",
    "class_probability",
    "group_preferred",
    "open_data",
]
