"""What a correction works on: the outputs of a trained model on labelled images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from longtail.adjust import distribution
from longtail.core.counts import ClassCounts
from longtail.core.errors import ConfigError, DataError, ProtocolError
from longtail.core.prior import Prior, stated_prior, unknown_prior, written


@dataclass(frozen=True)
class Outputs:
    """A model's outputs on one split; logits, features or both.

    Attributes:
        labels: int64 [N].
        logits: float [N, C].
        features: Inputs of the last layer, float [N, D].
        together: int64 [N], equal for images that belong together; None where nothing is known of it.
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

    @property
    def parts(self) -> tuple[Tensor, Tensor]:
        """Weight and bias."""
        return self.weight, self.bias

    def __call__(self, features: Tensor) -> Tensor:
        """Map features [N, D] to logits [N, C]."""
        return torch.addmm(self.bias, features, self.weight.T)


@dataclass(frozen=True)
class Evidence:
    """Everything that is known about a model that is to be corrected.

    Attributes:
        class_counts: Training images of the C classes, with their names.
        splits: Outputs by split: `train`, `val`, `test`.
        classifier: The linear last layer, where it is known.
        corrections: What training did about the imbalance already.
        assumed_prior: Class distribution that the logits assume, as on a model's metadata: shares, `unknown`,
            or None where nothing is said.
    """

    class_counts: ClassCounts
    splits: dict[str, Outputs]
    classifier: Classifier | None = None
    corrections: tuple[str, ...] = ()
    assumed_prior: Prior = None

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
            if not all(bool(torch.isfinite(part).all()) for part in self.classifier.parts):
                raise DataError("The classifier (last layer) contains values that are not finite.")
        if isinstance(self.assumed_prior, tuple) and len(self.assumed_prior) != len(
            self.class_counts
        ):
            raise DataError(
                f"The assumed prior has {len(self.assumed_prior)} shares for {len(self.class_counts)} "
                "classes."
            )

    def features(self, split: str) -> Tensor:
        """Return the features of a split.

        Raises:
            DataError: If there are none.
        """
        found = self.outputs(split).features
        if found is None:
            raise DataError(
                "This correction needs features (the inputs of the last layer), but there are only "
                "logits. Give a table with features and the classifier's weight, or the model itself."
            )
        return found

    def known_classifier(self) -> Classifier:
        """Return the last layer.

        Raises:
            DataError: If it is not known.
        """
        if self.classifier is None:
            raise DataError(
                "This correction changes the last layer, which is unknown. Add its arrays weight [C, D] "
                "and bias [C] to the .npz, or choose ncm or crt, which create a new classifier."
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
        """Say whether the model's own predictions are known."""
        return self.classifier is not None or all(
            outputs.logits is not None for outputs in self.splits.values()
        )

    def prior(self) -> Tensor | None:
        """Return the class distribution that the logits assume, float64 [C], or None if unknown."""
        return stated_prior(self.assumed_prior, self.class_counts, self.corrections)

    def known_prior(self) -> Tensor:
        """Return the class distribution that the logits assume, float64 [C].

        Raises:
            ConfigError: If it is not known.
        """
        found = self.prior()
        if found is None:
            raise ConfigError(unknown_prior(self.corrections))
        return found

    def told(self, trained_with: Sequence[str] = (), assumed: Tensor | None = None) -> Evidence:
        """Return the evidence with what the user says about the training.

        Args:
            trained_with: Names of corrections; the prior follows from a single one of `EXPONENTS`.
            assumed: Class distribution that the logits assume, [C]; it has the last word.
        """
        stated = self.assumed_prior
        if assumed is not None:
            stated = written(assumed)
        elif trained_with:
            single = len(trained_with) == 1 and not self.corrections
            exponent = EXPONENTS.get(trained_with[0].lower().replace("_", "-").replace(" ", "-"))
            known = single and exponent is not None
            log_prior = self.class_counts.log_prior(torch.float64)
            stated = written(distribution((exponent or 0) * log_prior) if known else None)
        corrections = (*self.corrections, *trained_with)
        return replace(self, corrections=corrections, assumed_prior=stated)


# logits of a model that was trained so assume n to this power
EXPONENTS = {
    "balanced-softmax": 0.0,
    "class-balanced-sampling": 0.0,
    "square-root-sampling": 0.5,
    "reversed-sampling": -1.0,
}

HOW_TO_GET = {
    "train": (
        "This correction is fitted on training images, and there are none. Add rows with split "
        "train to the table, or give the training data with --data."
    ),
    "val": (
        "The strength of a correction is chosen on a validation split, and there is none; the "
        "test split never selects anything. Hold out a part of train when you train "
        "(validation_per_class=5), mark rows of the table with split val, add a folder val/ to "
        "the data, or set the strength yourself with --strength."
    ),
    "test": (
        "There are no test images. Mark rows of the table with split test, or add a folder test/ "
        "to the data."
    ),
}


def _check(outputs: Outputs, split: str, counts: ClassCounts) -> None:
    labels, num_classes = outputs.labels, len(counts)
    wrong = ((labels < 0) | (labels >= num_classes)).nonzero().flatten()
    if len(wrong):
        row = int(wrong[0])
        raise DataError(
            f"Labels must be class numbers from 0 to {num_classes - 1} ({num_classes} classes), but "
            f"row {row} of split {split} has {int(labels[row])} ({len(wrong)} such rows)."
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
                f"The {name} of split {split} contain values that are not finite, the first in row "
                f"{int(broken[0])}."
            )
    if outputs.logits is not None and outputs.logits.shape[1] != num_classes:
        raise DataError(
            f"There are {outputs.logits.shape[1]} logits but {num_classes} classes in split {split}."
        )
