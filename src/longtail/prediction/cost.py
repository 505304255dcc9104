"""What a prediction costs: parameters, operations and time of one image."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from longtail.methods.method import Method

TIMES = 10  # that the time is the median of, after one that warms up


@dataclass(frozen=True)
class PredictionCost:
    """What one image costs.

    Attributes:
        parameters: Of all that predicts.
        multiply_adds: Multiplications with an addition, of matrices and convolutions.
        seconds: Of one image alone, on the device that it was measured on; reading the file not counted.
    """

    parameters: int
    multiply_adds: int
    seconds: float


def prediction_cost(method: Method, image_size: int, device: torch.device) -> PredictionCost:
    """Measure predictions of single images by a trained method, with the random views that it asks for.

    Args:
        method: In eval mode, on the device.
        image_size: Side of the images, in pixels.
        device: Where it is.
    """
    image = torch.zeros(1, 3, image_size, image_size, device=device)

    def predict() -> Tensor:
        if method.asks_for_views and method.mixture_views:
            return method.predict_with_views(image, [image] * len(method.mixture_views)).cpu()
        return method.predict(image).cpu()  # waits for the device

    seconds = []
    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            predict()
        for _ in range(TIMES):
            begin = time.perf_counter()
            predict()
            seconds.append(time.perf_counter() - begin)
    return PredictionCost(
        sum(parameter.numel() for parameter in method.parameters()),
        counter.get_total_flops() // 2,
        statistics.median(seconds),
    )
