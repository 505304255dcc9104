"""Predictions for images without labels, as a table."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from longtail.adjust import deployment_shift
from longtail.core.errors import ConfigError
from longtail.core.groups import ShotGroups
from longtail.core.missing import is_there, no_images
from longtail.core.prior import unknown_prior
from longtail.data.augmentation import normalise
from longtail.data.images.pixel_checks import pixel_findings
from longtail.engine.checkpoint import CheckpointMetadata
from longtail.methods.method import Method
from longtail.prediction.calibration import Calibration, Judged
from longtail.prediction.features import logits_and_features
from longtail.prediction.finite import require_finite
from longtail.prediction.inputs import Decoded, ImageInputs, decode_view
from longtail.prediction.views import Crops, MeanOfCrops

JUDGED = ("accepted_as", "prediction_set", "typical", "unusual")  # columns of a calibrated model
NOT_ACCEPTED = (
    "There is no column accepted_as: which predictions to accept was chosen without --prior and --mirror, "
    "which change them. Prediction sets and the warning of unusual images still hold."
)
NOT_OF_CROPS = (
    "There are no columns accepted_as, prediction_set, typical and unusual: they were chosen without "
    "--crops, which changes the predictions."
)


@dataclass(frozen=True)
class PredictOptions:
    """How images are predicted.

    Attributes:
        top: Number of classes per image.
        prior: Class distribution in use, [C], in the order of the model's classes; None keeps what the model
            assumes.
        assumed: Class distribution that the model's scores assume, [C], where its metadata does not say.
        mirror: Whether to average the probabilities of an image and its mirror image.
        crops: Parts of the image whose logits are averaged, see `longtail.prediction.views`.
        batch_size: Images at once; the predictions do not depend on it.
        workers: Decoding threads.

    Raises:
        ConfigError: If one of the three numbers is below 1.
    """

    top: int = 5
    prior: Tensor | None = None
    assumed: Tensor | None = None
    mirror: bool = False
    crops: Crops | None = None
    batch_size: int = 64
    workers: int = 4

    def __post_init__(self) -> None:
        for name in ("top", "batch_size", "workers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, but got {getattr(self, name)}.")


def predict_images(
    method: nn.Module,
    metadata: CheckpointMetadata,
    groups: ShotGroups,
    inputs: ImageInputs,
    options: PredictOptions,
    *,
    device: torch.device,
    calibration: Calibration | None = None,
    progress: Callable[[int], None] = lambda done: None,
    note: Callable[[str], None] = lambda text: None,
) -> pd.DataFrame:
    """Return one row per image: path, class_1, probability_1, ..., group and error.

    A file that cannot be read is a row with its error and no classes. With a calibration, each row also has
    `accepted_as` (class_1, a coarser name, or None for "not known"), `prediction_set` (names), `typical`
    (0..1) and `unusual`. All of them are of the model as it was calibrated; where a prior or a mirror image
    changes the prediction, `accepted_as` is left out.

    Args:
        method: In eval mode, on the device.
        metadata: Class names, size, fit and normalisation.
        groups: Shot groups of the classes.
        inputs: The images.
        options: How many classes, which prior, and the like.
        device: Where to compute, in fp32.
        calibration: Of the model, if it is known.
        progress: Called with the number of images that are done.
        note: Called with sentences on what was left out, and on what the pixels show.

    Raises:
        DataError: If the prior does not fit the classes.
        OutputError: If the model predicts numbers that are not finite.
        ConfigError: If there is a prior, and it is not known which one the scores assume.
    """
    top = min(options.top, len(metadata.classes))
    log_shift = _log_shift(metadata, options)
    if options.crops is not None:
        method, calibration = _of_crops(method, options.crops, calibration, note), None
    changed = log_shift is not None or options.mirror
    if calibration is not None and changed:
        note(NOT_ACCEPTED)
    rows: list[dict[str, Any]] = []
    names, seen = inputs.names(), []
    # of one image only: names that are near those of many take long to find
    only = inputs.items[0] if len(inputs) == 1 else None
    slip = no_images(names) if isinstance(only, Path) and is_there(str(only)) is False else ""
    for batch in decoded_batches(inputs, metadata, options):
        readable = [image.view for image in batch if image.view is not None]
        probabilities, judged = None, None
        if readable:
            shown = as_input(readable, metadata, device)
            with torch.inference_mode():
                logits, features = logits_and_features(method, shown)
            probabilities = _probabilities(method, shown, logits, log_shift, options.mirror)
            if calibration is not None:
                judged = calibration.judge(logits.cpu().numpy(), features.cpu().numpy())
        place = 0
        for image in batch:
            row: dict[str, Any] = {"path": names[len(rows)]}
            seen.append(image.seen)
            if image.view is None:
                row["error"] = slip or image.seen.reason
            else:
                assert probabilities is not None
                if judged is not None:
                    row |= _told(judged, place, metadata.classes, with_class=not changed)
                row |= _named(probabilities[place], top, metadata.classes, groups)
                place += 1
            rows.append(row)
        progress(len(rows))
    notes = pixel_findings(
        names, seen, size=metadata.image_size, fit=metadata.fit, bit_depth=metadata.bit_depth
    )
    for told in (*inputs.describe_left_out(), *notes):
        note(told)
    named = [f"{what}_{rank}" for rank in range(1, top + 1) for what in ("class", "probability")]
    judging = [] if calibration is None else JUDGED[changed:]
    return pd.DataFrame(rows, columns=["path", *named, "group", *judging, "error"])


def _named(
    probabilities: Tensor, top: int, classes: tuple[str, ...], groups: ShotGroups
) -> dict[str, Any]:
    """Return the cells of one image's most probable classes."""
    cells: dict[str, Any] = {}
    values, labels = probabilities.topk(top)
    for rank, (value, label) in enumerate(
        zip(values.tolist(), labels.tolist(), strict=True), start=1
    ):
        cells[f"class_{rank}"] = classes[label]
        # the last digits depend on the batch that an image is computed in
        cells[f"probability_{rank}"] = round(value, 5)
    return cells | {"group": groups.name_of(int(labels[0]))}


