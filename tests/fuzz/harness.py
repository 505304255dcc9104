"""Run an action on many damaged inputs, each drawn by a number of its own, and judge how it ends.

A kind in ten lines (`tests/fuzz/test_lists.py`, say)::

    from tests.fuzz.harness import longtail, run_fuzz
    from tests.fuzz.mutate import csv_bytes, mutate_table

    GOOD = [["path", "label", "split"], ["a.png", "fox", "train"], ["b.png", "lynx", "test"]]

    def make(rng, folder):  # an input; all chance comes from rng, all files go into the folder
        (folder / "list.csv").write_bytes(csv_bytes(rng, mutate_table(rng, GOOD)))
        return ["data", "inspect", "list.csv"]

    def test_lists(inputs, tmp_path):
        act = lambda arguments, folder: longtail(*arguments)
        run_fuzz("lists", make, act, tmp_path, inputs=inputs).require()

`make(rng, folder)` returns an input; `act(input, folder)` does with it what a user would do, in this process
and with `folder` as the working directory: `longtail(...)` is the command line, or call a function. Allowed:

- the command line ends with status 0 and `check(input, outcome, folder)` finds nothing wrong,
- or with status 1 or 2 and a message for people: no traceback, no raw control characters, not endless;
- a function returns and `check` finds nothing wrong, or it raises LongtailError with such a message.

Everything else is a failure: another exception, a hang (`HANG_SECONDS`), a memory that grows by more than
`MOST_GROWTH`, a warning that Python would show. `check` returns what is wrong in words, or nothing: "exit
status 0 with garbage is the worst outcome", so write one wherever a result can be judged.

25 inputs a kind are quick; 500 or 60 seconds, whichever ends first, are a slow test; a slow machine does
fewer and says so. By hand:

    LONGTAIL_FUZZ=100000 pytest tests/fuzz/test_lists.py   # so many inputs, without a limit of time
    LONGTAIL_FUZZ_ONLY=417 pytest tests/fuzz/test_lists.py # the one input that failed, again
    LONGTAIL_FUZZ_RECORD=$PWD/results/fuzz.jsonl ...       # append what was tried and found
"""

import io
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
import unicodedata
import warnings
from collections.abc import Callable
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from longtail.cli import main
from longtail.core.errors import LongtailError
from longtail.engine.hardware import MEMORY_FULL, describe_environment
from longtail.runs import append_record

INPUTS = 500
SECONDS = 60.0
HANG_SECONDS = 30.0
MOST_GROWTH = 2 * 1024**3  # bytes of address space that one input may take on top
LONGEST_MESSAGE = 10_000
# what Python does not show to a user by default
UNSEEN = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)


class Hang(BaseException):
    """An input took longer than `HANG_SECONDS`; no `except Exception` swallows it."""


@dataclass(frozen=True)
class Outcome:
    """How the command line ended: exit status, output, errors."""

    status: int
    out: str
    err: str


@dataclass
class Report:
    """What a run found: failures by their cause, each with the numbers of its inputs."""

    kind: str
    seed: int
    done: int = 0
    accepted: int = 0
    refused: int = 0
    seconds: float = 0.0
    failures: dict[str, list[int]] = field(default_factory=dict)
    shown: dict[str, str] = field(default_factory=dict)

    def require(self) -> None:
        """Fail with the first input of every cause; print how much was done."""
        sys.stderr.write(f"{self}\n")
        if record := os.environ.get("LONGTAIL_FUZZ_RECORD"):
            append_record(Path(record), self.record())
        assert self.done, f"{self.kind}: nothing was tried"
        assert not self.failures, str(self)

    def record(self) -> dict[str, Any]:
        """Return what was tried and found, and on what."""
        return {
            "benchmark": "fuzz", "date": datetime.now().isoformat(timespec="seconds"),
            "kind": self.kind, "seed": self.seed, "inputs": self.done, "accepted": self.accepted,
            "refused": self.refused, "seconds": round(self.seconds),
            "failures": {cause: len(numbers) for cause, numbers in self.failures.items()},
            **describe_environment(torch.device("cpu")),
        }  # fmt: skip

    def __str__(self) -> str:
        lines = [
            f"fuzz {self.kind}, seed {self.seed}: {self.done} inputs in {self.seconds:.0f} s, "
            f"{self.accepted} accepted, {self.refused} refused in words, "
            f"{sum(map(len, self.failures.values()))} failed"
        ]
        for cause, numbers in self.failures.items():
            lines.append(f"\n{len(numbers)} x {cause}\n  again: LONGTAIL_FUZZ_ONLY={numbers[0]}")
            lines.append(self.shown[cause])
        return "\n".join(lines)


