"""Long-tailed visual recognition: train, measure and repair classifiers for rare classes.

The pieces (losses, samplers, heads, metrics) are plain PyTorch and work in anybody's loop; `train`,
`evaluate` and `load` do the rest.
"""

from longtail.api import Question, Run, evaluate, load, train
from longtail.core import ClassCounts, LongtailError, Manifest, Predictions, Protocol, ShotGroups

__version__ = "0.1.0"

__all__ = [
    "ClassCounts",
    "LongtailError",
    "Manifest",
    "Predictions",
    "Protocol",
    "Question",
    "Run",
    "ShotGroups",
    "__version__",
    "evaluate",
    "load",
    "train",
]
