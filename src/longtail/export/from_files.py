"""Compare an exported model with `longtail predict` from image files on, prepared as the model card says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from longtail.core.errors import LongtailError
from longtail.data import Progress
from longtail.data.options import ArrayData
from longtail.data.preparation import read_files
from longtail.export.preparation import prepare
from longtail.prediction.inputs import decode_view
from longtail.runs import LoadedModel, Run

FILES = 8
JPEGS = (".jpg", ".jpeg")  # of which the way of decoding changes most


@dataclass(frozen=True)
class FromFiles:
    """What the comparison found.

    Attributes:
        files: Number of image files.
        difference: Largest absolute difference of a probability.
    """

    files: int
    difference: float


def compare_files(
    run: Run,
    model: LoadedModel,
    predict: Callable[[Tensor], Tensor],
    exported: Callable[[Tensor], Tensor],
    progress: Progress = lambda done, size: None,
) -> FromFiles | None:
    """Compare probabilities of some of a run's files; None if none can be read.

    Args:
        run: Whose files are read, JPEG files first.
        model: Its size of images.
        predict: From pixels [B, 3, S, S] in 0..1 to logits, of the run.
        exported: The same of the exported model.
        progress: Called with the number of files that are prepared, and of all.
    """
    metadata = model.metadata
    seen, made = [], []
    files = _some_files(run)
    for done, path in enumerate(files):
        progress(done, len(files))
        view = decode_view(path, metadata.image_size, metadata.fit, metadata.bit_depth).view
        try:
            plain = prepare(path, metadata.image_size, metadata.fit)
        except (OSError, ValueError):  # of more than 8 bits, which the card's program refuses
            continue
        if view is not None:
            seen.append(torch.from_numpy(view).float() / 255)
            made.append(torch.from_numpy(np.ascontiguousarray(plain)))
    if not seen:
        return None
    with torch.inference_mode():
        expected, found = predict(torch.stack(seen)), exported(torch.stack(made))
    progress(len(files), len(files))
    return FromFiles(len(seen), float((expected.softmax(1) - found.softmax(1)).abs().max()))


def _some_files(run: Run) -> list[Path]:
    """Return some files of the data, JPEG files first."""
    data = run.config.data
    if isinstance(data, ArrayData):
        return []
    try:
        listed = read_files(data, kept=run.kept_split() is not None)
    except LongtailError:
        return []
    return sorted(listed.files(), key=lambda path: path.suffix.lower() not in JPEGS)[:FILES]
