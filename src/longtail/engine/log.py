"""What a training tells: a progress bar on a terminal, plain lines otherwise."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from longtail.core.names import visible
from longtail.core.words import counted
from longtail.engine.pace import duration
from longtail.engine.terminal import Terminal, can_redraw

SECONDS_BETWEEN_TICKS = 1.0
LINES_A_STAGE = 50  # about, outside a terminal
LONGEST_SILENCE = 600.0  # seconds


class Log(Protocol):
    """Where a training reports to."""

    def note(self, text: str) -> None:
        """Say one sentence."""

    def stage(self, name: str, epochs: int, first: int, steps: int) -> None:
        """Begin a stage at epoch `first`."""

    def step(self, step: int, loss: Callable[[], float], rate: float, speed: float) -> None:
        """Report a step: its number in the epoch, the mean loss so far, lr, images per second."""

    def epoch(self, line: Mapping[str, Any]) -> None:
        """Report a finished epoch: its line of `metrics.jsonl`."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class SilentLog:
    """Says nothing; for processes other than the main one, and for tests."""

    def note(self, text: str) -> None:
        """Ignore."""

    def stage(self, name: str, epochs: int, first: int, steps: int) -> None:
        """Ignore."""

    def step(self, step: int, loss: Callable[[], float], rate: float, speed: float) -> None:
        """Ignore."""

    def epoch(self, line: Mapping[str, Any]) -> None:
        """Ignore."""

    def close(self) -> None:
        """Do nothing."""


class PlainLog(SilentLog):
    """Lines of epochs on standard error, for files and pipes; each begins with `prefix`.

    A stage of up to 50 epochs gets a line each, a longer one about 50 lines: of the first and the last epoch,
    of every n-th, and of one that ends ten minutes after the last line.
    """

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix
        self._epochs, self._first, self._begun = 0, 0, time.monotonic()
        self._every, self._told = 1, self._begun

    def note(self, text: str) -> None:
        """Print a sentence."""
        print(visible(self._prefix + text), file=sys.stderr, flush=True)  # noqa: T201 - this is the log

    def stage(self, name: str, epochs: int, first: int, steps: int) -> None:
        """Print the name of the stage."""
        self._every = math.ceil((epochs - first) / LINES_A_STAGE) if epochs > first else 1
        rest = f"; every {self._every} epochs a line" if self._every > 1 else ""
        each = counted(steps, "step", "steps")
        self.note(f"stage {name}: epochs {first + 1} to {epochs}, {each} each{rest}")
        self._epochs, self._first, self._begun = epochs, first, time.monotonic()
        self._told = self._begun

    def epoch(self, line: Mapping[str, Any]) -> None:
        """Print the epoch, if it is its turn, and how long the rest of the stage takes at this speed."""
        done, left = line["epoch"] - self._first, self._epochs - line["epoch"]
        now = time.monotonic()
        in_time = now - self._told < LONGEST_SILENCE
        if done > 1 and left > 0 and line["epoch"] % self._every and in_time:
            return
        self._told = now
        seconds = (now - self._begun) / max(done, 1) * left
        rest = f", {duration(seconds)} left in this stage" if left > 0 else ""
        self.note(describe_epoch(line, self._epochs) + rest)


class TerminalLog(SilentLog):
    """A progress bar with loss, learning rate, images per second and time left."""

    def __init__(self) -> None:
        self._console = Terminal(stderr=True, soft_wrap=False)
        self._bar: Progress | None = None
        self._last = 0.0

    def note(self, text: str) -> None:
        """Print a sentence above the bar."""
        self._console.print(text)

    def stage(self, name: str, epochs: int, first: int, steps: int) -> None:
        """Begin a bar over all steps of the stage."""
        self.close()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]} lr {task.fields[rate]} {task.fields[speed]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._steps, self._epoch = steps, first
        total, done = epochs * steps, first * steps
        self._task = self._bar.add_task(
            name, total=total, completed=done, loss="-", rate="-", speed=""
        )
        self._bar.start()

    def step(self, step: int, loss: Callable[[], float], rate: float, speed: float) -> None:
        """Move the bar, at most once a second: reading the loss makes the host wait."""
        now = time.monotonic()
        if self._bar is None or now - self._last < SECONDS_BETWEEN_TICKS:
            return
        self._last = now
        self._bar.update(
            self._task,
            completed=self._epoch * self._steps + step + 1,
            loss=f"{loss():.3f}",
            rate=f"{rate:.4g}",
            speed=f"{speed:,.0f} images/s",
        )

    def epoch(self, line: Mapping[str, Any]) -> None:
        """Finish an epoch of the bar."""
        self._epoch = line["epoch"]
        if self._bar is not None:
            self._bar.update(self._task, completed=self._epoch * self._steps)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class Logs:
    """Several logs as one."""

    def __init__(self, *logs: Log) -> None:
        self._logs = logs

    def note(self, text: str) -> None:
        """Pass on."""
        for log in self._logs:
            log.note(text)

    def stage(self, name: str, epochs: int, first: int, steps: int) -> None:
        """Pass on."""
        for log in self._logs:
            log.stage(name, epochs, first, steps)

    def step(self, step: int, loss: Callable[[], float], rate: float, speed: float) -> None:
        """Pass on."""
        for log in self._logs:
            log.step(step, loss, rate, speed)

    def epoch(self, line: Mapping[str, Any]) -> None:
        """Pass on."""
        for log in self._logs:
            log.epoch(line)

    def close(self) -> None:
        """Close all."""
        for log in self._logs:
            log.close()


class NotesOnce(Logs):
    """A log of several runs, one after another: a note that one of them gave is not given again.

    Args:
        log: Passed on to.
        said: Notes that were said before the first run.
    """

    def __init__(self, log: Log, said: Iterable[str] = ()) -> None:
        super().__init__(log)
        self._said = set(said)

    def note(self, text: str) -> None:
        """Pass on, unless it is a note that was passed on before."""
        if text in self._said:
            return
        if text.startswith("note: "):
            self._said.add(text)
        super().note(text)


def default_log(among_others: Path | None = None) -> Log:
    """Return a bar on a terminal, lines elsewhere.

    Args:
        among_others: Folder of the run if others write to the same terminal: lines that begin with it.
    """
    if among_others is not None:
        return PlainLog(f"{among_others}: ")
    return TerminalLog() if can_redraw(sys.stderr) else PlainLog()


def describe_epoch(line: Mapping[str, Any], epochs: int) -> str:
    """Return the line of an epoch, one of `epochs` of its stage, for people."""
    text = (
        f"{line['stage']} epoch {line['epoch']} of {epochs}: loss {line['loss']:.4f}, "
        f"lr {line['learning_rate']:.4g}, {line['images_per_second']:,.0f} images/s"
    )
    if "val_macro_accuracy" in line:
        text += f", val macro accuracy {100 * line['val_macro_accuracy']:.1f} %"
    return text
