"""Which of many unlabelled images to label next, for the sake of rare classes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special

from longtail.core.errors import DataError
from longtail.core.rng import numpy_generator
from longtail.core.words import counted
from longtail.data.data_set import DataSet
from longtail.data.images.file_checks import Checked
from longtail.data.images.perceptual_hash import perceptual_hash
from longtail.data.images.storage import ArrayImages
from longtail.data.images.unreadable import LEFT_OUT, REPLACE, describe_unreadable
from longtail.data.near_duplicates.found import near_by_hash
from longtail.data.preparation import Progress
from longtail.prediction.features import logits_and_features
from longtail.prediction.images import PredictOptions, as_input, decoded_batches
from longtail.prediction.inputs import ImageInputs, decode_view
from longtail.runs.model import LoadedModel
from longtail.runs.run import Run
from longtail.uncertainty import rank_for_labelling, spread

MOST_COMPARED = 10_000  # labelled images that the unlabelled ones are compared with


@dataclass(frozen=True)
class Suggestion:
    """One image to label.

    Attributes:
        path: Its file.
        gain: What it adds to those before it, see `rank_for_labelling`.
        label: The most probable class.
        probability: Its probability.
        group: Its shot group.
        few: Probability of all few-shot classes together.
        view: As the network sees it, uint8 [3, S, S].
    """

    path: str
    gain: float
    label: str
    probability: float
    group: str
    few: float
    view: NDArray[np.uint8]


@dataclass(frozen=True)
class Suggestions:
    """What to label, the most useful first.

    Attributes:
        images: The suggestions.
        looked_at: Number of images that could be read.
        notes: What was left out, and what else a user should know.
    """

    images: tuple[Suggestion, ...]
    looked_at: int
    notes: tuple[str, ...]


def suggest(
    run: Run,
    model: LoadedModel,
    inputs: ImageInputs,
    budget: int,
    *,
    options: PredictOptions | None = None,
    progress: Callable[[int], None] = lambda done: None,
    reading: Progress = lambda done, size: None,
) -> Suggestions:
    """Return the images that are worth labelling most.

    Args:
        run: A finished run, for its labelled images.
        model: Its model.
        inputs: Unlabelled images.
        budget: How many at most.
        options: Batch size and threads.
        progress: Called with the number of images that are done.
        reading: Called afterwards, while files of the run's images are checked.

    Raises:
        DataError: If none of the images can be read, or the run's own images do not open.
    """
    options = options or PredictOptions()
    rows, hashed, logits, features, broken = _outputs(model, inputs, options, progress)
    names = inputs.names()
    if not rows:
        raise DataError(describe_unreadable(broken, len(names), REPLACE))
    # val and test, too: labelled for training, their images would be leaks
    data = run.open_data(reading)
    kept = spread(data.manifest.labels, MOST_COMPARED, numpy_generator(0, "labelled, to compare"))
    alike, left_out = _looks_alike(hashed, data.take(kept))
    probabilities = special.softmax(logits.astype(np.float64), axis=1)
    found = rank_for_labelling(
        probabilities, np.array(model.metadata.class_counts), budget, features,
        numpy_generator(0, "wishes for labels"), alike=alike, left_out=left_out,
    )  # fmt: skip
    few, metadata = model.groups.mask("few").numpy(), model.metadata
    images = []
    for row, gain in zip(found.rows.tolist(), found.gains.tolist(), strict=True):
        label = int(probabilities[row].argmax())
        item = inputs.items[rows[row]]
        view = decode_view(item, metadata.image_size, metadata.fit, metadata.bit_depth).view
        if view is None:
            continue  # it has gone since
        sure, rare = float(probabilities[row, label]), float(probabilities[row, few].sum())
        name, group = metadata.classes[label], model.groups.name_of(label)
        images.append(Suggestion(names[rows[row]], gain, name, sure, group, rare, view))
    notes = [*inputs.describe_left_out()]
    if broken:
        notes.append(describe_unreadable(broken, len(names), LEFT_OUT))
    if known := int(left_out.sum()):
        what = counted(known, "image that looks", "images that look")
        notes.append(f"{what} like a labelled one {'is' if known == 1 else 'are'} not suggested.")
    if copies := len(alike) - len(np.unique(alike)):
        what = counted(copies, "image looks", "images look")
        notes.append(f"{what} like another unlabelled one; of such images one is suggested.")
    if not few.any():
        notes.append("No class is few shot; those with the fewest images count most all the same.")
    return Suggestions(tuple(images), len(rows), tuple(notes))


def _looks_alike(
    unlabelled: Sequence[Checked], labelled: DataSet
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return numbers that are equal where unlabelled images look alike, and which look like labelled ones.

    Args:
        unlabelled: Hashes of N images.
        labelled: Images that the model knows.
    """
    images = labelled.images
    known = [
        _hashed(
            images.pixels[row].cpu().numpy()
            if isinstance(images, ArrayImages)
            else images.decode(row)
        )
        for row in range(len(images))
    ]
    everything = [*unlabelled, *known]
    first: dict[str, int] = {}
    number = np.array([first.setdefault(one.pixels, row) for row, one in enumerate(everything)])
    for group in near_by_hash(everything).groups():
        number[np.isin(number, group)] = min(group)
    size = len(unlabelled)
    return number[:size], np.isin(number[:size], number[size:])


def _hashed(view: NDArray[np.uint8]) -> Checked:
    """Describe an image, uint8 [3, S, S], to compare it with others."""
    exact = hashlib.sha256(np.ascontiguousarray(view).data).hexdigest()
    coarse = perceptual_hash(torch.from_numpy(view))
    return Checked("", view.shape[2], view.shape[1], "", pixels=exact, hash=coarse)


def _outputs(
    model: LoadedModel,
    inputs: ImageInputs,
    options: PredictOptions,
    progress: Callable[[int], None],
) -> tuple[
    list[int], list[Checked], NDArray[np.float32], NDArray[np.float32], list[tuple[str, str]]
]:
    """Return which images can be read, their hashes, logits and features, and what is wrong with others."""
    rows: list[int] = []
    hashed: list[Checked] = []
    logits, features = [], []
    broken: list[tuple[str, str]] = []
    names, done = inputs.names(), 0
    for batch in decoded_batches(inputs, model.metadata, options):
        views = []
        for place, image in enumerate(batch, start=done):
            if image.view is None:
                broken.append((names[place], image.seen.reason))
            else:
                rows.append(place)
                views.append(image.view)
                hashed.append(_hashed(image.view))
        if views:
            with torch.inference_mode():
                shown = as_input(views, model.metadata, model.device)
                one, other = logits_and_features(model.method, shown)
            logits.append(one.cpu().numpy())
            features.append(other.cpu().numpy())
        done += len(batch)
        progress(done)
    if not rows:
        nothing = np.empty((0, 0), np.float32)
        return rows, hashed, nothing, nothing, broken
    return rows, hashed, np.concatenate(logits), np.concatenate(features), broken
