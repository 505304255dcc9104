"""What a repair works on: the outputs of a trained model on labelled pictures."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from longtail.core.counts import ClassCounts
from longtail.core.errors import DataError, ProtocolError


@dataclass(frozen=True)
class Outputs:
    """A model's outputs on one split; logits, features or both.

    Attributes:
        labels: int64 [N].
        logits: float [N, C].
        features: Inputs of the last layer, float [N, D].
        together: int64 [N], equal for pictures that belong together; None where nothing is known of it.
    """

    labels: Tensor
    logits: Tensor | None = None
    features: Tensor | None = None
    together: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Classifier:
    """A linear last layer: logits = features @ weight.T + bias.

    Attributes:
        weight: [C, D].
        bias: [C].
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Map features [N, D] to logits [N, C]."""
        return torch.addmm(self.bias, features, self.weight.T)


@dataclass(frozen=True)
class Evidence:
    """Everything that is known about a model that is to be repaired.

    Attributes:
        class_counts: Training pictures of the C classes, with their names.
        splits: Outputs by split: `train`, `val`, `test`.
        classifier: The linear last layer, where it is known.
        corrections: What training did about the imbalance already.
    """

    class_counts: ClassCounts
    splits: dict[str, Outputs]
    classifier: Classifier | None = None
    corrections: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for split, outputs in self.splits.items():
            _check(outputs, split, self.class_counts)
        if self.classifier is not None:
            rows = len(self.classifier.weight)
            if rows != len(self.class_counts) or len(self.classifier.bias) != rows:
                raise DataError(
                    f"The classifier has {rows} rows and {len(self.classifier.bias)} biases, but "
                    f"there are {len(self.class_counts)} classes."
                )

    def features(self, split: str) -> Tensor:
        """Return the features of a split.

        Raises:
            DataError: If there are none.
        """
        found = self.outputs(split).features
        if found is None:
            raise DataError(
                "This correction works on features (the inputs of the last layer), and there are "
                "only logits. Give a table with features and the classifier's weight, or the model."
            )
        return found

    def known_classifier(self) -> Classifier:
        """Return the last layer.

        Raises:
            DataError: If it is not known.
        """
        if self.classifier is None:
            raise DataError(
                "This correction changes the last layer, and it is not known. Put its arrays weight "
                "[C, D] and bias [C] into the .npz, or choose ncm or crt, which make a new one."
            )
        return self.classifier

    def logits(self, split: str) -> Tensor:
        """Return the logits of a split, from the features where only these are stored.

        Raises:
            DataError: If neither logits nor a classifier are known.
        """
        outputs = self.outputs(split)
        if outputs.logits is not None:
            return outputs.logits
        return self.known_classifier()(self.features(split))

    def outputs(self, split: str) -> Outputs:
        """Return what is known of a split.

        Raises:
            ProtocolError: If it is missing, saying how to get it.
        """
        if split in self.splits:
            return self.splits[split]
        raise ProtocolError(HOW_TO_GET[split])

    def has_predictions(self) -> bool:
        """Say whether the model's own answers are known."""
        return self.classifier is not None or all(
            outputs.logits is not None for outputs in self.splits.values()
        )

    def with_corrections(self, named: tuple[str, ...]) -> Evidence:
        """Return the evidence with what the user says about the training."""
        return replace(self, corrections=(*self.corrections, *named))


HOW_TO_GET = {
    "train": "This correction is fitted on the training pictures, and there are none. Add rows with "
    "split train to the table, or give the training data with --data.",
    "val": "The strength of a correction is chosen on a validation split, and there is none; the test "
    "split never chooses anything. Hold a part of train out when training "
    "(validation_per_class=5), mark rows of the table with split val, put a folder val/ into the "
    "data, or give a strength of your own with --strength.",
    "test": "There are no test pictures. Mark rows of the table with split test, or put a folder "
    "test/ into the data.",
}


def _check(outputs: Outputs, split: str, counts: ClassCounts) -> None:
    labels, num_classes = outputs.labels, len(counts)
    wrong = ((labels < 0) | (labels >= num_classes)).nonzero().flatten()
    if len(wrong):
        row = int(wrong[0])
        raise DataError(
            f"Labels must be 0..{num_classes - 1}, the numbers of the {num_classes} classes, but row "
            f"{row} of split {split} has {int(labels[row])} ({len(wrong)} such rows)."
        )
    for name, values in (("logits", outputs.logits), ("features", outputs.features)):
        if values is None:
            continue
        if values.ndim != 2 or len(values) != len(labels):
            raise DataError(
                f"The {name} of split {split} have shape {list(values.shape)}, but there are "
                f"{len(labels)} labels."
            )
        broken = (~torch.isfinite(values).all(dim=1)).nonzero().flatten()
        if len(broken):
            raise DataError(
                f"The {name} of split {split} hold values that are not finite, the first in row "
                f"{int(broken[0])}."
            )
    if outputs.logits is not None and outputs.logits.shape[1] != num_classes:
        raise DataError(
            f"There are {outputs.logits.shape[1]} logits but {num_classes} classes in split {split}."
        )
