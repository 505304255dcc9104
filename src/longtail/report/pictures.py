"""Contact sheets: the pictures that a model got wrong with the most confidence."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from longtail.core.groups import GROUP_NAMES
from longtail.data.pictures import ArrayPictures, DataSet
from longtail.report.view import RunView

PER_GROUP = 9
SIDE = 96  # pixels of a thumbnail


@dataclass(frozen=True)
class Mistake:
    """One picture that was not recognised.

    Attributes:
        image: JPEG as a data URI.
        label: Name of its class.
        answer: Name of the answer.
        confidence: Probability of the answer, in [0, 1].
        id: Of the picture in the manifest.
    """

    image: str
    label: str
    answer: str
    confidence: float
    id: int


def worst_mistakes(view: RunView, per_group: int = PER_GROUP) -> dict[str, list[Mistake]]:
    """Return the most confident mistakes by shot group of the label; empty without the data."""
    if view.data is None or not view.data.manifest.has(view.split):
        return {}
    data = view.data.split(view.split)
    row_of = {int(number): row for row, number in enumerate(data.manifest.ids)}
    predictions, names = view.predictions, view.predictions.classes
    answers = predictions.predicted()
    found: dict[str, list[Mistake]] = {}
    for group in GROUP_NAMES:
        inside = view.groups.mask(group).numpy()[predictions.labels]
        wrong = np.flatnonzero(~view.right & inside)
        chosen = wrong[np.argsort(-view.confidence[wrong], kind="stable")][:per_group]
        mistakes = [
            Mistake(
                _thumbnail(data, row_of[int(predictions.ids[place])]),
                names[predictions.labels[place]],
                names[answers[place]],
                float(view.confidence[place]),
                int(predictions.ids[place]),
            )
            for place in chosen
            if int(predictions.ids[place]) in row_of
        ]
        if mistakes:
            found[group] = mistakes
    return found


def _thumbnail(data: DataSet, row: int) -> str:
    pictures = data.pictures
    if isinstance(pictures, ArrayPictures):
        pixels: NDArray[np.uint8] = pictures.pixels[row].cpu().numpy()
    else:
        pixels = pictures.decode(row)
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    small = image.width < SIDE
    image = image.resize((SIDE, SIDE), Image.Resampling.NEAREST if small else Image.Resampling.BOX)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
