"""How long a training will take, said before it begins, or as soon as its first steps have been measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from longtail.core.words import counted

MEASURED = 1.0  # seconds of steps that an estimate is made from
LONG = 30 * 60  # seconds from which it is said loudly without a GPU
FIRST_NOTE, SECONDS_BETWEEN_NOTES = 2, 30  # seconds of a pass over images
WORTH_A_NOTE = 5  # seconds that are left

Passed = Callable[[int, int, float], None]  # images done, images in all, seconds so far


@dataclass
class Pace:
    """Measures steps and says once what they add up to.

    Attributes:
        note: Told the sentence.
        shorter: What would make the training shorter, for people.
        batch_size: Images of a step.
        on_cpu: Whether there is no accelerator.
        may_stop: Whether the training may end before its last epoch.
    """

    note: Callable[[str], None] = lambda text: None
    shorter: str = ""
    batch_size: int = 1
    on_cpu: bool = False
    may_stop: bool = False
    _left: int = 0
    _scored: str = ""
    _done: int = 0
    _since: float = 0.0
    _seconds: float = 0.0
    _told: bool = False

    def begin(self, steps: int, scored: str = "") -> None:
        """Begin a stage.

        Args:
            steps: That are left to the end of the training.
            scored: What is scored after each epoch, such as "val"; that takes time of its own.
        """
        self._left, self._done, self._seconds, self._scored = steps, 0, 0.0, scored

    @property
    def is_told(self) -> bool:
        """Whether the sentence was said."""
        return self._told

    def foretell(self, seconds: float | None) -> None:
        """Say what steps of so many seconds add up to, before the first; nothing where that is not known."""
        if seconds is not None:
            self._told = True
            self.note(self.describe(seconds, self._left))

    def epoch(self) -> None:
        """Begin an epoch; what passed since the last one was no step."""
        self._since = time.perf_counter()

    def step(self) -> None:
        """Count a step. The first one is not measured: it waits for images, kernels and memory."""
        if self._told:
            return
        now = time.perf_counter()
        self._done += 1
        if self._done > 1:
            self._seconds += now - self._since
        self._since = now
        if self._seconds >= MEASURED:
            self.tell()

    def tell(self) -> None:
        """Say what was measured so far, unless that was said."""
        measured = self._done - 1
        if not self._told and measured > 0 and self._left > self._done:
            self._told = True
            self.note(self.describe(self._seconds / measured, self._left - self._done))

    def describe(self, seconds: float, left: int) -> str:
        """Return the sentence for steps of so many seconds, of which so many are left."""
        total = seconds * left
        step = f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
        end = estimate(total, "at most" if self.may_stop else "about")
        rest = f", plus scoring {self._scored} after each epoch" if self._scored else ""
        text = (
            f"{counted(left, 'step', 'steps')} of {counted(self.batch_size, 'image', 'images')} left, "
            f"{step} each: {end} to the end{rest}."
        )
        if self.on_cpu and total > LONG:
            text = f"THIS WILL TAKE LONG on a CPU. {text}"
        return f"{text} Shorter: {self.shorter}." if self.shorter and total >= 60 else text


def duration(seconds: float) -> str:
    """Return a duration for people: `40 s`, `12 minutes`, `3.6 hours`, `2.1 days`."""
    if seconds < 1:
        return "less than a second"
    if seconds <= 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} minutes"
    unit, size = ("hours", 3600) if seconds < 48 * 3600 else ("days", 86400)
    return f"{f'{seconds / size:.1f}'.removesuffix('.0')} {unit}"


def estimate(seconds: float, how: str = "about") -> str:
    """Return an estimated duration: `about 12 minutes`; `less than a second`, about which nobody waits.

    Args:
        seconds: The estimate.
        how: `about`, or `at most` where it may end sooner.
    """
    return duration(seconds) if seconds < 1 else f"{how} {duration(seconds)}"


def told_at_times(note: Callable[[str], None], doing: str, *, on_cpu: bool = False) -> Passed:
    """Return what a pass over images reports to: soon, and then every half minute, it says how far it is.

    Args:
        note: Told the sentence.
        doing: What is done with the images, such as "computing features".
        on_cpu: Whether a network runs without an accelerator, so that smaller images or a GPU would help.
    """
    told: float = FIRST_NOTE - SECONDS_BETWEEN_NOTES

    def passed(done: int, size: int, seconds: float) -> None:
        nonlocal told
        left = (size - done) * seconds / done
        if seconds - told < SECONDS_BETWEEN_NOTES or left < WORTH_A_NOTE:
            return
        told = seconds
        text = f"{doing}: {done:,} of {size:,} images, {done / seconds:,.0f} a second, {estimate(left)} left"
        if on_cpu and left > LONG:
            text = f"THIS WILL TAKE LONG on a CPU. {text}. Shorter: a smaller image_size or enlarge_to, a GPU"
        note(text)

    return passed
