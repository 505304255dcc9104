"""Nearest class mean (NCM) classifier on features (Kang et al., ICLR 2020, section 4).

Two forms under one name, and they rank classes differently:

    published   features are centred by the mean of all training features and scaled to unit length;
                class means of these are used as they are; score = -||x - m_c||^2.
    paper       features and class means have unit length; score = cosine.

With unit means, squared distance and cosine rank alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from longtail.core.errors import DataError
from longtail.core.precision import at_least_float32

ROWS_AT_ONCE = 8192
Metric = Literal["euclidean", "cosine"]


@dataclass(frozen=True)
class NearestClassMean:
    """A classifier made of one mean per class.

    Attributes:
        means: [C, D].
        centre: Subtracted from features before they are scaled, [D]; zeros if not centred.
        metric: `euclidean` scores -||x - m||^2, `cosine` x . m.
    """

    means: Tensor
    centre: Tensor
    metric: Metric

    def scores(self, features: Tensor) -> Tensor:
        """Return the score of each class, [B, C], for features [B, D]; larger is nearer."""
        # in the width of the means also under autocast: distances differ in their last digits
        with torch.autocast(features.device.type, enabled=False):
            unit = F.normalize(features.to(self.means.dtype) - self.centre, dim=1)
            product = unit @ self.means.T
            if self.metric == "cosine":
                return product
            # unit features: ||x||^2 is one
            return 2 * product - 1 - self.means.square().sum(dim=1)


def nearest_class_mean(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    centred: bool = True,
    unit_means: bool = False,
    metric: Metric = "euclidean",
) -> NearestClassMean:
    """Fit the class means. The defaults are the published form.

    Args:
        features: Of the training images, not re-sampled, [N, D].
        labels: int64 [N].
        num_classes: C.
        centred: Whether to subtract the mean of all features first.
        unit_means: Whether to scale the class means to unit length.
        metric: How to score.

    Raises:
        DataError: If a class has no image.
    """
    present = torch.bincount(labels, minlength=num_classes)
    if (empty := (present == 0).nonzero().flatten()).numel():
        raise DataError(f"{empty.numel()} classes have no features; the first is {int(empty[0])}.")
    zeros = torch.zeros_like(at_least_float32(features[0]))
    centre = features.mean(dim=0, dtype=zeros.dtype) if centred else zeros
    means = zeros.repeat(num_classes, 1)
    # in parts: a centred copy of all features would double the memory
    parts = torch.split(features, ROWS_AT_ONCE), torch.split(labels, ROWS_AT_ONCE)
    for some, of_class in zip(*parts, strict=True):
        means.index_add_(0, of_class, F.normalize(at_least_float32(some) - centre, dim=1))
    means /= present[:, None]
    return NearestClassMean(F.normalize(means, dim=1) if unit_means else means, centre, metric)
