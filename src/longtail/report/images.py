"""The images of a page: which ones, their thumbnails, and where they lie."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from longtail.core.groups import GROUP_NAMES
from longtail.core.rng import numpy_generator
from longtail.data.data_set import DataSet
from longtail.data.images.storage import ArrayImages
from longtail.report.classes import worst_first
from longtail.report.view import RunView

FEATURED = 8  # mistakes of each shot group at the top of the page
SHOWN_MISTAKES, SHOWN_RIGHT = 6, 3  # images of a class
LISTED_MISTAKES = 20  # paths of a class
MOST_ON_MAP = 4000
SIDE = 96  # pixels of a thumbnail
THUMBNAIL_LETTERS = 1_800_000  # of all thumbnails of a page, in base64
AT_ONCE = 32  # thumbnails


@dataclass(frozen=True)
class ShownImages:
    """Test images that a page names, by their place in the predictions.

    Attributes:
        places: int64 [M], ascending.
        where: Path of each relative to the data set's folder, or `image N` where there is none.
        thumbnails: Place -> JPEG in base64, of as many as fit the page.
        featured: Shot group -> places of its most confident mistakes.
        on_map: int64 [P], places that the map shows: all, or some that were drawn by chance.
    """

    places: NDArray[np.int64]
    where: tuple[str, ...]
    thumbnails: dict[int, str]
    featured: dict[str, list[int]]
    on_map: NDArray[np.int64]


def choose_images(
    view: RunView, progress: Callable[[int, int], None] = lambda done, size: None
) -> ShownImages:
    """Choose the most confident mistakes of each group and class, and some images that were recognised.

    Args:
        view: A scored run; without its data there are no paths and no thumbnails.
        progress: Called with the number of thumbnails that are done, and of all.
    """
    labels, right = view.predictions.labels, view.right
    rank = _ranks(labels, right, view.confidence)
    listed = np.where(right, rank < SHOWN_RIGHT, rank < LISTED_MISTAKES)
    on_map = np.arange(len(labels))
    if len(labels) > MOST_ON_MAP:
        chosen = numpy_generator(0, "map").choice(len(labels), MOST_ON_MAP, replace=False)
        on_map = np.sort(chosen)
    featured = _featured(view)
    named = [place for places in featured.values() for place in places]
    everything = [np.flatnonzero(listed), on_map, np.array(named, np.int64)]
    places = np.unique(np.concatenate(everything))
    data = view.part
    if data is None:
        where = tuple(f"image {view.predictions.ids[place]}" for place in places.tolist())
        return ShownImages(places, where, {}, featured, on_map)
    manifest = data.manifest
    where = tuple(
        manifest.paths[place] if manifest.paths else f"image {manifest.ids[place]}"
        for place in places.tolist()
    )
    wanted = dict.fromkeys([*named, *_by_need(view, rank)])
    return ShownImages(places, where, thumbnails(data, list(wanted), progress), featured, on_map)


def _ranks(
    labels: NDArray[np.int64], right: NDArray[np.bool_], confidence: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Return the rank of each image by confidence among those of its class that went as it did, [N]."""
    kind = labels * 2 + right
    order = np.lexsort((-confidence, kind))
    _, first = np.unique(kind[order], return_index=True)
    starts = np.zeros(len(order), dtype=np.int64)
    starts[first] = first
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order)) - np.maximum.accumulate(starts)
    return ranks


def _featured(view: RunView) -> dict[str, list[int]]:
    found = {}
    for group in GROUP_NAMES:
        inside = view.groups.mask(group).numpy()[view.predictions.labels]
        wrong = np.flatnonzero(~view.right & inside)
        chosen = wrong[np.argsort(-view.confidence[wrong], kind="stable")][:FEATURED]
        if len(chosen):
            found[group] = chosen.tolist()
    return found


def _by_need(view: RunView, rank: NDArray[np.int64]) -> list[int]:
    """Return places in the order in which they get a thumbnail: first one of every class, the worst first."""
    labels, right = view.predictions.labels, view.right
    candidates = np.flatnonzero(np.where(right, rank < SHOWN_RIGHT, rank < SHOWN_MISTAKES))
    classes = worst_first(view.class_accuracy, view.tested, np.array(view.counts.values))
    turn = np.empty(len(classes), dtype=np.int64)
    turn[classes] = np.arange(len(classes))
    order = np.lexsort((turn[labels[candidates]], right[candidates], rank[candidates]))
    chosen: list[int] = candidates[order].tolist()
    return chosen


def thumbnails(
    data: DataSet, places: list[int], progress: Callable[[int, int], None]
) -> dict[int, str]:
    """Return thumbnails of places, in their order, until the page is full."""
    found: dict[int, str] = {}
    letters = 0
    with ThreadPoolExecutor(4) as pool:
        for start in range(0, len(places), AT_ONCE):
            part = places[start : start + AT_ONCE]
            for place, made in zip(part, pool.map(partial(thumbnail_of, data), part), strict=True):
                letters += len(made)
                if letters > THUMBNAIL_LETTERS:
                    progress(len(places), len(places))
                    return found
                found[place] = made
            progress(len(found), len(places))
    return found


def thumbnail_of(data: DataSet, row: int) -> str:
    """Return an image of a data set as JPEG in base64."""
    images = data.images
    if isinstance(images, ArrayImages):
        pixels: NDArray[np.uint8] = images.pixels[row].cpu().numpy()
    else:
        pixels = images.decode(row)
    return thumbnail(pixels)


def thumbnail(pixels: NDArray[np.uint8]) -> str:
    """Return an image, uint8 [3, S, S], as a small JPEG in base64; what is small keeps its pixels."""
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    if image.width > SIDE:
        image = image.resize((SIDE, SIDE), Image.Resampling.BOX, reducing_gap=2.0)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=80, optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
