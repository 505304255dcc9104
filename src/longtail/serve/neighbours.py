"""The training images that are nearest to an image for the model, by cosine of its features."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from longtail.core.rng import numpy_generator
from longtail.core.stage import constant_part
from longtail.data.augmentation import normalise
from longtail.data.data_set import DataSet
from longtail.frozen import frozen_features
from longtail.methods.method import Method
from longtail.prediction.features import logits_and_features
from longtail.report.images import thumbnail_of
from longtail.runs import LoadedModel

MOST = 20_000  # training images that are compared; of more a sample


class FeaturesOf(nn.Module):
    """The features of a method, as a network from normalised images [B, 3, H, W] to [B, D]."""

    def __init__(self, method: nn.Module) -> None:
        super().__init__()
        self.method = method

    def forward(self, images: Tensor) -> Tensor:
        """Return float32 [B, D]."""
        return logits_and_features(self.method, images)[1]


@dataclass(frozen=True)
class Neighbour:
    """A training image near to another.

    Attributes:
        name: Its class.
        where: Its path in the data set, or its number.
        cosine: Of both images' features without their mean, -1..1.
        thumbnail: JPEG in base64, where it was asked for.
    """

    name: str
    where: str
    cosine: float
    thumbnail: str | None


class TrainingImages:
    """Features of the training images of a model.

    Args:
        model: Trained.
        data: Its train split, normalised as for the model.
        note: Told where features are kept.
        progress: Called with the number of images that are done, and of all.
    """

    def __init__(
        self,
        model: LoadedModel,
        data: DataSet,
        *,
        note: Callable[[str], None] = lambda text: None,
        progress: Callable[[int, int], None] = lambda done, size: None,
    ) -> None:
        if len(data.manifest) > MOST:
            rows = numpy_generator(0, "served").choice(len(data.manifest), MOST, replace=False)
            data = data.take(np.sort(rows))
        self._data, self._model = data, model
        self._network = _network_of(model.method).eval()
        found = frozen_features(
            self._network, data, device=model.device, note=note,
            progress=lambda done, size, seconds: progress(done, size),
        )  # fmt: skip
        values = found.cpu()
        self._mean = values.mean(dim=0)
        self._unit = nn.functional.normalize(values - self._mean, dim=1)

    def nearest(
        self, view: NDArray[np.uint8], number: int, *, thumbnails: bool = True
    ) -> list[Neighbour]:
        """Return the nearest training images, nearest first.

        Args:
            view: What the network sees of an image, uint8 [3, S, S].
            number: How many.
            thumbnails: Whether to make them.
        """
        metadata = self._model.metadata
        pixels = torch.from_numpy(view[None]).to(self._model.device)
        with torch.inference_mode():
            features = self._network(normalise(pixels, metadata.mean, metadata.std)).float().cpu()
        cosines = self._unit @ nn.functional.normalize(features[0] - self._mean, dim=0)
        values, rows = cosines.topk(min(number, len(cosines)))
        manifest = self._data.manifest
        return [
            Neighbour(
                manifest.classes[manifest.labels[row]],
                manifest.paths[row] if manifest.paths else f"image {manifest.ids[row]}",
                round(value, 3),
                thumbnail_of(self._data, row) if thumbnails else None,
            )
            for value, row in zip(values.tolist(), rows.tolist(), strict=True)
        ]


def _network_of(method: Method) -> nn.Module:
    """Return what makes the features: a backbone that was not trained by itself, as training kept its."""
    part = constant_part(method.stages())
    return FeaturesOf(method) if part is None else method.get_submodule(part)


def as_jpeg(view: NDArray[np.uint8]) -> str:
    """Return what the network sees, uint8 [3, S, S], as JPEG in base64."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(view.transpose(1, 2, 0))).save(buffer, "JPEG", quality=85)
    return base64.b64encode(buffer.getvalue()).decode()
