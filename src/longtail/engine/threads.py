"""How many threads a run computes with on a CPU: chosen by what is free when it begins, then its own.

Another number of threads adds sums in another order, so a run keeps its number: it stands in the record
`environment.json` and every checkpoint, and is used again when the run is continued.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from longtail.core.words import counted

WISH = "OMP_NUM_THREADS"  # what every program of this kind reads
QUOTA = Path("/sys/fs/cgroup/cpu.max")


@dataclass(frozen=True)
class Threads:
    """Threads of a run.

    Attributes:
        number: Of threads.
        note: What the user should know about it; may be empty.
    """

    number: int
    note: str = ""


def choose_threads(runs: int = 1) -> Threads:
    """Choose the threads of a run that begins now.

    What `OMP_NUM_THREADS` says is taken, up to the cores: with more threads than cores a training hardly
    moves, because those that wait keep the cores from those that compute. Else the free cores are divided
    among the runs, because threads of one step wait for each other hundreds of times: one that is kept from
    its core makes all of them slow, and two runs of one thread do more than one run of two.

    Args:
        runs: Runs that the command trains, one after another or in parallel: the number is the same for both.
    """
    wish, own = _wish(), cores()
    if wish is not None and wish > own:
        return Threads(
            own,
            f"{WISH}={wish} is more than the {counted(own, 'core', 'cores')} that this process may "
            f"use, so the run uses {counted(own, 'thread', 'threads')}: more would make it many times "
            "slower.",
        )
    if wish is not None:
        return Threads(wish)
    free = free_cores()
    number = max(1, min(free, torch.get_num_threads()) // runs)
    if free == own or number == max(1, min(own, torch.get_num_threads()) // runs):
        return Threads(number)
    busy = counted(own - free, "core is", "cores are")
    return Threads(
        number,
        f"{busy} busy with other programs, so the run uses {counted(number, 'thread', 'threads')}; "
        f"set {WISH} to change this.",
    )


def kept_threads(stored: int) -> Threads:
    """Return the threads of a run that is continued: those that it was begun with."""
    wish = _wish()
    if wish in (None, stored) and stored <= free_cores():
        return Threads(stored)
    why = f", and not with {WISH}={wish}" if wish not in (None, stored) else ""
    return Threads(
        stored,
        f"the run continues with {counted(stored, 'thread', 'threads')}, as it started{why}: a "
        "different number would change its result in the last bits.",
    )


@contextmanager
def computing_with(threads: int) -> Iterator[None]:
    """Compute with so many threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def cores() -> int:
    """Return the cores that this process may use, by its affinity and the quota of its container."""
    try:
        own = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        own = os.cpu_count() or 1
    try:
        quota, period = QUOTA.read_text(encoding="utf-8").split()
        own = min(own, max(1, int(quota) // int(period)))
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        pass
    return own


def free_cores() -> int:
    """Return how many of its cores this process would have for itself, at least 1."""
    others = running() - 1
    return max(1, min(cores(), (os.cpu_count() or 1) - max(0, others)))


def running() -> int:
    """Count the threads that compute now, this one included; 0 where the system does not say."""
    seen = []
    for _ in range(5):  # what comes and goes is no competitor
        try:
            fields = Path("/proc/loadavg").read_text(encoding="utf-8").split()
            seen.append(int(fields[3].partition("/")[0]))
        except (OSError, ValueError, IndexError):
            return 0
        time.sleep(0.01)
    return min(seen)


def _wish() -> int | None:
    text = os.environ.get(WISH, "").partition(",")[0].strip()  # a list is for nested regions
    return int(text) if text.isdecimal() and int(text) > 0 else None
