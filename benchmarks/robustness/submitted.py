"""Submit short trainings through submitit, kill their jobs at random moments, and compare their ends.

    python benchmarks/robustness/submitted.py --runs 100

Each run is a job of `--submit local`. Up to twice, at a random moment from the start of its process, its job
is preempted (SIGUSR2, after which submitit calls it again) or killed (SIGKILL, as when a machine goes
down; then the same command is given again). Every run must end with the weights, losses and scores of the run
of the same recipe and seed that nothing happened to. Anything else is a failure, and the status is 1. Appends
one line to results/submitted.jsonl.

Time: not recorded; every process imports everything, so it is far more than that of the trainings.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from kills import METHODS, SMALL, outcome

from longtail import api
from longtail.cli.submit import Submission
from longtail.core.errors import LongtailError
from longtail.recipes import RunConfig, resolve
from longtail.runs.records import append_measurement

SEEDS = 2
MOST_KILLS = 2
MOST_COMMANDS = 8
SIGNALS = (signal.SIGUSR2, signal.SIGKILL)


class Killer(threading.Thread):
    """Sends signals to the processes of one run, each at a random moment of a process's life."""

    def __init__(self, folder: Path, chance: random.Random, seconds: float) -> None:
        super().__init__(daemon=True)
        self.sent: list[str] = []
        self.over = threading.Event()
        self._folder, self._chance, self._seconds = folder, chance, seconds

    def run(self) -> None:
        """Wait for a process, then for a moment; until all signals are sent or the run is over."""
        hit = set[int]()
        for _ in range(self._chance.randint(1, MOST_KILLS)):
            sent, wait = self._chance.choice(SIGNALS), self._chance.uniform(0, self._seconds)
            while not (new := processes_of(self._folder) - hit):
                if self.over.wait(0.02):
                    return
            hit |= new
            if self.over.wait(wait):
                return
            for process in new & processes_of(self._folder):
                os.kill(process, sent)
                self.sent.append(sent.name)


def processes_of(folder: Path) -> set[int]:
    """Return the processes that train for the jobs in `folder`."""
    found = set()
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes()
        except OSError:
            continue
        if b"submitit.core._submit" in line and os.fsencode(folder) in line:
            found.add(int(file.parent.name))
    return found


def live(
    config: RunConfig, folder: Path, chance: random.Random, seconds: float
) -> tuple[list[str], int]:
    """Submit one run until it ends; return the signals that hit it, and how many commands it took."""
    killer = Killer(folder, chance, seconds)
    killer.start()
    try:
        for command in range(1, MOST_COMMANDS + 1):
            submission = Submission("local", folder / "submitted", (), "cpu", None)
            try:
                if list(submission.train({folder / "run": config}, {})):
                    return killer.sent, command
            except LongtailError as error:
                if "did not end by itself" not in str(error):
                    raise
    finally:
        killer.over.set()
        killer.join()
    raise LongtailError(f"not finished after {MOST_COMMANDS} commands")


def main() -> None:
    """Train, kill, compare and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--minutes", type=float, help="begin no further run after this time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", type=Path, default=Path("results/submitted.jsonl"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    endings, signals, commands, failures = 0, Counter[str](), Counter[int](), list[str]()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        chances = {
            (source, seed): resolve(source, [*SMALL, *options, f"seed={seed}"])
            for source, options in METHODS.items()
            for seed in range(SEEDS)
        }
        whole: dict[tuple[str, int], dict[str, Any]] = {}
        for key, config in chances.items():
            folder = Path(place) / f"whole-{len(whole)}"
            api.train(config, out=folder, device="cpu")
            whole[key] = outcome(folder)
        first = time.monotonic()
        live(next(iter(chances.values())), Path(place) / "timed", _Never(), 0)
        seconds = time.monotonic() - first
        print(f"a job takes {seconds:.0f} s undisturbed", flush=True)
        for number in range(arguments.runs):
            if arguments.minutes and time.monotonic() - begin > 60 * arguments.minutes:
                break
            chance = random.Random(f"{arguments.seed} {number}")
            key = chance.choice(sorted(chances))
            folder = Path(place) / f"run-{number}"
            try:
                sent, needed = live(chances[key], folder, chance, seconds)
                same = outcome(folder / "run") == whole[key]
                problem = "" if same else "another outcome, in silence"
            except LongtailError as error:
                sent, needed, problem = [], 0, str(error)
            signals.update(sent)
            commands[needed] += 1
            endings += not problem
            failures += [f"run {number}, {key[0]}: {problem}"] if problem else []
            print(f"run {number}: {sent}, {needed} commands {problem}", flush=True)
    line = {
        "benchmark": "submitted",
        "recipes": {source: [*SMALL, *options] for source, options in METHODS.items()},
        "runs": sum(commands.values()),
        "signals": signals,
        "commands_per_run": commands,
        "equal_to_the_bit": endings,
        "failures": failures,
        "seconds": round(time.monotonic() - begin),
    }
    append_measurement(arguments.record, line)
    print(json.dumps(line, indent=1))
    sys.exit(bool(failures))


class _Never(random.Random):
    """Sends no signal."""

    def randint(self, low: int, high: int) -> int:
        """Return 0."""
        return 0


if __name__ == "__main__":
    main()
