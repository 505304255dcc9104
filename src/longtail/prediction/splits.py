"""From a model and a split to predictions, every image exactly once for any number of processes."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from longtail.core import distributed
from longtail.core.host_memory import keeping_freed_memory
from longtail.core.predictions import Predictions
from longtail.data.data_set import DataSet
from longtail.data.sampling.loader import evaluation_batches
from longtail.engine.hardware import autocast
from longtail.engine.pace import Passed
from longtail.methods.method import Method
from longtail.models.backbones import enlarged_side
from longtail.prediction.finite import require_finite

ROWS_TOGETHER = 4096  # of features


def predict_split(
    method: Method,
    data: DataSet,
    split: str,
    *,
    device: torch.device,
    precision: str = "fp32",
    checkpoint: str = "",
    workers: int = 4,
    passed: Passed = lambda done, size, seconds: None,
) -> Predictions:
    """Compute the logits of every image of one split.

    Args:
        method: Put into eval mode. If it asks for views, they are drawn for every image.
        data: Only this split, see `DataSet.split`.
        split: Its name.
        device: Where to compute.
        precision: `fp32` or `bf16`.
        checkpoint: SHA-256 of the weights.
        workers: Decoding threads.
        passed: Told after each batch how many images of this process are done, of how many, in how many
            seconds.

    Returns:
        Predictions in the order of `data`; complete on every process.
    """
    method.eval()
    rows: list[np.ndarray[Any, np.dtype[np.int64]]] = []
    logits: list[np.ndarray[Any, np.dtype[np.float32]]] = []
    views = method.mixture_views if method.asks_for_views else ()
    drawn = [("none", 0), *((view, seed) for seed, view in enumerate(views, start=1))]
    side = enlarged_side(method)
    done, size, since = 0, len(data.manifest) // distributed.world_size(), time.perf_counter()
    passes = [
        evaluation_batches(data, device=device, workers=workers, view=view, seed=seed, side=side)
        for view, seed in drawn
    ]
    with keeping_freed_memory(device), torch.inference_mode(), autocast(precision, device):
        for (images, places), *others in zip(*passes, strict=True):
            rows.append(places)
            seen = [other for other, _ in others]
            found = method.predict_with_views(images, seen) if seen else method.predict(images)
            logits.append(found.float().cpu().numpy())
            done += len(places)
            passed(done, max(size, done), time.perf_counter() - since)
    num_classes = len(data.manifest.classes)
    own = (
        np.concatenate(rows) if rows else np.empty(0, np.int64),
        np.concatenate(logits) if logits else np.empty((0, num_classes), np.float32),
    )
    shares = distributed.gather(own)
    places = np.concatenate([share[0] for share in shares])
    values = np.concatenate([share[1] for share in shares])
    require_finite(values, "The model")
    order = np.argsort(places)
    if not np.array_equal(places[order], np.arange(len(data.manifest))):
        raise AssertionError("every image must be predicted exactly once")
    manifest = data.manifest
    return Predictions(
        split, manifest.ids, manifest.labels, values[order], manifest.classes, checkpoint
    )


def predict_features(
    method: Method, part: str, features: Tensor, *, precision: str = "fp32"
) -> torch.Tensor:
    """Compute the logits [N, C] of images of which a frozen part has made its features already.

    Args:
        method: Put into eval mode.
        part: Name of the part.
        features: [N, D], on the device of the method; rows are computed `ROWS_TOGETHER` at a time.
        precision: `fp32` or `bf16`.
    """
    method.eval()
    frozen = method.get_submodule(part)
    method.set_submodule(part, nn.Identity())
    try:
        pieces = torch.split(features, ROWS_TOGETHER)
        with torch.inference_mode(), autocast(precision, features.device):
            found = [method.predict(piece).float().cpu() for piece in pieces]
    finally:
        method.set_submodule(part, frozen)
    return require_finite(torch.cat(found), "The model")


def predict_sub_models(
    method: Method,
    data: DataSet,
    *,
    device: torch.device,
    precision: str = "fp32",
    view: str = "none",
    seed: int = 0,
    workers: int = 4,
    passed: Passed = lambda done, size, seconds: None,
) -> torch.Tensor:
    """Compute the logits of every sub-model for one view of every image, float32 [N, T, C].

    Args:
        method: Put into eval mode.
        data: Only one split.
        device: Where to compute.
        precision: `fp32` or `bf16`.
        view: Augmentation policy.
        seed: Of its random numbers.
        workers: Decoding threads.
        passed: Told after each batch how many images are done, of how many, in how many seconds.
    """
    method.eval()
    found: list[Tensor] = []
    done, since = 0, time.perf_counter()
    batches = evaluation_batches(
        data, device=device, workers=workers, everything=True, view=view, seed=seed,
        side=enlarged_side(method),
    )  # fmt: skip
    with keeping_freed_memory(device), torch.inference_mode(), autocast(precision, device):
        for images, _ in batches:
            found.append(method.sub_model_logits(images).float().cpu())
            done += len(images)
            passed(done, len(data.manifest), time.perf_counter() - since)
    logits = torch.cat(found)  # outside, so that weights may be learnt on it
    return require_finite(logits, "The model")
