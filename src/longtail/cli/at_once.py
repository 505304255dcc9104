"""Several runs at once, each in a process of its own that shares the device.

Processes and not one batched model: every method, sampler and network works unchanged, and each run is what
it is alone. On a CPU the cores are divided among the processes.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch

from longtail import api
from longtail.core import distributed
from longtail.core.errors import LongtailError
from longtail.engine.hardware import MEMORY_FULL, find_device, free_memory, is_memory_full
from longtail.engine.log import default_log
from longtail.engine.run_folder import RunFolder
from longtail.recipes import RunConfig

AT_ONCE = (
    "Runs that are trained at the same time on one device; without it one on a CPU, on a GPU as many as its "
    "memory holds."
)
SPARE = 1.5  # later stages and the evaluation may need more than the first epoch
SECONDS_BETWEEN_LOOKS = 1.0
KILLED = (
    "A training process was killed, most often because memory ran out. Train fewer runs at once; what has "
    "been trained is continued (`longtail train` needs --resume for it)."
)


def wants_company(at_once: int | None, runs: int, device: str | None) -> bool:
    """Say whether several of so many runs are to be trained at the same time.

    Args:
        at_once: What the user wants; None leaves it to us: yes on a GPU, which one small network leaves
            idle most of the time, no on a CPU, whose cores one run can fill.
        runs: Number of runs.
        device: As for `longtail.train`.
    """
    if runs < 2 or distributed.world_size() > 1:
        return False
    return at_once > 1 if at_once is not None else find_device(device).type == "cuda"


def train_at_once(
    configs: Mapping[Path, RunConfig],
    at_once: int | None,
    *,
    after: Mapping[Path, Path] | None = None,
    resume: bool,
    device: str | None,
    note: Callable[[str], None],
) -> Iterator[api.Run]:
    """Train several configurations, so many at a time, and yield the runs as they end.

    Args:
        configs: Run folder -> what is trained into it.
        at_once: Number of processes; None begins another run whenever the GPU's memory has room for it (see
            `Room`).
        after: Run folder -> the one that must have ended before.
        resume: Continue the runs.
        device: As for `longtail.train`.
        note: Told when a run has ended.

    Raises:
        LongtailError: At the end, what went wrong in the runs that failed; the others are finished. At
            once, if the system killed a process.
    """
    room = Room(at_once, device)
    threads = max(1, torch.get_num_threads() // min(room.most, len(configs) or 1))
    waiting, running = dict(configs), dict[Future[str], Path]()
    failed: list[str] = []
    with ProcessPoolExecutor(
        room.most, multiprocessing.get_context("spawn"), torch.set_num_threads, (threads,)
    ) as pool:
        while waiting or running:
            unfinished = {*waiting, *running.values()}
            for folder in [f for f in waiting if (after or {}).get(f) not in unfinished]:
                if not room.for_another(running.values()):
                    break
                room.enter(folder)
                config = waiting.pop(folder).model_dump_json()
                running[pool.submit(_train, config, folder, resume, device)] = folder
            seconds = None if at_once else SECONDS_BETWEEN_LOOKS
            for job in wait(running, seconds, return_when=FIRST_COMPLETED).done:
                folder = running.pop(job)
                try:
                    problem = job.result()
                except BrokenProcessPool as error:
                    raise LongtailError(KILLED) from error
                note(f"{folder}: {problem or 'done'}")
                if problem:
                    failed.append(f"{folder}: {problem}")
                else:
                    yield api.Run.open(folder)
    if failed:
        raise LongtailError("; ".join(failed))


class Room:
    """Whether another run may begin: a fixed number of them, or as many as the GPU's memory holds.

    What a run takes is measured, not computed: another one begins when all that run have finished an epoch,
    so that they hold what they need, and `SPARE` times their mean is free.

    Attributes:
        most: Most runs at the same time; as measured by memory, a run for every two cores, which prepare
            its work.
    """

    def __init__(self, at_once: int | None, device: str | None) -> None:
        self.most = at_once or max(1, (os.cpu_count() or 1) // 2)
        self._measured = at_once is None
        self._device = find_device(device)
        self._free = free_memory(self._device)
        self._lines: dict[Path, int] = {}

    def enter(self, folder: Path) -> None:
        """Note that a run begins; an old one that is continued has metrics already."""
        self._lines[folder] = _lines(folder)

    def for_another(self, running: Collection[Path]) -> bool:
        """Say whether another run may begin beside those in the folders `running`."""
        if not running or len(running) >= self.most:
            return not running
        if not self._measured:
            return True
        if self._free is None or any(_lines(f) <= self._lines[f] for f in running):
            return False
        free = free_memory(self._device) or 0
        return free > SPARE * (self._free - free) / len(running)


def _lines(folder: Path) -> int:
    return len(RunFolder(folder).read_metrics())


def _train(config: str, folder: Path, resume: bool, device: str | None) -> str:
    """Train one run in a process of its own; return what went wrong, in words."""
    try:
        api.train(
            RunConfig.model_validate_json(config), out=folder, resume=resume, device=device,
            log=default_log(folder, among_others=True),
        )  # fmt: skip
    except LongtailError as error:
        return str(error)
    except (RuntimeError, MemoryError) as error:
        if not is_memory_full(error):
            raise
        return MEMORY_FULL
    return ""
