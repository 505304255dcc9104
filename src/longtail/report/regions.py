"""Where the network sees the predicted class in the mistakes at the top of a page, as transparent images."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from longtail.data.sampling.loader import evaluation_batches
from longtail.prediction.grad_cam import grad_cam
from longtail.report.view import RunView

AT_ONCE = 8  # images
COLOUR = (230, 0, 126)  # pink stands out from most photographs
MOST_COVERED = 0.6  # of a place, so that the image is seen behind it
LEFT_OUT = (
    "The page does not show where the network sees the predicted class: that needs a single network with a "
    "last feature map (or tokens) in which places can be told apart."
)


def regions(view: RunView, places: Sequence[int]) -> dict[int, str]:
    """Return transparent PNGs in base64 that mark, in each image, what speaks for its prediction.

    The network runs once on each image, so this costs about as much as predicting them.

    Args:
        view: A scored run.
        places: Of misclassified images in the predictions.

    Returns:
        Nothing if the data does not open, or if the network has no such map (`grad_cam`).
    """
    if view.data is None or view.part is None or not places:
        return {}
    rows = np.array(places, dtype=np.int64)
    data = view.for_model(view.data).take(rows)
    predicted, labels = view.predictions.predicted()[rows], view.predictions.labels[rows]
    model = view.model
    found: dict[int, str] = {}
    for images, part in evaluation_batches(
        data, device=model.device, batch_size=AT_ONCE, everything=True
    ):
        asked = (torch.from_numpy(each[part]).to(model.device) for each in (predicted, labels))
        maps = grad_cam(model.method, images, *asked)
        if maps is None:
            return {}
        found |= dict(zip(rows[part].tolist(), map(_marked, maps.cpu().numpy()), strict=True))
        view.progress("looking into mistakes", len(found), len(rows))
    return found


def _marked(values: NDArray[np.float32]) -> str:
    """Return values in 0..1, [h, w], as a PNG of h x w pixels that covers what is large."""
    pixels = np.empty((*values.shape, 4), dtype=np.uint8)
    pixels[..., :3] = COLOUR
    pixels[..., 3] = np.rint(255 * MOST_COVERED * values)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()
