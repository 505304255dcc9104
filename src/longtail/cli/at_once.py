"""Several seeds at once, each in a process of its own that shares the device.

Processes and not one batched model: every method, sampler and network works unchanged, and one seed is the
run that it is alone. On a CPU the cores are divided among the processes.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import torch

from longtail import api
from longtail.core.errors import LongtailError
from longtail.engine.log import SilentLog
from longtail.recipes import RunConfig


def train_at_once(
    configs: Mapping[Path, RunConfig],
    at_once: int,
    *,
    resume: bool,
    device: str | None,
    note: Callable[[str], None],
) -> list[api.Run]:
    """Train several configurations, so many at a time.

    Args:
        configs: Run folder -> what is trained into it.
        at_once: Number of processes.
        resume: Continue the runs.
        device: As for `longtail.train`.
        note: Told when a run has ended.

    Returns:
        The runs in the order of `configs`.

    Raises:
        LongtailError: What went wrong in the first run that failed; the others are finished first.
    """
    threads = max(1, torch.get_num_threads() // at_once)
    failed: list[str] = []
    with ProcessPoolExecutor(
        at_once, multiprocessing.get_context("spawn"), torch.set_num_threads, (threads,)
    ) as pool:
        jobs = {
            pool.submit(_train, config.model_dump_json(), folder, resume, device): folder
            for folder, config in configs.items()
        }
        for job in as_completed(jobs):
            problem = job.result()
            note(f"{jobs[job]}: {problem or 'done'}")
            if problem:
                failed.append(f"{jobs[job]}: {problem}")
    if failed:
        raise LongtailError("; ".join(failed))
    return [api.Run.open(folder) for folder in configs]


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
