"""One run in a tracker: its options, the numbers of each epoch, its scores and its report."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from longtail.core.errors import ConfigError, LongtailError
from longtail.core.groups import GROUP_NAMES
from longtail.core.words import shortened
from longtail.engine.log import SilentLog

NONE = "none"
PROJECT = "longtail"  # unless the tracker's own settings name another


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a run when it begins.

    Attributes:
        key: Hexadecimal; the same when the run is resumed, so that the tracker continues it.
        name: For people.
        folder: Of the run.
        options: Dotted key -> value, for the tracker's table of parameters.
    """

    key: str
    name: str
    folder: Path
    options: Mapping[str, str | int | float | bool]


class Tracker(Protocol):
    """A run that a tracker's library has opened. Whatever it raises ends the tracking, not the run."""

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """Add numbers; `step` counts epochs over all stages."""

    def file(self, path: Path) -> None:
        """Keep a file with the run, where the tracker can."""

    def close(self, *, finished: bool) -> None:
        """Send what is left; `finished` is false if the run was interrupted or failed."""


class Tracking(SilentLog):
    """What a training tells a tracker; the first failure ends the tracking and is told once.

    Args:
        name: Of the tracker.
        tracker: Opened.
        note: Told about the failure.
    """

    def __init__(self, name: str, tracker: Tracker, note: Callable[[str], None]) -> None:
        self._name, self._note = name, note
        self._tracker: Tracker | None = tracker

    def epoch(self, line: Mapping[str, Any]) -> None:
        """Send the numbers of an epoch."""
        values = {name: value for name, value in line.items() if isinstance(value, float)}
        self._send(lambda tracker: tracker.numbers(values, line["epochs_done"]))

    def scores(self, scores: Mapping[str, Any], step: int) -> None:
        """Send the accuracies of a scored split: micro, macro, worst class, and of each shot group."""
        values = {
            f"{scores['split']}/{name}": scores[name]
            for name in ("accuracy", "macro_accuracy", "worst_class_accuracy")
        } | {
            f"{scores['split']}/{group}_shot_accuracy": scores["groups"][group]["accuracy"]
            for group in GROUP_NAMES
        }
        defined = {name: value for name, value in values.items() if value is not None}
        self._send(lambda tracker: tracker.numbers(defined, step))

    def file(self, write: Callable[[], Path]) -> None:
        """Send a file that is written only if it can still be sent."""
        if self._tracker is not None:
            path = write()
            self._send(lambda tracker: tracker.file(path))

    def end(self, *, finished: bool) -> None:
        """Close the tracker."""
        self._send(lambda tracker: tracker.close(finished=finished))
        self._tracker = None

    def _send(self, what: Callable[[Tracker], None]) -> None:
        if self._tracker is None:
            return
        try:
            what(self._tracker)
        except Exception as error:
            self._tracker = None
            self._note(
                f"{self._name} failed: {_words(error)} The run goes on and is no longer tracked."
            )


def require_tracker(name: str) -> None:
    """Refuse a tracker whose library is missing, before anything is done.

    Raises:
        ConfigError: Naming the extra to install.
    """
    if name != NONE and importlib.util.find_spec(name) is None:
        raise ConfigError(f"tracker={name} needs {name}: pip install 'longtail[{name}]'")


@contextmanager
def open_tracker(
    name: str, run: TrackedRun, note: Callable[[str], None]
) -> Iterator[Tracking | None]:
    """Yield the run in the tracker, None if the name is `none`; it is closed with the block.

    Raises:
        LongtailError: If it cannot be opened, for example because nobody is logged in.
    """
    if name == NONE:
        yield None
        return
    require_tracker(name)
    adapter = importlib.import_module(f"{__package__}.on_{name}")
    try:
        tracking = Tracking(name, adapter.begin(run, PROJECT), note)
    except Exception as error:
        raise LongtailError(
            f"{name} cannot begin a run: {_words(error)} To train without it, choose "
            f"tracker=none. If {run.folder} exists now, add --resume."
        ) from error
    try:
        yield tracking
    except BaseException:
        tracking.end(finished=False)
        raise
    tracking.end(finished=True)


def _words(error: Exception) -> str:
    """Return what an error of a library says, as one short sentence."""
    text = shortened(" ".join(str(error).split()), 200) or type(error).__name__
    return text if text.endswith(".") else f"{text}."
