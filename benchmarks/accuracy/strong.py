"""Find a strong recipe for a loss on CIFAR-100-LT: its augmentation, weight decay, SAM and schedule.

    python benchmarks/accuracy/strong.py cifar100-lt/balanced-softmax --epochs 40 --out runs/strong

Most of what newer methods gain over older ones is due to their weight decay, SAM, augmentation and longer
training. So every loss should be compared at its best setting, too. This tries one choice after the other, in
the order of CHOICES, and keeps what has the best macro accuracy on training images that the long-tailed cut
leaves out (see left_out.py); test decides nothing. Each run appends a line to results/strong.jsonl. The same
command goes on where it was stopped, and ends with the overrides of the best recipe.

Time: seven trainings of a loss. One of balanced softmax without SAM took 7 to 10 minutes on two threads, as
recorded (results/cifar100-lt-40-epochs.jsonl); the whole search was not timed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import left_out

from longtail.runs import Run, append_record

# key -> what is tried, the first of them at the beginning
CHOICES: Mapping[str, tuple[str, ...]] = {
    "data.augmentation": ("crop-flip", "autoaugment-cutout"),
    "training.weight_decay": ("5.0e-4", "2.0e-4", "1.0e-3", "5.0e-3"),
    "training.optimizer": ("sgd", "sam"),
    "training.schedule": ("cosine", "step"),
}
Setting = dict[str, str]


def search(accuracy: Callable[[Setting], float]) -> tuple[Setting, float]:
    """Return the best setting that is found by one choice after the other, and its accuracy.

    Args:
        accuracy: Of a setting; asked once for each.
    """
    best = {key: values[0] for key, values in CHOICES.items()}
    highest = accuracy(best)
    for key, (_, *others) in CHOICES.items():
        for value in others:
            tried = best | {key: value}
            found = accuracy(tried)
            if found > highest:
                best, highest = tried, found
    return best, highest


def overrides(setting: Setting, epochs: int) -> list[str]:
    """Return what is said to `longtail train` after the recipe."""
    return [*(f"{key}={value}" for key, value in setting.items()), f"training.epochs={epochs}"]


def accuracy_of(setting: Setting, args: argparse.Namespace) -> float:
    """Train with a setting unless that was done, and return the macro accuracy on left-out images."""
    folder = args.out / args.recipe / "-".join(setting.values())
    said = overrides(setting, args.epochs)
    if not (folder / "scores-test.json").exists():
        command = ["longtail", "train", "--out", str(folder)]
        command += ["--resume"] if folder.exists() else [args.recipe, *said, f"seed={args.seed}"]
        subprocess.run([sys.executable, "-m", *command], check=True)
    known = earlier(args.record, Run.open(folder).checkpoint()[1].weights_sha256)
    if known is None:
        line = left_out.scored(folder, "strong") | {"overrides": said}
        append_record(args.record, line)
        known = float(line["macro_accuracy"])
    print(f"{known:.4f}  {' '.join(said)}", flush=True)
    return known


def earlier(record: Path, checkpoint: str) -> float | None:
    """Return the accuracy that is recorded for a checkpoint, if there is one."""
    if not record.exists():
        return None
    lines = map(json.loads, record.read_text(encoding="utf-8").splitlines())
    return next(
        (float(x["macro_accuracy"]) for x in lines if x["checkpoint_sha256"] == checkpoint), None
    )


def main() -> None:
    """Search, and print the overrides of the best recipe."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/strong"))
    parser.add_argument("--record", type=Path, default=Path("results/strong.jsonl"))
    args = parser.parse_args()
    best, highest = search(lambda setting: accuracy_of(setting, args))
    print(f"best: {highest:.4f}  {args.recipe} {' '.join(overrides(best, args.epochs))}")


if __name__ == "__main__":
    main()