def run_fuzz(
    kind: str,
    make: Callable[[random.Random, Path], Any],
    act: Callable[[Any, Path], Any],
    folder: Path,
    *,
    check: Callable[[Any, Any, Path], str | None] = lambda given, outcome, folder: None,
    seed: int = 0,
    inputs: int = INPUTS,
    seconds: float = SECONDS,
) -> Report:
    """Try damaged inputs; see the module.

    Args:
        kind: Name, also part of every input's seed.
        make: Draws an input.
        act: Does what a user would do with it.
        folder: Each input gets a fresh folder below it, which stays where it failed.
        check: Judges what `act` returned.
        seed: Of all inputs.
        inputs: So many; `LONGTAIL_FUZZ` overrides it.
        seconds: Or until so many have passed; `LONGTAIL_FUZZ` lifts it.
    """
    by_hand, only = os.environ.get("LONGTAIL_FUZZ"), os.environ.get("LONGTAIL_FUZZ_ONLY")
    numbers = range(int(only), int(only) + 1) if only else range(int(by_hand or inputs))
    report, begin = Report(kind, seed), time.monotonic()
    before = Path.cwd()
    for number in numbers:
        if not (by_hand or only) and time.monotonic() - begin > seconds:
            break
        place = folder / f"{kind}-{number}"
        place.mkdir()
        os.chdir(place)
        try:
            given = make(random.Random(f"{kind} {seed} {number}"), place)
            cause, shown = _judge(given, act, check, place, report)
        finally:
            os.chdir(before)
        report.done += 1
        if cause:
            report.failures.setdefault(cause, []).append(number)
            report.shown.setdefault(cause, f"  input: {_short(given)}\n{shown}")
        else:
            shutil.rmtree(place, ignore_errors=True)
    report.seconds = time.monotonic() - begin
    return report


def longtail(*arguments: str) -> Outcome:
    """Call the command line as a shell would: its `main`, its streams, its exit status.

    Standard output refuses what is not UTF-8 and standard error escapes it, as those of a terminal do.
    """
    out = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="strict")
    err = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace")
    arguments_before = sys.argv
    sys.argv = ["longtail", *map(str, arguments)]
    status = 0
    try:
        with redirect_stdout(out), redirect_stderr(err):
            try:
                main()
            except SystemExit as ended:
                status = ended.code if isinstance(ended.code, int) else int(bool(ended.code))
    finally:
        sys.argv = arguments_before
    return Outcome(status, _written(out), _written(err))


def _written(stream: io.TextIOWrapper) -> str:
    stream.flush()
    return stream.buffer.getvalue().decode("utf-8")


def _judge(given, act, check, place: Path, report: Report) -> tuple[str, str]:
    """Return the cause of a failure and what to show of it; empty if it ended well."""
    try:
        with _limits(), warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            result = act(given, place)
    except LongtailError as error:
        wrong = _message(str(error))
        report.refused += not wrong
        return (f"a message that {wrong}", f"  {_short(str(error))}") if wrong else ("", "")
    except (Exception, Hang, KeyboardInterrupt) as error:
        if isinstance(error, KeyboardInterrupt) and not isinstance(error, Hang):
            raise
        return _where(error), "".join(traceback.format_exception(error)[-12:])[-4000:]
    seen = [w for w in warned if not issubclass(w.category, UNSEEN)]
    if seen:
        place_of = f"{Path(seen[0].filename).name}:{seen[0].lineno}"
        return (
            f"a warning reaches the user ({seen[0].category.__name__}, {place_of})",
            f"  {seen[0].message}",
        )
    wrong, shown = _outcome(result)
    if not wrong and not (isinstance(result, Outcome) and result.status):
        wrong = check(given, result, place) or ""
        report.accepted += not wrong
    elif not wrong:
        report.refused += 1
    return wrong, shown


def _outcome(result) -> tuple[str, str]:
    """Judge how the command line ended; status 0 is left to the caller."""
    if not isinstance(result, Outcome):
        return "", ""
    shown = f"  status {result.status}\n  {_short(result.err)}\n  {_short(result.out)}"
    if "Traceback (most recent call last)" in result.err + result.out:
        return "a traceback is printed", shown
    if result.status not in (0, 1, 2):
        return f"exit status {result.status}", shown
    if result.status:
        wrong = _message(result.err)
        return (f"a message that {wrong}" if wrong else ""), shown
    return "", shown


def _message(text: str) -> str:
    """Say what is wrong with an error message, empty if a person can read it."""
    body = text.strip().removeprefix("error:").strip()
    if not body or body == "Aborted!":
        return "says nothing"
    if len(body) > LONGEST_MESSAGE:
        return f"is longer than {LONGEST_MESSAGE} characters"
    if MEMORY_FULL in body:
        return "says that the memory is full"
    raw = {c for c in body if unicodedata.category(c) == "Cc" and c not in "\n\t"}
    if raw:
        return f"holds raw control characters: {sorted(map(ascii, raw))}"
    return ""


@contextmanager
def _limits():
    """Limit time and address space; what was set before is set again."""

    def ring(signum, frame):
        raise Hang(f"longer than {HANG_SECONDS:g} s")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, ring)
    most = _address_space() + MOST_GROWTH
    resource.setrlimit(resource.RLIMIT_AS, (most if soft < 0 else min(soft, most), hard))
    signal.setitimer(signal.ITIMER_REAL, HANG_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _address_space() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return 64 * 1024**3  # a system without /proc: no useful limit, but one
    return pages * resource.getpagesize()


def _where(error: BaseException) -> str:
    """Name an exception by its type and the deepest line of the library in its traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/longtail/" in frame.filename] or frames
    return (
        f"{type(error).__name__} at {Path(own[-1].filename).name}:{own[-1].lineno} ({own[-1].name})"
    )


def _short(value) -> str:
    text = value if isinstance(value, str) else ascii(value)
    return text if len(text) <= 600 else f"{text[:400]} ... {text[-150:]} ({len(text)} characters)"
