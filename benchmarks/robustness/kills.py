"""Kill trainings at random moments, flip a bit of their folder, resume them, and see what comes of it.

    python benchmarks/robustness/kills.py --histories 200

A history is one training of a second or two that is killed (SIGKILL) one to four times at random moments; in
half of the histories one random bit of one random file of the run folder is flipped before the last resume.
Every history must end in one of two ways:

- the final weights, the losses and the scores are those of the run that nothing happened to, bit by bit;
- a bit was flipped, and one sentence names the file (then the file is brought back, and the history goes on
  to the first ending).

Anything else is a failure, and the status is 1. Trainings are forked from one process that has everything
imported. Appends one line to results/kills.jsonl.

Time: 27 minutes for 200 histories on two cores.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from longtail import api
from longtail.core.errors import LongtailError
from longtail.data.sources.digits import read_digits
from longtail.engine import checkpoint as ckpt
from longtail.engine.hardware import describe_environment
from longtail.runs import append_record

SMALL = [
    "epochs=4",
    "backbone=resnet20",
    "largest=40",
    "batch_size=32",
    "precision=fp32",
    "workers=1",
]
METHODS = {
    "digits-lt/balanced-softmax": ["mixing=mixup", "ema=0.95"],
    "digits-lt/crt": [],
    "digits-lt/reslt": [],
    "digits-lt/bbn": [],
}
MOST_KILLS = 4
UNREAD = (".lock",)  # nobody reads them
REPAIRS = 3


@dataclass
class History:
    """What happened to one run folder."""

    source: str
    kills: int = 0
    flipped: list[str] = field(default_factory=list)
    noticed: list[str] = field(default_factory=list)
    ending: str = ""


def train(source: str, folder: Path, message: Path) -> None:
    """Begin or continue a run, in a process of its own; what goes wrong in words is left in `message`."""
    torch.set_num_threads(1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    try:
        api.train(source, [*SMALL, *METHODS[source]], out=folder, resume=True, device="cpu")
    except LongtailError as error:
        message.write_text(str(error), encoding="utf-8")
        os._exit(3)
    except BaseException as error:
        message.write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
        os._exit(4)
    os._exit(0)


def start(source: str, folder: Path, message: Path) -> BaseProcess:
    """Fork a training."""
    message.unlink(missing_ok=True)
    process = multiprocessing.get_context("fork").Process(
        target=train, args=(source, folder, message)
    )
    process.start()
    return process


def outcome(folder: Path) -> dict[str, Any]:
    """Return all that must be equal to the bit: weights, losses, scores."""
    run = api.Run.open(folder)
    found, metadata = run.checkpoint()
    ckpt.read_weights(found)  # compares the checksum
    return {
        "weights": metadata.weights_sha256,
        "losses": [line.get("loss") for line in run.lines()],
        "scores": run.scores("test"),
    }


def flip(folder: Path, chance: random.Random) -> tuple[Path, bytes] | None:
    """Flip one bit of one file; return the file and what it held."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name not in UNREAD]
    files = [file for file in files if file.stat().st_size]
    if not files:
        return None
    file = chance.choice(files)
    before = file.read_bytes()
    after = bytearray(before)
    after[chance.randrange(len(after))] ^= 1 << chance.randrange(8)
    file.write_bytes(after)
    return file, before


def live(
    number: int, seed: int, whole: dict[str, dict[str, Any]], seconds: dict[str, float]
) -> History:
    """Let one history happen."""
    chance = random.Random(f"{seed} {number}")
    source = chance.choice(sorted(whole))
    history = History(source)
    damaged = number % 2 == 1
    with tempfile.TemporaryDirectory() as place:
        folder, message = Path(place) / "run", Path(place) / "message"
        for _ in range(chance.randint(1, MOST_KILLS)):
            process = start(source, folder, message)
            process.join(chance.uniform(0, 0.6 * seconds[source]))
            if process.is_alive() and process.pid is not None:
                os.kill(process.pid, signal.SIGKILL)
                history.kills += 1
            process.join()
            if process.exitcode not in (0, -signal.SIGKILL):
                history.ending = f"failure: {message.read_text(encoding='utf-8')}"
                return history
        harm = flip(folder, chance) if damaged and folder.exists() else None
        if harm is not None:
            history.flipped.append(harm[0].relative_to(folder).as_posix())
        history.ending = _end(history, folder, message, harm, whole[source])
    return history


