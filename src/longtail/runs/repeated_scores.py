"""Scores of a method on one split, epoch after epoch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from longtail.core.predictions import Predictions
from longtail.core.stage import constant_part
from longtail.data.data_set import DataSet
from longtail.engine.hardware import resolve_precision
from longtail.engine.options import TrainingConfig
from longtail.engine.streams import features_of
from longtail.evaluation import accuracies
from longtail.methods import Method
from longtail.prediction import predict_split
from longtail.prediction.splits import predict_features


class RepeatedScores:
    """Scores a method on one split, as often as asked; what a frozen part makes of the images is kept.

    Args:
        data: Only this split.
        split: Its name.
        training: Precision and workers.
        device: Where to compute.
    """

    def __init__(
        self, data: DataSet, split: str, training: TrainingConfig, device: torch.device
    ) -> None:
        self._data, self._split, self._training, self._device = data, split, training, device
        self._precision = resolve_precision(training.precision, device)
        self._features: dict[str, Tensor] = {}

    def __call__(self, method: nn.Module, features: str | None = None) -> dict[str, float]:
        """Return micro and macro accuracy and the like.

        Args:
            method: As it is now.
            features: Name of a part that never changes between calls; it sees every image once.
        """
        assert isinstance(method, Method)
        if features is not None:
            return accuracies(self._from_features(method, features))
        return accuracies(
            predict_split(
                method, self._data, self._split,
                device=self._device, precision=self._precision, workers=self._training.workers,
            )
        )  # fmt: skip

    def _from_features(self, method: Method, part: str) -> Predictions:
        if part not in self._features:
            kept = constant_part(method.stages()) is not None
            self._features[part] = features_of(
                method.get_submodule(part), self._data, self._training, self._device, keep=kept
            )
        logits = predict_features(method, part, self._features[part], precision=self._precision)
        manifest, values = self._data.manifest, logits.numpy()
        return Predictions(self._split, manifest.ids, manifest.labels, values, manifest.classes, "")
