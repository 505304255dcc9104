"""Several runs at once, each in a process of its own that shares the device.

Processes and not one batched model: every method, sampler and network works unchanged, and each run is what
it is alone. On a CPU the cores are divided among the processes.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch

from longtail import api
from longtail.core.errors import LongtailError
from longtail.engine.log import SilentLog
from longtail.recipes import RunConfig

KILLED = (
    "A training process was killed, most often because memory ran out. Train fewer runs at once; what has "
    "been trained is continued (`longtail train` needs --resume for it)."
)


def train_at_once(
    configs: Mapping[Path, RunConfig],
    at_once: int,
    *,
    after: Mapping[Path, Path] | None = None,
    resume: bool,
    device: str | None,
    note: Callable[[str], None],
) -> Iterator[api.Run]:
    """Train several configurations, so many at a time, and yield the runs as they end.

    Args:
        configs: Run folder -> what is trained into it.
        at_once: Number of processes.
        after: Run folder -> the one that must have ended before.
        resume: Continue the runs.
        device: As for `longtail.train`.
        note: Told when a run has ended.

    Raises:
        LongtailError: At the end, what went wrong in the runs that failed; the others are finished. At
            once, if the system killed a process.
    """
    threads = max(1, torch.get_num_threads() // at_once)
    waiting, running = dict(configs), dict[Future[str], Path]()
    failed: list[str] = []
    with ProcessPoolExecutor(
        at_once, multiprocessing.get_context("spawn"), torch.set_num_threads, (threads,)
    ) as pool:
        while waiting or running:
            unfinished = {*waiting, *running.values()}
            for folder in [f for f in waiting if (after or {}).get(f) not in unfinished]:
                config = waiting.pop(folder).model_dump_json()
                running[pool.submit(_train, config, folder, resume, device)] = folder
            for job in wait(running, return_when=FIRST_COMPLETED).done:
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


def _train(config: str, folder: Path, resume: bool, device: str | None) -> str:
    """Train one run in a process of its own; return what went wrong, in words."""
    try:
        api.train(
            RunConfig.model_validate_json(config), out=folder, resume=resume, device=device,
            log=SilentLog(),
        )  # fmt: skip
    except LongtailError as error:
        return str(error)
    return ""
