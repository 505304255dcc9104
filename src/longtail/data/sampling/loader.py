"""Batches for training and evaluation, on the device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from longtail.core import distributed
from longtail.core.batch import Batch
from longtail.core.rng import numpy_generator
from longtail.core.to_device import send
from longtail.data.augmentation import Draws, Policy, find_policy, normalise
from longtail.data.data_set import DataSet
from longtail.data.images.storage import ArrayImages
from longtail.data.sampling.samplers import EpochSampler

BATCHES_AHEAD = 4  # decoded while the device computes
IMAGES_AT_ONCE = 1024  # augmented together: 8 batches of 128
# images that are evaluated together, and pixels of them
LARGEST_BATCH, PIXELS_ON_GPU = 1000, 256 * 224**2
# on a CPU fewer, so that what a layer puts out stays below 32 MiB: larger pieces of memory are fetched from
# the system, page by page, each time anew
PIXELS_ON_CPU = 200 * 32**2


class Loader(ABC):
    """Makes the batches of one stream of one stage.

    Args:
        data: The train split.
        sampler: Which images come when.
        device: Where the batches go.
    """

    def __init__(self, data: DataSet, sampler: EpochSampler, device: torch.device) -> None:
        self._data, self._sampler, self._device = data, sampler, device
        self._labels = torch.from_numpy(np.array(data.manifest.labels)).to(device)
        self._ids = torch.from_numpy(np.array(data.manifest.ids)).to(device)

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return self._sampler.steps

    def ids_of(self, epoch: int, step: int) -> list[int]:
        """Return the ids of the images of one batch of this process."""
        rows = self._sampler.local_batches(epoch)[step]
        return [int(number) for number in self._data.manifest.ids[rows]]

    @abstractmethod
    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Yield the batches of `epoch`."""