def _told(
    judged: Judged, place: int, classes: tuple[str, ...], *, with_class: bool
) -> dict[str, Any]:
    """Return the cells of one image."""
    own = classes[judged.predicted[place]]
    cells: dict[str, Any] = {
        "prediction_set": [classes[c] for c in np.flatnonzero(judged.sets[place]).tolist()],
        "typical": round(float(judged.typical[place]), 4),
        "unusual": bool(judged.unusual[place]),
    }
    if with_class:
        cells["accepted_as"] = own if judged.accepted[place] else judged.ancestors[place] or None
    return cells


def _of_crops(
    method: nn.Module, crops: Crops, calibration: Calibration | None, note: Callable[[str], None]
) -> nn.Module:
    """Return the method that predicts the mean of crops, and say what is not known of it."""
    assert isinstance(method, Method)
    if calibration is not None:
        note(NOT_OF_CROPS)
    return MeanOfCrops(method, crops).eval()


def _log_shift(metadata: CheckpointMetadata, options: PredictOptions) -> Tensor | None:
    """Return what moves the logits to the distribution in use, float32 [C], or None for nothing."""
    if options.prior is None:
        return None
    assumed = metadata.prior() if options.assumed is None else options.assumed
    if assumed is None:
        raise ConfigError(unknown_prior(metadata.corrections))
    prior = torch.as_tensor(options.prior)  # a list or an array is as good
    return deployment_shift(torch.as_tensor(assumed), prior).float()


def _probabilities(
    method: nn.Module, images: Tensor, logits: Tensor, log_shift: Tensor | None, mirror: bool
) -> Tensor:
    """Return probabilities [B, C] of normalised images [B, 3, S, S] and their logits."""
    predict: Any = method.predict
    with torch.inference_mode():
        views = [logits]
        if mirror:
            views.append(require_finite(predict(images.flip(3)).float(), "The model"))
        shift = 0.0 if log_shift is None else log_shift.to(images.device)
        return torch.stack([(view + shift).softmax(dim=1) for view in views]).mean(dim=0).cpu()


def as_input(
    views: Sequence[NDArray[np.uint8]], metadata: CheckpointMetadata, device: torch.device
) -> Tensor:
    """Return uint8 views [3, S, S] as the model wants to see them, float32 [B, 3, S, S] on the device."""
    pixels = torch.from_numpy(np.stack(views)).to(device)
    shown = normalise(pixels, metadata.mean, metadata.std)
    return shown.contiguous(memory_format=torch.channels_last)


def decoded_batches(
    inputs: ImageInputs, metadata: CheckpointMetadata, options: PredictOptions
) -> Iterator[list[Decoded]]:
    """Yield batches of images with their views, or with what is wrong; one batch ahead."""
    step = options.batch_size
    flight: deque[list[Future[Decoded]]] = deque()
    with ThreadPoolExecutor(options.workers) as pool:
        for first in range(0, len(inputs), step):
            batch = inputs.items[first : first + step]
            flight.append(
                [
                    pool.submit(
                        decode_view, item, metadata.image_size, metadata.fit, metadata.bit_depth
                    )
                    for item in batch
                ]
            )
            if len(flight) > 1:
                yield [job.result() for job in flight.popleft()]
        while flight:
            yield [job.result() for job in flight.popleft()]
