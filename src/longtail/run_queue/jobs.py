"""A queue of runs, trained one by one or in parallel within a budget; a repeated command goes on with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from longtail.core.errors import OutOfTimeError
from longtail.engine.log import NotesOnce, SilentLog, default_log
from longtail.engine.threads import choose_threads
from longtail.recipes import RunConfig
from longtail.run_queue.budget import Budget
from longtail.run_queue.parallel import train_parallel, wants_company
from longtail.runs import Run, training


@dataclass(frozen=True)
class Job:
    """A run that is not finished yet.

    Attributes:
        title: For people.
        config: What is trained.
        after: Folder of the run whose first stage it takes.
    """

    title: str
    config: RunConfig
    after: Path | None


def by_folder(jobs: Mapping[Path, Job]) -> tuple[dict[Path, RunConfig], dict[Path, Path]]:
    """Return what is trained, and which run must have ended before."""
    configs = {place: job.config for place, job in jobs.items()}
    return configs, {place: job.after for place, job in jobs.items() if job.after is not None}


def train_queue(
    jobs: Mapping[Path, Job],
    parallel: int | None,
    device: str | None,
    budget: Budget | None,
    *,
    note: Callable[[str], None],
    progress: bool = True,
    said: Iterable[str] = (),
) -> Iterator[Run]:
    """Train what is in a queue and yield every run when it ends.

    Args:
        jobs: By run folder; a run that another one starts from comes first.
        parallel: Number of parallel runs, see `train_parallel`.
        device: As for `longtail.train`.
        budget: Gets the runs that have no time left to begin or to end.
        note: Told what begins, and what ended.
        progress: Whether each training shows where it is.
        said: Notes that need not be said again.
    """
    # runs come and go: their threads depend on what is trained at the same time, and records name them
    threads = choose_threads(min(parallel or 1, len(jobs) or 1))
    if wants_company(parallel, len(jobs), device, threads):
        for job in jobs.values():
            note(job.title)
        configs, after = by_folder(jobs)
        yield from train_parallel(
            configs, parallel, after=after, resume=True, device=device, threads=threads,
            budget=budget, note=note, progress=progress,
        )  # fmt: skip
        return
    log = NotesOnce(default_log(), said) if progress else SilentLog()
    for place, job in jobs.items():
        if budget is not None and not budget.admits(place, job.config, job.after):
            continue
        note(job.title)
        try:
            yield training.train(
                job.config,
                out=place,
                resume=True,
                device=device,
                threads=threads,
                deadline=None if budget is None else budget.deadline,
                log=log,
            )
        except OutOfTimeError as stopped:
            assert budget is not None, "else there is no deadline"
            budget.left.add(place)
            note(f"{place}: {stopped}")
