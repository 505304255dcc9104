"""The mixtures of the sub-models of one training, which its scores show."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from longtail.core.counts import ClassCounts
from longtail.core.groups import GroupRule
from longtail.data.data_set import DataSet
from longtail.ensembles.mixtures import (
    AVERAGES,
    FOUND_FROM_VIEWS,
    SubModelLogits,
    compare_mixtures,
)
from longtail.methods.method import Method
from longtail.prediction import predict_sub_models


def mixtures_of(
    method: Method,
    data: DataSet,
    counts: ClassCounts,
    rule: GroupRule,
    *,
    device: torch.device,
    precision: str = "fp32",
    workers: int = 4,
) -> list[dict[str, Any]]:
    """Score the sub-models of one training: alone, averaged, by its test-time learning, and the oracles.

    Args:
        method: One without sub-models gives an empty list.
        data: Only one split.
        counts: Training images per class.
        rule: Of the shot groups.
        device: Where to compute.
        precision: `fp32` or `bf16`.
        workers: Decoding threads.

    Returns:
        As `compare_mixtures`, without the seconds.
    """
    if type(method).sub_model_logits is Method.sub_model_logits:
        return []
    predict = partial(
        predict_sub_models, method, data, device=device, precision=precision, workers=workers
    )
    clean = predict()
    if clean.shape[1] == 1:
        return []
    views = method.mixture_views
    first, second = (
        (predict(view=view, seed=seed) for seed, view in enumerate(views, start=1))
        if views
        else (clean, clean)
    )
    labels = torch.from_numpy(data.manifest.labels.copy())
    found = compare_mixtures(
        SubModelLogits(clean, first, second, labels),
        counts,
        rule=rule,
        only=(*AVERAGES, *(FOUND_FROM_VIEWS if views else ())),
    )
    return [{key: value for key, value in row.items() if key != "seconds"} for row in found]