class FeatureLoader(Loader):
    """Makes batches of features that were computed once.

    Args:
        features: Of every image of `data`, float [N, D], on the device.
        data: The train split.
        sampler: Which images come when.
        device: Where the batches go.
    """

    def __init__(
        self, features: Tensor, data: DataSet, sampler: EpochSampler, *, device: torch.device
    ) -> None:
        super().__init__(data, sampler, device)
        self._features = features

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Yield the batches of `epoch`; their only view are features, [B, D]."""
        for rows in send(self._sampler.local_batches(epoch), self._device):
            yield Batch((self._features[rows],), self._labels[rows], self._ids[rows])


class TrainingLoader(Loader):
    """Makes the batches of images of one stream of one stage.

    Images that live in an array stay on the device: a batch is an index, a gather and a fused
    augmentation. Files are decoded by threads (decoders release the interpreter lock), some batches
    ahead; everything after the crop runs on the device by the same code.

    Args:
        data: The train split.
        sampler: Which images come when.
        views: Augmentation policies, one per view; `default` is the data set's own.
        device: Where the batches go.
        seed: Seed of the run.
        stage: Number of the stage and stream, for the random numbers.
        workers: Decoding threads.
        channels_last: Memory format of the batches.
    """

    def __init__(
        self,
        data: DataSet,
        sampler: EpochSampler,
        views: Sequence[str],
        *,
        device: torch.device,
        seed: int,
        stage: int = 0,
        workers: int = 4,
        channels_last: bool = True,
    ) -> None:
        super().__init__(data, sampler, device)
        names = [data.default_view if name == "default" else name for name in views]
        self._views = [(f"view {place}", find_policy(name)) for place, name in enumerate(names)]
        self._seed, self._stage, self._workers = seed, stage, workers
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self._resident = (
            data.images.pixels.to(device) if isinstance(data.images, ArrayImages) else None
        )

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Yield the batches of `epoch`."""
        plan = self._sampler.local_batches(epoch)
        on_device = send(plan, self._device)
        source = self._from_memory if self._resident is not None else self._from_files
        for step, views in enumerate(source(epoch, plan, on_device)):
            rows = on_device[step]
            finished = tuple(
                normalise(view, self._data.mean, self._data.std).contiguous(
                    memory_format=self._format
                )
                for view in views
            )
            yield Batch(finished, self._labels[rows], self._ids[rows])

    def _from_memory(
        self, epoch: int, plan: NDArray[np.int64], on_device: Tensor
    ) -> Iterator[tuple[Tensor, ...]]:
        """Yield augmented uint8 images, made for several batches at once.

        An operation of a policy touches a few images of a batch; for eight batches together it
        costs little more than for one.
        """
        assert self._resident is not None
        steps, size = plan.shape
        block = max(1, min(steps, IMAGES_AT_ONCE // size))
        for first in range(0, steps, block):
            rows = on_device[first : first + block].flatten()
            made = [
                policy(
                    self._resident.index_select(0, rows), self._draws(epoch, first, len(rows), name)
                )
                for name, policy in self._views_at(epoch)
            ]
            yield from zip(*(torch.split(view, size) for view in made), strict=True)

    def _from_files(
        self, epoch: int, plan: NDArray[np.int64], _on_device: Tensor
    ) -> Iterator[tuple[Tensor, ...]]:
        """Yield augmented uint8 images that threads decode some batches ahead."""
        images = self._data.images
        assert not isinstance(images, ArrayImages)

        def decode(step: int, place: int, view: str, policy: Policy) -> NDArray[np.uint8]:
            row = int(plan[step, place])
            if policy.resized_crop is None:
                return images.decode(row)
            joint_place = place * distributed.world_size() + distributed.rank()
            key = ("crop", view, self._stage, epoch, step, joint_place)
            generator = numpy_generator(self._seed, *key)
            return images.decode_crop(row, generator, policy.resized_crop)

        views = self._views_at(epoch)
        jobs = [
            [(step, place, *view) for place in range(plan.shape[1])]
            for step in range(len(plan))
            for view in views
        ]
        batches = _in_threads(decode, jobs, self._workers, ahead=BATCHES_AHEAD * len(views))
        for step in range(len(plan)):
            yield tuple(
                policy(
                    send(np.stack(next(batches)), self._device),
                    self._draws(epoch, step, plan.shape[1], name),
                    is_cut=True,
                )
                for name, policy in views
            )

    def _views_at(self, epoch: int) -> list[tuple[str, Policy]]:
        epochs = self._sampler.epochs
        return [(name, policy.at(epoch, epochs)) for name, policy in self._views]

    def _draws(self, epoch: int, step: int, size: int, view: str) -> Draws:
        generator = numpy_generator(self._seed, "augmentation", view, self._stage, epoch, step)
        return Draws(generator, size, distributed.rank(), distributed.world_size())


def evaluation_batches(
    data: DataSet,
    *,
    device: torch.device,
    batch_size: int | None = None,
    workers: int = 4,
    everything: bool = False,
    view: str = "none",
    seed: int = 0,
    side: int = 0,
) -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
    """Yield normalised images [B, 3, S, S] and their rows in `data`.

    Every row occurs on exactly one process, whatever the number of processes; with `everything`
    on each of them. A `view` other than the plain images is an augmentation policy, drawn from
    `seed` batch by batch. Without a `batch_size`, batches are as large as serves the device; a
    network that enlarges images to `side` pixels gets fewer of them.
    """
    policy = find_policy(view)
    batch_size = batch_size or _batch_size(max(side, data.images.size), device)
    rank, world = (0, 1) if everything else (distributed.rank(), distributed.world_size())
    own = np.arange(rank, len(data.manifest), world)
    plan = [own[start : start + batch_size] for start in range(0, len(own), batch_size)]
    source = data.images
    if isinstance(source, ArrayImages):
        for rows in plan:
            images = send(source.pixels.index_select(0, torch.from_numpy(rows)).numpy(), device)
            yield _ready(policy(images, _draws(seed, rows)), data), rows
        return
    jobs = [[(row,) for row in rows.tolist()] for rows in plan]
    decoded = _in_threads(source.decode, jobs, workers, ahead=BATCHES_AHEAD)
    for rows in plan:
        images = send(np.stack(next(decoded)), device)
        yield _ready(policy(images, _draws(seed, rows)), data), rows


def _batch_size(size: int, device: torch.device) -> int:
    """Return how many images of `size` pixels are evaluated together."""
    pixels = PIXELS_ON_CPU if device.type == "cpu" else PIXELS_ON_GPU
    return min(LARGEST_BATCH, max(1, pixels // size**2))


def _draws(seed: int, rows: NDArray[np.int64]) -> Draws:
    """Return the random numbers of a batch that is evaluated."""
    return Draws(numpy_generator(seed, "view", int(rows[0])), len(rows))


def _ready(images: Tensor, data: DataSet) -> Tensor:
    return normalise(images, data.mean, data.std).contiguous(memory_format=torch.channels_last)


def _in_threads(
    decode: Callable[..., NDArray[np.uint8]],
    jobs: Sequence[Sequence[tuple[object, ...]]],
    workers: int,
    ahead: int,
) -> Iterator[list[NDArray[np.uint8]]]:
    """Yield the results of each list of jobs in order, `ahead` lists in flight."""
    pool = ThreadPoolExecutor(workers)
    flight: deque[list[Future[NDArray[np.uint8]]]] = deque()
    try:
        for group in jobs:
            flight.append([pool.submit(decode, *job) for job in group])
            if len(flight) > ahead:
                yield [job.result() for job in flight.popleft()]
        while flight:
            yield [job.result() for job in flight.popleft()]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
