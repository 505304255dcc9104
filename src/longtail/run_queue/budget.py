"""A time that a queue of runs may take: what begins in it, and what is left at its end."""

from __future__ import annotations

import math
import re
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from longtail.core import distributed
from longtail.core.counts import ClassCounts
from longtail.core.errors import ConfigError
from longtail.core.stage import Stage
from longtail.core.words import counted
from longtail.engine import checkpoint as ckpt
from longtail.engine.pace import estimate
from longtail.engine.run_folder import RunFolder
from longtail.recipes import RunConfig
from longtail.runs import build

BUDGET = (
    "Stop after this time, for example 90s, 150m or 2h30m. Only runs that can reach their "
    "next checkpoint in time are started or continued. At the end, the command reports what "
    "is left; repeat it to continue."
)
UNITS = {"h": 3600, "m": 60, "s": 1}
# stand for any data: how many epochs a method trains does not depend on its images
SIDE = 32
COUNTS = ClassCounts([500, 300, 150, 80, 50, 30, 15, 9, 7, 5])


def seconds_of(text: str) -> float:
    """Return a duration such as `90s`, `150m`, `1.5h` or `2h30m` in seconds.

    Raises:
        ConfigError: If it is none, or no time at all.
    """
    number = r"([0-9]+(?:\.[0-9]+)?)"
    found = re.fullmatch("".join(f"(?:{number}{unit})?" for unit in UNITS), text.strip().lower())
    parts = zip(found.groups(), UNITS.values(), strict=True) if found else ()
    amounts = [float(amount) * unit for amount, unit in parts if amount]
    seconds = sum(amounts)
    if amounts and seconds == 0:
        raise ConfigError(f"--budget must be above 0, not {text!r}.")
    if not 0 < seconds < math.inf:
        raise ConfigError(
            f"--budget needs a time with a unit (s, m or h), for example 90s, 150m or 2h30m, not {text!r}."
        )
    return seconds


@dataclass
class Budget:
    """Until when runs are trained.

    Attributes:
        deadline: By `time.monotonic`, which is one clock for all processes of a machine.
        left: Run folders that did not begin or did not end in time.
    """

    deadline: float
    left: set[Path] = field(default_factory=set)

    def admits(self, folder: Path, config: RunConfig, after: Path | None = None) -> bool:
        """Say whether a run may begin or go on; one that may not is left.

        A run of which no epoch is measured yet may begin as long as there is time.

        Args:
            folder: Of the run.
            config: What is trained into it.
            after: The run that must have ended before.
        """
        run = _Left.of(folder, config)
        fits = distributed.broadcast(time.monotonic() + run.to_checkpoint < self.deadline)
        if after in self.left or not fits:
            self.left.add(folder)
        return folder not in self.left


@dataclass
class _Left:
    """What is known of a run.

    Attributes:
        to_checkpoint: Seconds to its next checkpoint; 0 if it has trained all or none of its epochs.
        seconds: Of the measured epochs, by stage.
        done: Measured epochs that the newest checkpoint holds, by stage.
        finished: Whether all is trained.
    """

    to_checkpoint: float
    seconds: dict[str, list[float]]
    done: dict[str, int]
    finished: bool

    @classmethod
    def of(cls, folder: Path, config: RunConfig) -> _Left:
        """Read a run folder, which need not exist."""
        run = RunFolder(folder)
        newest = ckpt.newest(run.checkpoints)
        metadata = None if newest is None else ckpt.read_metadata(newest)
        lines = [line for line in run.read_metrics() if "loss" in line]
        seconds, done = defaultdict[str, list[float]](list), defaultdict[str, int](int)
        for line in lines:
            seconds[line["stage"]].append(float(line["seconds"]))
            done[line["stage"]] += (
                metadata is not None and line["epochs_done"] <= metadata.epochs_done
            )
        finished = metadata is not None and metadata.finished
        last = lines[-1]["seconds"] if lines and not finished else 0.0
        return cls(last * config.training.checkpoint_every, seconds, done, finished)


def what_is_left(left: Mapping[Path, RunConfig], parallel: int, row: str = "row") -> str:
    """Say how much of a queue is left, and how long it takes by the epochs that were measured.

    An epoch takes what the same stage took in this run or in another seed of its row, else what the run's
    epochs took so far.

    Args:
        left: Run folder, one folder of a row in a folder -> configuration.
        parallel: Runs that are trained at the same time.
        row: What a row is.
    """
    if not left:
        return "The budget was sufficient: nothing is left to train."
    epochs, seconds, unmeasured, unknown = 0, 0.0, 0, 0
    for folder, config in left.items():
        run = _Left.of(folder, config)
        times = _times_of_row(folder, config) | run.seconds
        so_far = [second for of_stage in times.values() for second in of_stage]
        of_run = 0
        for stage in () if run.finished else stages_of(config):
            missing = max(0, stage.epochs - run.done.get(stage.name, 0))
            of_run += missing
            if so_far:
                seconds += missing * fmean(times.get(stage.name) or so_far)
        epochs += of_run
        if of_run and not so_far:
            unmeasured, unknown = unmeasured + 1, unknown + of_run
    rows = counted(len({folder.parent for folder in left}), row, f"{row}s")
    text = (
        f"Left: {rows} ({counted(len(left), 'run', 'runs')}), {counted(epochs, 'epoch', 'epochs')}."
    )
    together = min(parallel, len(left))
    if seconds:
        beside = f", {together} parallel runs" if together > 1 else ""
        time_left = estimate(seconds / together)
        text += (
            f" At the measured epoch times, this is {time_left} of training{beside}, plus the time for "
            "scoring."
        )
    if unmeasured:
        runs = counted(unmeasured, "run has", "runs have")
        text += f" {runs} no measured epoch yet"
        text += (
            f": {counted(unknown, 'epoch is', 'epochs are')} not in that time." if seconds else "."
        )
    return f"{text} Repeat the same command to continue."


def stages_of(config: RunConfig) -> list[Stage]:
    """Return the stages that a run trains, without those that it takes from another run."""
    side = getattr(config.data, "image_size", None) or SIDE
    stages = build(config, config.model.untrained().resolved(side), COUNTS, side).stages()
    return [stage for stage in stages[config.start is not None :] if stage.kind == "train"]


def _times_of_row(folder: Path, config: RunConfig) -> dict[str, list[float]]:
    times = defaultdict[str, list[float]](list)
    for other in sorted(folder.parent.glob("seed-*")):
        for stage, seconds in _Left.of(other, config).seconds.items():
            times[stage] += seconds
    return dict(times)
