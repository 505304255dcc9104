"""Submit short trainings through submitit, kill their jobs at random moments, and compare their ends.

    python benchmarks/robustness/submitted.py --runs 100

Each run is a job of `--submit local`. Up to twice, at a random moment from the start of its process, its job
is preempted (SIGUSR2, after which submitit calls it again) or killed (SIGKILL, as when a machine goes
down; then the same command is given again). Every run must end with the weights, losses and scores of the run
of the same recipe and seed that nothing happened to. Anything else is a failure, and the status is 1. Appends
one line to results/submitted.jsonl.

submitit's controllers and tasks are forked from one process that has everything imported, where submitit
would start new interpreters; all else is what submitit does.

Time: 20 minutes for 100 runs, on a core that other programs used too.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import runpy
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import submitit.local.local
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
TASK = "submitit.core._submit"
FORK = multiprocessing.get_context("fork")


class Forked:
    """Run `python -m MODULE FOLDER` in a fork of this process: what submitit uses of Popen."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        stdout: IO[str] | None = None,
        stderr: IO[str] | None = None,
        **_: object,
    ) -> None:
        self._process = FORK.Process(target=_run, args=(command, env, stdout, stderr))
        self._process.start()
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Return the exit status, None while the process runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal, if the process still runs."""
        if self.pid and self.poll() is None:
            os.kill(self.pid, number)


def _run(
    command: Sequence[str],
    env: Mapping[str, str],
    stdout: IO[str] | None,
    stderr: IO[str] | None,
) -> None:
    os.environ.clear()
    os.environ.update(env)
    for number, file in ((1, stdout), (2, stderr)):
        if file is not None:
            os.dup2(file.fileno(), number)
    _, module, folder = command[-3:]
    sys.argv[:] = [module, folder]
    if module == TASK:
        (Path(folder) / f"{os.getpid()}.task").touch()
    runpy.run_module(module, run_name="__main__")


def tasks_of(folder: Path) -> set[int]:
    """Return the processes that train for the jobs in `folder`."""
    return {int(file.stem) for file in folder.glob("submitted/*.task") if _is_alive(file.stem)}


def _is_alive(process: str) -> bool:
    try:
        return bool(Path(f"/proc/{process}/cmdline").read_bytes())  # empty for what has ended
    except OSError:
        return False


def kill(folder: Path, chance: random.Random, seconds: float) -> None:
    """Send signals to the tasks of one run, each at a random moment of a task's life."""
    hit = set[int]()
    for _ in range(chance.randint(1, MOST_KILLS)):
        sent, wait = chance.choice(SIGNALS), chance.uniform(0, seconds)
        while not (new := tasks_of(folder) - hit):
            time.sleep(0.02)
        hit |= new
        time.sleep(wait)
        for process in new & tasks_of(folder):
            os.kill(process, sent)
            with (folder / "sent").open("a") as file:
                file.write(f"{sent.name}\n")


def live(
    config: RunConfig, folder: Path, chance: random.Random | None, seconds: float
) -> tuple[list[str], int]:
    """Submit one run until it ends; return the signals that hit it, and how many commands it took."""
    folder.mkdir()
    (folder / "sent").touch()
    killer = FORK.Process(target=kill, args=(folder, chance, seconds), daemon=True)
    if chance is not None:
        killer.start()
    try:
        for command in range(1, MOST_COMMANDS + 1):
            submission = Submission("local", folder / "submitted", (), "cpu", None)
            try:
                if list(submission.train({folder / "run": config}, {})):
                    return (folder / "sent").read_text().split(), command
            except LongtailError as error:
                if "did not end by itself" not in str(error):
                    raise
    finally:
        if chance is not None:
            killer.terminate()
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
    submitit.local.local.subprocess = SimpleNamespace(Popen=Forked)
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
        live(next(iter(chances.values())), Path(place) / "timed", None, 0)
        seconds = time.monotonic() - first
        print(f"a job takes {seconds:.1f} s undisturbed", flush=True)
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


if __name__ == "__main__":
    main()
