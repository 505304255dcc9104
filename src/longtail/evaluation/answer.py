"""Answers for pictures without labels: what a trained model says about files."""

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
from longtail.core.counts import ClassCounts
from longtail.core.errors import DataError
from longtail.core.groups import ShotGroups
from longtail.data.augmentation import normalise
from longtail.data.decode import BadPictureError
from longtail.data.files import walk
from longtail.data.pictures import FilePictures
from longtail.engine.checkpoint import CheckpointCard


@dataclass(frozen=True)
class Question:
    """How pictures are to be answered.

    Attributes:
        top: Number of classes per picture.
        prior: Class distribution in use, [C]; None keeps what the model assumes.
        mirror: Whether to average the probabilities of a picture and its mirror image.
        batch_size: Pictures at once; the answers do not depend on it.
        workers: Decoding threads.
    """

    top: int = 5
    prior: Tensor | None = None
    mirror: bool = False
    batch_size: int = 64
    workers: int = 4


def find_pictures(sources: Sequence[Path]) -> list[Path]:
    """Return the files in `sources`; folders stand for all visible pictures below them, sorted.

    Raises:
        DataError: If a folder holds no picture.
    """
    found: list[Path] = []
    for source in sources:
        if not source.is_dir():
            found.append(source)  # a missing file becomes a row with its error
            continue
        inside = sorted(path for path, is_picture in walk(source) if is_picture)
        if not inside:
            raise DataError(f"There is no picture in {source}.")
        found += inside
    return found


def answer(
    method: nn.Module,
    card: CheckpointCard,
    groups: ShotGroups,
    paths: Sequence[Path],
    question: Question,
    *,
    device: torch.device,
    progress: Callable[[int], None] = lambda done: None,
) -> pd.DataFrame:
    """Return one row per picture: path, class_1, probability_1, ..., group_1 and error.

    A file that cannot be read is a row with its error and no classes.

    Args:
        method: In eval mode, on the device.
        card: Class names, size and normalisation.
        groups: Shot groups of the classes.
        paths: Files.
        question: How many classes, which prior, and the like.
        device: Where to compute, in fp32.
        progress: Called with the number of pictures that are done.

    Raises:
        DataError: If the prior does not fit the classes.
    """
    top = min(question.top, len(card.classes))
    log_shift = None
    if question.prior is not None:
        counts = ClassCounts(card.class_counts, card.classes)
        log_shift = deployment_shift(counts, question.prior, balanced=bool(card.corrections))
    rows: list[dict[str, Any]] = []
    for batch, pixels in _decoded(paths, card.image_size, question):
        readable = [p for p in pixels if not isinstance(p, str)]
        probabilities = (
            _probabilities(method, card, np.stack(readable), log_shift, question.mirror, device)
            if readable
            else None
        )
        place = 0
        for path, content in zip(batch, pixels, strict=True):
            row: dict[str, Any] = {"path": str(path)}
            if isinstance(content, str):
                row["error"] = content
            else:
                assert probabilities is not None
                values, classes = probabilities[place].topk(top)
                place += 1
                for rank, (value, label) in enumerate(
                    zip(values.tolist(), classes.tolist(), strict=True), start=1
                ):
                    row[f"class_{rank}"] = card.classes[label]
                    # the last digits depend on the batch that a picture is computed in
                    row[f"probability_{rank}"] = round(value, 5)
                row["group"] = groups.name_of(int(classes[0]))
            rows.append(row)
        progress(len(rows))
    named = [f"{what}_{rank}" for rank in range(1, top + 1) for what in ("class", "probability")]
    return pd.DataFrame(rows, columns=["path", *named, "group", "error"])


def _probabilities(
    method: nn.Module,
    card: CheckpointCard,
    pixels: NDArray[np.uint8],
    log_shift: Tensor | None,
    mirror: bool,
    device: torch.device,
) -> Tensor:
    """Return probabilities [B, C] of uint8 pictures [B, 3, S, S]."""
    predict: Any = method.predict
    mean, std = card.mean, card.std
    images = normalise(torch.from_numpy(pixels).to(device), mean, std)
    images = images.contiguous(memory_format=torch.channels_last)
    total = torch.zeros((), device=device)
    views = [images, images.flip(3)] if mirror else [images]
    with torch.inference_mode():
        for view in views:
            logits = predict(view).float()
            if log_shift is not None:
                logits = logits + log_shift.to(device)
            total = total + logits.softmax(dim=1) / len(views)
    return total.cpu()


def _decoded(
    paths: Sequence[Path], size: int, question: Question
) -> Iterator[tuple[Sequence[Path], list[NDArray[np.uint8] | str]]]:
    """Yield batches of paths with pixels, or with what is wrong; one batch ahead."""
    pictures = FilePictures(tuple(paths), size)

    def decode(row: int) -> NDArray[np.uint8] | str:
        try:
            return pictures.decode(row)
        except BadPictureError as error:
            return error.reason

    step = question.batch_size
    flight: deque[tuple[Sequence[Path], list[Future[NDArray[np.uint8] | str]]]] = deque()
    with ThreadPoolExecutor(question.workers) as pool:
        for first in range(0, len(paths), step):
            rows = range(first, min(first + step, len(paths)))
            flight.append((paths[first : first + step], [pool.submit(decode, r) for r in rows]))
            if len(flight) > 1:
                batch, jobs = flight.popleft()
                yield batch, [job.result() for job in jobs]
        while flight:
            batch, jobs = flight.popleft()
            yield batch, [job.result() for job in jobs]
