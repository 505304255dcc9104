"""scikit-learn's handwritten digits: a real data set of 1,797 images that needs no download."""

import numpy as np

from longtail.core.manifest import Manifest
from longtail.core.rng import numpy_generator
from longtail.data.data_set import DataSet
from longtail.data.images.storage import rgb_pixels

TEST_PER_CLASS = 50
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def read_digits() -> DataSet:
    """Return the digits as grey RGB images of 8 x 8 pixels with a fixed balanced test split.

    50 images of each class are test, the other 124 to 133 are train. The split is always the
    same, so results can be compared.
    """
    from sklearn.datasets import load_digits  # takes seconds to import

    bunch = load_digits()
    labels = bunch.target.astype(np.int64)
    splits = np.zeros(len(labels), dtype=np.int8)
    for label, name in enumerate(NAMES):
        rows = np.flatnonzero(labels == label)
        chosen = numpy_generator(0, "digits test", name).permutation(rows)[:TEST_PER_CLASS]
        splits[chosen] = 2
    grey = np.round(bunch.images / 16.0 * 255.0).astype(np.uint8)  # 17 levels to 0..255
    pixels = np.repeat(grey[:, None], 3, axis=1)
    manifest = Manifest("digits", NAMES, np.arange(len(labels)), labels, splits)
    # mean and deviation of the training pixels would depend on the cut; these are of all images
    return DataSet(
        manifest, rgb_pixels(pixels, pixels.shape), (0.305,) * 3, (0.376,) * 3, default_view="crop"
    )
