"""Heads on the frozen features of the embedded network, on CIFAR-100-LT at ratio 100.

    LONGTAIL_DATA=DATA python benchmarks/accuracy/foundation.py [--rows NAME ...] [--seeds 2] [--out DIR]

EfficientNet-Lite0 (3.4 million weights, ImageNet-1k), images enlarged to 160 pixels. Rows `val ...` hold five
images a class out (three always stay in train) and are scored on them: they choose the rate of each head. The
others are trained on all images with that rate and scored on test. Appends a line per row and seed to
results/foundation.jsonl.

Time: not recorded; nearly all of it is one pass over 20,847 images, whose features are kept.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from longtail import api
from longtail.engine.log import PlainLog
from longtail.runs import append_record

RECIPE = "cifar100-lt/foundation-small"
HELD_OUT = ["validation_per_class=5", "keep_in_train=3"]
COSINE = ["head=cosine", "head.scale=25"]
MEANS = ["head_start=class-means"]
HEADS = {
    "linear": [],
    "linear, begins with class means": MEANS,
    "cosine": COSINE,
    "cosine, begins with class means": [*COSINE, *MEANS],
}
RATES = (0.003, 0.01, 0.03, 0.1, 0.3)
ALONE = "class means alone"
CHOOSING = {
    f"val {head}, rate {rate}": [*options, f"learning_rate={rate}", *HELD_OUT]
    for head, options in HEADS.items()
    for rate in RATES
}


def options_of(row: str, record: Path) -> list[str]:
    """Return the options of a row; a head has the rate that its rows `val ...` chose."""
    if row in CHOOSING:
        return CHOOSING[row]
    if row == ALONE:
        return [*COSINE, *MEANS, "train=nothing"]
    lines = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
    scored = {line["row"]: line["macro_accuracy"] for line in lines if line["split"] == "val"}
    by_rate = {rate: scored[f"val {row}, rate {rate}"] for rate in RATES}
    return [*HEADS[row], f"learning_rate={max(by_rate, key=lambda rate: by_rate[rate])}"]


def main() -> None:
    """Train the rows and write the records."""
    rows = [*CHOOSING, ALONE, *HEADS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rows", nargs="+", choices=rows, default=rows)
    parser.add_argument("--out", type=Path, default=Path("runs/foundation"))
    parser.add_argument("--record", type=Path, default=Path("results/foundation.jsonl"))
    arguments = parser.parse_args()
    for row in arguments.rows:
        once = row in CHOOSING or row == ALONE  # what chooses, and what has no randomness
        for seed in range(1 if once else arguments.seeds):
            folder = arguments.out / row.replace(", ", "-").replace(" ", "-") / f"seed-{seed}"
            if (folder / "scores-test.json").exists():
                continue
            options = [*options_of(row, arguments.record), f"seed={seed}"]
            run = api.train(RECIPE, options, out=folder, log=PlainLog())
            split = "val" if row in CHOOSING else "test"
            if split == "val":
                api.evaluate(run, split)
            append_record(
                arguments.record, {"benchmark": "foundation", "row": row} | api.record(run, split)
            )


if __name__ == "__main__":
    main()
