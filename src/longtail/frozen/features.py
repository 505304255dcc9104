"""Features that a frozen backbone computes from images, computed once and reused."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from longtail.core.host_memory import keeping_freed_memory
from longtail.core.paths import cache_folder
from longtail.core.words import counted
from longtail.data.data_set import DataSet
from longtail.data.sampling.loader import evaluation_batches
from longtail.frozen.keys import about, image_digests, key_of
from longtail.frozen.store import FeatureStore
from longtail.models.backbones import enlarged_side

SECONDS_BETWEEN_FILES = 60.0  # an interrupted pass loses no more than this
SECONDS_BETWEEN_TRIES = 2.0  # to get the lock
Note = Callable[[str], None]
Pass = Callable[[int, int, float], None]  # images done, in all, seconds since the first


def frozen_features(
    backbone: nn.Module,
    data: DataSet,
    *,
    device: torch.device,
    workers: int = 4,
    keep: bool = True,
    note: Note = lambda text: None,
    progress: Pass = lambda done, size, seconds: None,
) -> Tensor:
    """Return the features of every image from a network without randomness, float32 [N, D], on the device.

    Features that any run or process of this user computed before are read from the cache folder
    (`longtail.core.paths.cache_folder`); the others are computed in fp32 and stored there. If two processes
    need the same features, only one computes them.

    Args:
        backbone: From normalised images [B, 3, H, W] to features [B, D]; put into eval mode, on the device.
        data: Images; the rows of the result are in their order.
        device: Where to compute.
        workers: Decoding threads.
        keep: Whether to read and write the cache; false for weights that will not be used again.
        note: Called with messages for the user: what was read, and where features are stored.
        progress: Called after every batch.
    """
    backbone.eval()
    folder = cache_folder() if keep else None
    if folder is None or len(data.manifest) == 0:
        return torch.from_numpy(_computed(backbone, data, device, workers, progress)).to(device)
    facts = about(backbone, data, device)
    store = FeatureStore(folder / "features" / key_of(facts), facts)
    images = image_digests(data)
    values, unknown = store.read(images)
    if len(unknown):
        with _alone(store.folder, note):
            values, unknown = store.read(images)  # another process may have computed them
            if len(unknown):
                # of equal images one is computed
                first = {images[row]: row for row in unknown[::-1].tolist()}
                rows = np.array(sorted(first.values()), dtype=np.int64)
                kept = _Keeping(store, [images[row] for row in rows.tolist()], note)
                fresh = _computed(backbone, data.take(rows), device, workers, progress, kept)
                if values is None:
                    values = np.empty((len(images), fresh.shape[1]), np.float32)
                place = {images[row]: number for number, row in enumerate(rows.tolist())}
                values[unknown] = fresh[[place[images[row]] for row in unknown.tolist()]]
                kept.describe()
    elif values is not None:
        note(f"features of {counted(len(images), 'image', 'images')} read from {store.folder}")
    assert values is not None
    return torch.from_numpy(values).to(device)


@torch.no_grad()
def _computed(
    backbone: nn.Module,
    data: DataSet,
    device: torch.device,
    workers: int,
    progress: Pass,
    kept: _Keeping | None = None,
) -> NDArray[np.float32]:
    """Run every image through the network once, in the order of the rows."""
    found: list[NDArray[np.float32]] = []
    done, begun = 0, time.monotonic()
    side = enlarged_side(backbone)
    batches = evaluation_batches(data, device=device, workers=workers, everything=True, side=side)
    with keeping_freed_memory(device):
        for images, _ in batches:
            found.append(backbone(images).float().cpu().numpy())
            done += len(images)
            if kept is not None:
                kept.take(found[-1])
            progress(done, len(data.manifest), time.monotonic() - begun)
    if kept is not None:
        kept.flush()
    return np.concatenate(found)


class _Keeping:
    """Writes features while they are computed; if it cannot, says so once and continues without."""

    def __init__(self, store: FeatureStore, images: list[bytes], note: Note) -> None:
        self._store, self._images, self._note = store, images, note
        self._rows: list[NDArray[np.float32]] = []
        self._written = 0
        self._since = time.monotonic()
        self._failed = False

    def take(self, values: NDArray[np.float32]) -> None:
        """Take the next rows; they are written from time to time."""
        self._rows.append(values)
        if time.monotonic() - self._since > SECONDS_BETWEEN_FILES:
            self.flush()

    def flush(self) -> None:
        """Write all rows that have not been written yet."""
        if not self._rows or self._failed:
            return
        values = np.concatenate(self._rows)
        images = self._images[self._written : self._written + len(values)]
        try:
            self._store.add(images, values)
        except OSError as error:
            self._failed = True
            self._note(
                f"the features cannot be kept in {self._store.folder} ({error.strerror or error}), so the "
                "next run computes them again; LONGTAIL_CACHE names another folder"
            )
        self._written += len(values)
        self._rows, self._since = [], time.monotonic()

    def describe(self) -> None:
        """Say where the features are kept."""
        if not self._failed:
            images = counted(self._written, "image", "images")
            megabytes = self._store.size() / 1e6
            self._note(
                f"features of {images} kept for later runs in {self._store.folder} ({megabytes:.1f} MB)"
            )


@contextmanager
def _alone(folder: Path, note: Note) -> Iterator[None]:
    """Run a block while no other process computes the same; together with others where locks fail."""
    lock = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=SECONDS_BETWEEN_TRIES)
        except filelock.Timeout:
            note("waiting for another process, which computes these features")
            lock.acquire()
    except (OSError, NotImplementedError):
        lock = None  # a folder that cannot be written, or a file system without locks
    try:
        yield
    finally:
        if lock is not None:
            lock.release()
