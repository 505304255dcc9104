"""What was found on val of a model: when to reject a prediction, which classes to name, what is unusual.

One file holds it, `calibration.safetensors` in the run folder: thresholds and facts as JSON in its header,
features of training images as its tensors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from scipy import special

from longtail.config import Options
from longtail.core.errors import CheckpointError
from longtail.core.groups import GROUP_NAMES
from longtail.engine.checksums import checksum, json_text, read_bytes
from longtail.engine.run_folder import writing
from longtail.uncertainty import (
    Hierarchy,
    NearestFeatures,
    Threshold,
    aps_scores,
    lac_scores,
    p_values,
    prediction_sets,
)

HEADER, SEAL = "calibration", "calibration_sha256"
BANK, DISTANCES = "bank", "distances"
ALL = "all"
SetScore = Literal["lac", "aps"]
SCORES = {"lac": lac_scores, "aps": aps_scores}


class KeptThreshold(Options):
    """A reject threshold, see `longtail.uncertainty.Threshold`.

    A `value` of None rejects everything, one of -1 nothing; `highest` is then the highest precision that val
    shows, in whole percent, if it shows any.
    """

    value: float | None
    images: int
    accepted: int
    right: int
    bound: float | None
    needed: int
    highest: float | None = None

    @classmethod
    def of(cls, found: Threshold, highest: float | None = None) -> KeptThreshold:
        """Keep what was found."""
        value = None if found.value is None else max(found.value, -1.0)
        return cls(**{**asdict(found), "value": value, "highest": highest})


class Described(Options):
    """The header of the file.

    Attributes:
        weights_sha256: Of the weights that were calibrated.
        classes: C names.
        groups: Shot group of each class.
        precision: Wished share of right predictions among those that are accepted.
        coverage: Wished share of images whose set holds their class, in each class.
        alarm: Share of images of known classes that may be called unusual.
        images: Number of val images.
        reject: Thresholds by shot group of the predicted class, and of all together.
        score: Of the prediction sets.
        set_thresholds: [C]; None is infinite.
        set_pools: Which images gave the threshold of each class, see `ClassThresholds`.
        set_images: How many these were.
        parents: Parent of each class and ancestor; empty without a hierarchy.
        levels: Thresholds of the levels of ancestors, the finest first.
        measured: What was measured on test, if there is such a split; see `longtail.runs.calibrating`.
        tensors_sha256: Of the arrays in the file.
        notes: Sentences for people.
        format: Version of this layout.
    """

    weights_sha256: str
    classes: tuple[str, ...]
    groups: tuple[str, ...]
    precision: float = Field(gt=0, lt=1)
    coverage: float = Field(gt=0, lt=1)
    alarm: float = Field(gt=0, lt=1)
    images: int
    reject: dict[str, KeptThreshold]
    score: SetScore
    set_thresholds: tuple[float | None, ...]
    set_pools: tuple[str, ...]
    set_images: tuple[int, ...]
    parents: dict[str, str] = Field(default_factory=dict)
    levels: tuple[KeptThreshold, ...] = ()
    measured: dict[str, Any] = Field(default_factory=dict)
    tensors_sha256: str = ""
    notes: tuple[str, ...] = ()
    format: Literal[1] = 1


@dataclass(frozen=True)
class Judged:
    """What is to be thought of N predictions.

    Attributes:
        predicted: The most probable class, int64 [N].
        accepted: Whether it is accepted, bool [N].
        ancestors: Where it is not, the finest ancestor that is; empty where none is, [N].
        sets: Which classes are in the prediction set, bool [N, C].
        typical: Share of val images that lie as far from training, or farther, [N].
        unusual: Whether that is no more than the alarm, bool [N].
    """

    predicted: NDArray[np.int64]
    accepted: NDArray[np.bool_]
    ancestors: tuple[str, ...]
    sets: NDArray[np.bool_]
    typical: NDArray[np.float64]
    unusual: NDArray[np.bool_]


@dataclass(frozen=True)
class Calibration:
    """A calibrated model's thresholds, applied to its outputs.

    Attributes:
        described: Thresholds and facts.
        nearest: Training features.
        distances: Of val images: of `all`, and of the shot groups (by predicted class) that have enough.
    """

    described: Described
    nearest: NearestFeatures
    distances: dict[str, NDArray[np.float64]]

    @cached_property
    def hierarchy(self) -> Hierarchy | None:
        """Ancestors of the classes, if they are known."""
        told = self.described
        return Hierarchy(told.classes, told.parents) if told.parents else None

    def judge(self, logits: NDArray[np.float32], features: NDArray[np.float32]) -> Judged:
        """Judge predictions.

        Args:
            logits: Of the model as it was trained, for one view of each image, [N, C].
            features: Of the same images, [N, D].
        """
        told = self.described
        probabilities = special.softmax(logits.astype(np.float64), axis=1)
        predicted = probabilities.argmax(axis=1)
        groups = np.array(told.groups)[predicted]
        confidence = probabilities.max(axis=1)
        accepted = np.zeros(len(logits), dtype=bool)
        for name in GROUP_NAMES:
            own = told.reject.get(name)
            if own is not None and own.value is not None:
                accepted |= (groups == name) & (confidence > own.value)
        thresholds = np.array([math.inf if t is None else t for t in told.set_thresholds])
        sets = prediction_sets(SCORES[told.score](probabilities), thresholds)
        far = self.nearest.distances(features)
        typical = np.ones(len(logits))
        for name in GROUP_NAMES:
            known = self.distances.get(name, self.distances[ALL])
            inside = groups == name
            typical[inside] = p_values(far[inside], known)
        ancestors = self._ancestors(probabilities, accepted)
        return Judged(predicted, accepted, ancestors, sets, typical, typical <= told.alarm)

    def _ancestors(
        self, probabilities: NDArray[np.float64], accepted: NDArray[np.bool_]
    ) -> tuple[str, ...]:
        found = np.full(len(probabilities), "", dtype=object)
        if self.hierarchy is None:
            return tuple(found)
        left = ~accepted
        for level, own in enumerate(self.described.levels):
            if own.value is None:
                continue
            best, sure = self.hierarchy.predicted(probabilities, level)
            reached = left & (sure > own.value)
            found[reached] = np.array(self.hierarchy.levels[level], dtype=object)[best[reached]]
            left &= ~reached
        return tuple(found)

    def write(self, path: Path) -> None:
        """Write the file.

        Raises:
            CheckpointError: If it cannot be written.
        """
        tensors: dict[str, NDArray[Any]] = {BANK: self.nearest.bank.astype(np.float16)}
        tensors |= {f"{DISTANCES}.{name}": value for name, value in self.distances.items()}
        told = self.described.model_copy(update={"tensors_sha256": _checksum(tensors)})
        text = json_text(told.model_dump(mode="json"))
        header = {HEADER: text, SEAL: checksum(text.encode())}
        with writing(path) as file:
            file.write_bytes(safetensors.numpy.save(tensors, metadata=header))

    @classmethod
    def read(cls, path: Path, weights_sha256: str = "") -> Calibration:
        """Read the file.

        Args:
            path: The file.
            weights_sha256: Of the weights that it must belong to; not compared if empty.

        Raises:
            CheckpointError: If it is damaged, of another kind, or belongs to other weights.
        """
        described = read_described(path, weights_sha256)
        tensors = safetensors.numpy.load(read_bytes(path))
        if _checksum(tensors) != described.tensors_sha256:
            raise CheckpointError(f"{path} was changed after it was written. {_again(path)}")
        prefix = f"{DISTANCES}."
        distances = {
            name.removeprefix(prefix): value
            for name, value in tensors.items()
            if name.startswith(prefix)
        }
        return cls(described, NearestFeatures(tensors[BANK].astype(np.float32)), distances)


def read_described(path: Path, weights_sha256: str = "") -> Described:
    """Read the header alone; see `Calibration.read`."""
    try:
        with safetensors.safe_open(path, framework="numpy") as opened:
            header = opened.metadata()
        if checksum(header[HEADER].encode()) != header[SEAL]:
            raise ValueError("it was changed after it was written")
        described = Described.model_validate(json.loads(header[HEADER]))
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        ValidationError,
        safetensors.SafetensorError,
    ) as error:
        raise CheckpointError(
            f"{path} is not a calibration file, or it is damaged. {_again(path)}"
        ) from error
    if weights_sha256 and described.weights_sha256 != weights_sha256:
        raise CheckpointError(f"{path} belongs to other weights than the run's. {_again(path)}")
    return described


def _again(path: Path) -> str:
    return f"To write it again: longtail calibrate {path.parent}."


def _checksum(tensors: Mapping[str, NDArray[Any]]) -> str:
    return checksum(b"".join(tensors[name].tobytes() for name in sorted(tensors)))
