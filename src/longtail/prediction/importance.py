"""Importance of a trained method's weights for every class (figure 1b of DO, for any method)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from longtail.data.data_set import DataSet
from longtail.data.sampling.loader import evaluation_batches
from longtail.methods.method import Method
from longtail.models.importance import class_importance


def importance_by_class(method: Method, data: DataSet, device: torch.device) -> dict[str, Tensor]:
    """Return the mean of (w g)^2 for each class by network, float64 [C], g the gradient of its mean loss.

    Every image goes forward and back once for each network of the method, which may take long.

    Args:
        method: In eval mode, on the device.
        data: One split, normalised as the method wants to see it.
        device: Where it is computed.
    """
    classes = len(data.manifest.classes)
    first, _ = next(_by_class(data, device))
    return {
        network.name: class_importance(network, _by_class(data, device), classes)
        for network in method.networks(first[:2])
    }


def _by_class(data: DataSet, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the images as they are, class by class, with their labels."""
    ordered = data.take(np.argsort(data.manifest.labels, kind="stable"))
    labels = torch.from_numpy(ordered.manifest.labels.copy())
    for images, rows in evaluation_batches(ordered, device=device, everything=True):
        yield images, labels[rows].to(device)
