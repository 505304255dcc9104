"""What the script of a run's page draws from: columns of whole numbers, as compact JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from longtail.core.groups import GROUP_NAMES
from longtail.core.names import visible
from longtail.evaluation.metrics import wilson_interval
from longtail.evaluation.scores import percent
from longtail.report.classes import worst_first
from longtail.report.embedding import plane
from longtail.report.images import ShownImages
from longtail.report.view import RunView

MOST_PAIRS = 20_000
MAP_SIDE = 1000  # steps of a coordinate


def run_data(view: RunView, images: ShownImages) -> dict[str, Any]:
    """Return classes, confusions and images of a run; numbers in percent are tenths, so 123 is 12.3 %."""
    index = {place: number for number, place in enumerate(images.places.tolist())}
    featured = {place for found in images.featured.values() for place in found}
    places, predictions = images.places, view.predictions
    return {
        "split": view.split,
        "groups": list(GROUP_NAMES),
        "classes": _classes(view),
        "pairs": _pairs(view),
        "images": {
            "label": predictions.labels[places].tolist(),
            "predicted": predictions.predicted()[places].tolist(),
            "confidence": [tenths(value) for value in view.confidence[places].tolist()],
            "path": [visible(path) for path in images.where],
        },
        "thumbnails": {
            index[place]: made
            for place, made in images.thumbnails.items()
            if place not in featured  # those are on the page already
        },
        "map": _map(view, images, index),
    }


def as_json(content: Mapping[str, Any]) -> Markup:
    """Return JSON for a page: nothing in it ends a script, begins a comment or is markup."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def tenths(value: float) -> int | None:
    """Return a fraction in tenths of a percent, rounded as everywhere else; None if it is not known."""
    return None if math.isnan(value) else round(10 * float(percent(value)))


def _classes(view: RunView) -> dict[str, Any]:
    low, high = view.class_intervals.T
    order = worst_first(view.class_accuracy, view.tested, np.array(view.counts.values))
    return {
        "name": [visible(name) for name in view.counts.names],
        "group": list(view.groups.assignment),
        "train": list(view.counts.values),
        "test": view.tested.tolist(),
        "accuracy": [tenths(value) for value in view.class_accuracy.tolist()],
        "low": [tenths(value) for value in low.tolist()],
        "high": [tenths(value) for value in high.tolist()],
        "order": order.tolist(),
    }


def _pairs(view: RunView) -> dict[str, Any]:
    """Return label, prediction, images and the interval of the share of every confusion."""
    limits = cache(wilson_interval)
    kept = view.pairs[:MOST_PAIRS]
    label, predicted, images = kept.T.tolist()
    ends = [limits(n, int(view.tested[c])) for c, n in zip(label, images, strict=True)]
    return {
        "label": label, "predicted": predicted, "images": images,
        "low": [tenths(low) for low, _ in ends], "high": [tenths(high) for _, high in ends],
        "left_out": len(view.pairs) - len(kept),
    }  # fmt: skip


def _map(view: RunView, images: ShownImages, index: Mapping[int, int]) -> dict[str, Any] | None:
    found = plane(view.predictions.logits[images.on_map])
    if found is None:
        return None
    points, share = found
    x, y = _steps(points).T.tolist()
    return {
        "index": [index[place] for place in images.on_map.tolist()],
        "x": x, "y": y, "share": tenths(share),
    }  # fmt: skip


def _steps(points: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return points [N, 2] in whole steps of 0..MAP_SIDE in both directions."""
    low, high = points.min(axis=0), points.max(axis=0)
    width = np.where(high > low, high - low, 1.0)
    steps: NDArray[np.int64] = np.rint(MAP_SIDE * (points - low) / width).astype(np.int64)
    return steps