def _end(
    history: History,
    folder: Path,
    message: Path,
    harm: tuple[Path, bytes] | None,
    right: dict[str, Any],
) -> str:
    for _ in range(REPAIRS):
        process = start(history.source, folder, message)
        process.join()
        if process.exitcode == 0:
            break
        text = message.read_text(encoding="utf-8")
        named = harm is not None and any(
            part in text for part in (harm[0].name, harm[0].parent.name)
        )
        if process.exitcode != 3 or not named or harm is None:
            return f"failure: {text}"
        history.noticed.append(text.replace(str(folder), "RUN"))
        harm[0].parent.mkdir(exist_ok=True)
        harm[0].write_bytes(harm[1])
    try:
        found = outcome(folder)
    except LongtailError as error:
        # the run was finished before, and the bit is in what was left alone since
        if harm is None or harm[0].name not in str(error):
            return f"failure: {error}"
        history.noticed.append(str(error).replace(str(folder), "RUN"))
        harm[0].write_bytes(harm[1])
        found = outcome(folder)
    left = [p.name for p in folder.rglob(".*") if p.name.endswith(".tmp")]
    if left:
        return f"failure: {', '.join(left)} were left"
    return "equal" if found == right else "failure: another outcome, in silence"


def main() -> None:
    """Let all histories happen and record them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--histories", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="number of the first history")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", type=Path, default=Path("results") / "kills.jsonl")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    read_digits()  # imports what every training would import
    whole, seconds = {}, {}
    with tempfile.TemporaryDirectory() as place:
        for source in METHODS:
            folder, begin = Path(place) / source.replace("/", "-"), time.monotonic()
            process = start(source, folder, Path(place) / "message")
            process.join()
            if process.exitcode:
                sys.exit((Path(place) / "message").read_text(encoding="utf-8"))
            seconds[source] = time.monotonic() - begin
            whole[source] = outcome(folder)
            print(f"{source}: {seconds[source]:.1f} s undisturbed", flush=True)
            shutil.rmtree(folder)
    begin, histories = time.monotonic(), []
    for number in range(arguments.first, arguments.first + arguments.histories):
        history = live(number, arguments.seed, whole, seconds)
        histories.append(history)
        if history.ending != "equal":
            print(f"history {number}: {history}", flush=True)
        if len(histories) % 20 == 0:
            print(f"{len(histories)} histories, {time.monotonic() - begin:.0f} s", flush=True)
    failures = [h for h in histories if h.ending != "equal"]
    flipped = [h for h in histories if h.flipped]
    line = {
        "benchmark": "kills",
        "date": f"{datetime.now():%Y-%m-%dT%H:%M:%S}",
        "command": " ".join(["python", *sys.argv]),
        **describe_environment(torch.device("cpu")),
        "recipes": {source: [*SMALL, *options] for source, options in METHODS.items()},
        "histories": len(histories),
        "kills": sum(h.kills for h in histories),
        "by_recipe": Counter(h.source for h in histories),
        "bits_flipped": len(flipped),
        "flipped_files": Counter(Path(h.flipped[0]).name for h in flipped),
        "noticed": sum(bool(h.noticed) for h in flipped),
        "noticed_files": Counter(Path(h.flipped[0]).name for h in flipped if h.noticed),
        "harmless": sum(not h.noticed and h.ending == "equal" for h in flipped),
        "equal_to_the_bit": sum(h.ending == "equal" for h in histories),
        "failures": [
            {"recipe": h.source, "flipped": h.flipped, "ending": h.ending} for h in failures
        ],
        "seconds": round(time.monotonic() - begin),
    }
    append_record(arguments.record, line)
    print(json.dumps(line, indent=1))
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
