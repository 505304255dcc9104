"""Long-tailed visual recognition: train, measure and repair classifiers for rare classes.

The pieces (losses, samplers, heads, metrics) are plain PyTorch and work in anybody's loop; `train`,
`evaluate` and `load` do the rest.
"""

from typing import TYPE_CHECKING

from longtail.core.lazy import names_from

if TYPE_CHECKING:
    from longtail.api import (
        Features,
        MethodComparison,
        PredictOptions,
        Run,
        adjust_run,
        compare,
        compare_runs,
        ensemble,
        evaluate,
        features,
        load,
        predict,
        train,
        write_report,
    )
    from longtail.core import (
        ClassCounts,
        LongtailError,
        Manifest,
        Predictions,
        Protocol,
        ShotGroups,
    )
    from longtail.frozen.estimator import LongTailClassifier

__version__ = "0.1.0"

__all__ = [
    "ClassCounts",
    "Features",
    "LongTailClassifier",
    "LongtailError",
    "Manifest",
    "MethodComparison",
    "PredictOptions",
    "Predictions",
    "Protocol",
    "Run",
    "ShotGroups",
    "__version__",
    "adjust_run",
    "compare",
    "compare_runs",
    "ensemble",
    "evaluate",
    "features",
    "load",
    "predict",
    "train",
    "write_report",
]

# PyTorch takes seconds to import: the command line must be able to say something before
__getattr__, __dir__ = names_from(
    __name__,
    {
        "api": "Features MethodComparison PredictOptions Run adjust_run compare compare_runs ensemble "
        "evaluate features load predict train write_report",
        "frozen.estimator": "LongTailClassifier",
        "core": "ClassCounts LongtailError Manifest Predictions Protocol ShotGroups",
    },
)
