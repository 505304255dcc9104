"""From a model to predictions, of a split or of a user's images; not how good they are.

That is in `evaluation`; the combination of several models is in `ensembles`.
"""

from longtail.prediction.files import content_checksum, read_predictions, write_predictions
from longtail.prediction.finite import require_finite
from longtail.prediction.images import PredictOptions, predict_images
from longtail.prediction.inputs import ImageInputs, ImageSource, collect
from longtail.prediction.splits import predict_split, predict_sub_models

__all__ = [
    "ImageInputs",
    "ImageSource",
    "PredictOptions",
    "collect",
    "content_checksum",
    "predict_images",
    "predict_split",
    "predict_sub_models",
    "read_predictions",
    "require_finite",
    "write_predictions",
]
