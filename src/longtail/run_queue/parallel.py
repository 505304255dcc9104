"""Parallel runs, each in a process of its own that shares the device.

Processes and not one batched model: every method, sampler and network works unchanged, and each run is what
it is alone. On a CPU the cores are divided among the processes.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

from longtail.core import distributed
from longtail.core.errors import LongtailError, OutOfTimeError
from longtail.engine.hardware import MEMORY_FULL, find_device, free_memory, is_memory_full
from longtail.engine.log import SilentLog, default_log
from longtail.engine.run_folder import RunFolder
from longtail.engine.threads import Threads, choose_threads, free_cores
from longtail.recipes import RunConfig
from longtail.recipes.plugins import load_chosen
from longtail.report.of_run import write_report
from longtail.run_queue.budget import Budget
from longtail.runs import Run, training

PARALLEL = (
    "Number of parallel runs on one device; by default, as many as the free cores (or the "
    "GPU) and the memory allow."
)
SPARE = 1.5  # later stages and the evaluation may need more than the first epoch
SECONDS_BETWEEN_LOOKS = 1.0
KILLED = (
    "A training process was killed, most often because memory ran out. Train fewer runs in "
    "parallel. Finished epochs are kept: repeat the command to continue (`longtail train` "
    "needs --resume)."
)


def wants_company(parallel: int | None, runs: int, device: str | None, threads: Threads) -> bool:
    """Say whether several of so many runs are to be trained at the same time.

    Args:
        parallel: What the user wants; None leaves it to us: yes on a GPU, which one small network leaves
            idle most of the time, and on a CPU that has free cores for a second run.
        runs: Number of runs.
        device: As for `longtail.train`.
        threads: Of each run.
    """
    if runs < 2 or distributed.world_size() > 1:
        return False
    if parallel is not None:
        return parallel > 1
    kind = find_device(device).type
    return kind == "cuda" or (kind == "cpu" and free_cores() >= 2 * threads.number)


def train_parallel(
    configs: Mapping[Path, RunConfig],
    parallel: int | None,
    *,
    after: Mapping[Path, Path] | None = None,
    resume: bool,
    device: str | None,
    threads: Threads | None = None,
    budget: Budget | None = None,
    note: Callable[[str], None],
    progress: bool = True,
) -> Iterator[Run]:
    """Train several configurations, so many at a time, and yield the runs as they end.

    Args:
        configs: Run folder -> what is trained into it.
        parallel: Number of processes; None begins another run whenever the GPU's memory has room for it (see
            `Room`).
        after: Run folder -> the one that must have ended before.
        resume: Continue the runs.
        device: As for `longtail.train`.
        threads: Of each run; chosen here if not given.
        budget: Gets the runs that have no time left to begin or to end.
        note: Told when a run has ended.
        progress: Whether each training shows where it is.

    Raises:
        LongtailError: At the end, what went wrong in the runs that failed; the others are finished. At
            once, if the system killed a process.
    """
    after, deadline = after or {}, None if budget is None else budget.deadline
    threads = threads or choose_threads(min(parallel or len(configs), len(configs)) or 1)
    room = Room(parallel, device, threads)
    waiting, running = dict(configs), dict[Future[str], Path]()
    failed: list[str] = []
    with _workers(room.most) as pool:
        while waiting or running:
            unfinished = {*waiting, *running.values()}
            for folder in [f for f in waiting if after.get(f) not in unfinished]:
                if not room.for_another(running.values()):
                    break
                config = waiting.pop(folder)
                if budget is not None and not budget.admits(folder, config, after.get(folder)):
                    continue
                room.enter(folder)
                task = (
                    config.model_dump_json(),
                    folder,
                    resume,
                    device,
                    threads,
                    deadline,
                    progress,
                )
                with _without_interrupts():
                    running[pool.submit(_train, *task)] = folder
            seconds = None if parallel else SECONDS_BETWEEN_LOOKS
            for job in wait(running, seconds, return_when=FIRST_COMPLETED).done:
                folder = running.pop(job)
                try:
                    problem = job.result()
                except BrokenProcessPool as error:
                    raise LongtailError(KILLED) from error
                except OutOfTimeError as stopped:
                    assert budget is not None, "else there is no deadline"
                    budget.left.add(folder)
                    note(f"{folder}: {stopped}")
                    continue
                note(f"{folder}: {problem or 'done'}")
                if problem:
                    failed.append(f"{folder}: {problem}")
                else:
                    yield Run.open(folder)
    if failed:
        raise LongtailError("; ".join(failed))


class Room:
    """Whether another run may begin: a fixed number of them, or as many as the device and its memory hold.

    What a run takes is measured, not computed: another one begins when all that run have finished an epoch,
    so that they hold what they need, and `SPARE` times their mean is free.

    Attributes:
        most: Most runs at the same time; as measured by memory, on a GPU a run for every two cores, which
            prepare its work, and on a CPU as many as the free cores have threads for.
    """

    def __init__(self, parallel: int | None, device: str | None, threads: Threads) -> None:
        self._device = find_device(device)
        on_cpu = self._device.type == "cpu"
        places = free_cores() // threads.number if on_cpu else (os.cpu_count() or 1) // 2
        self.most = parallel or max(1, places)
        self._measured = parallel is None
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


@contextmanager
def _workers(most: int) -> Iterator[ProcessPoolExecutor]:
    """Yield processes that end with the block or with this process, however that ends."""
    others = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(most, context, _begin)
    try:
        yield pool
    except BaseException:
        # what they train would go on for hours; checkpoints are complete or not there
        for worker in set(multiprocessing.active_children()) - others:
            worker.terminate()
        pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown()


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Let processes that are started here never see Ctrl-C, which is for the one that started them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield  # Windows
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin() -> None:
    """Begin a process: nobody would stop it if the one that started it were killed."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    load_chosen()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "this is a process of the pool"
    parent.join()
    os._exit(1)


def _train(
    config: str,
    folder: Path,
    resume: bool,
    device: str | None,
    threads: Threads,
    deadline: float | None,
    progress: bool,
) -> str:
    """Train one run in a process of its own; return what went wrong, in words."""
    try:
        training.train(
            RunConfig.model_validate_json(config), out=folder, resume=resume, device=device,
            threads=threads, deadline=deadline, log=default_log(folder) if progress else SilentLog(),
            report=write_report,
        )  # fmt: skip
    except OutOfTimeError:
        raise  # nothing went wrong
    except LongtailError as error:
        return str(error)
    except (RuntimeError, MemoryError) as error:
        if not is_memory_full(error):
            raise
        return MEMORY_FULL
    return ""
