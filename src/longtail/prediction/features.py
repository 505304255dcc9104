"""The features of images beside the logits that a method makes of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from longtail.core.host_memory import keeping_freed_memory
from longtail.data.data_set import DataSet
from longtail.data.preparation import Progress
from longtail.data.sampling.loader import evaluation_batches
from longtail.prediction.finite import require_finite


@contextmanager
def watched(method: nn.Module) -> Iterator[list[Tensor]]:
    """Yield a list that holds what the backbone gave in the last call, as features [B, D].

    It stays empty for a method that does not call its backbone, or has none.
    """
    found: list[Tensor] = []

    def keep(_module: nn.Module, _given: object, output: Any) -> None:  # noqa: ANN401 - torch's own
        parts = [output] if isinstance(output, Tensor) else list(output)
        found[:] = [torch.cat([_pooled(part) for part in parts], dim=1)]

    backbone = getattr(method, "backbone", None)
    hook = backbone.register_forward_hook(keep) if isinstance(backbone, nn.Module) else None
    try:
        yield found
    finally:
        if hook is not None:
            hook.remove()


def logits_and_features(method: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits [B, C] and features [B, D] of normalised images [B, 3, H, W], float32.

    Of several backbones, or experts, the features stand side by side. The logits stand in for the features
    of a method without a backbone.
    """
    predict: Any = method.predict
    with watched(method) as seen:
        logits = require_finite(predict(images).float(), "The model")
    return logits, seen[0].float() if seen else logits


def outputs_of(
    method: nn.Module,
    data: DataSet,
    *,
    device: torch.device,
    workers: int = 4,
    progress: Progress = lambda done, size: None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return logits [N, C] and features [N, D] of all images, in their order.

    Args:
        method: In eval mode, on the device.
        data: Normalised as the method wants to see it.
        device: Where to compute, in fp32.
        workers: Decoding threads.
        progress: Called after every batch.
    """
    logits, features, done = [], [], 0
    with keeping_freed_memory(device), torch.inference_mode():
        batches = evaluation_batches(data, device=device, workers=workers, everything=True)
        for images, _ in batches:
            one, other = logits_and_features(method, images)
            logits.append(one.cpu().numpy())
            features.append(other.cpu().numpy())
            done += len(images)
            progress(done, len(data.manifest))
    return np.concatenate(logits), np.concatenate(features)


def _pooled(output: Tensor) -> Tensor:
    return output.mean(dim=(2, 3)) if output.ndim == 4 else output.flatten(1)
