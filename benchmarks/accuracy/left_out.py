"""Score runs on training images that their long-tailed cut leaves out: where choices may be made.

    python benchmarks/accuracy/left_out.py runs/reproduce/do-ablations/short/*/seed-*

CIFAR-100-LT leaves out most training images of CIFAR-100. Up to 100 of them per class, which no run has
seen, decide which option serves best; test decides nothing. (The most frequent classes have few left, the
first none; averages are over the classes that have some.) Appends a line per run to results/left-out.jsonl.

Time: 5 to 45 seconds a run on one thread, by the dates of the records of one command.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import of_runs
import torch

from longtail import api
from longtail.core import ClassCounts
from longtail.data.data_set import DataSet
from longtail.data.source_to_batch import open_data
from longtail.engine.hardware import resolve_precision
from longtail.evaluation import headlines, score
from longtail.prediction import predict_split
from longtail.runs import Run, append_record

PER_CLASS = 100
CPU = torch.device("cpu")


def left_out(run: Run) -> DataSet:
    """Return training images of CIFAR-100 that the run's long-tailed cut does not hold."""
    config = run.config.data
    everything = config.model_copy(update={"long_tail": None, "validation_per_class": None})
    whole = open_data(everything).split("train")
    own = run.open_data()
    parts = [own.split(name) for name in ("train", "val") if own.manifest.has(name)]
    used = {number for part in parts for number in part.manifest.ids.tolist()}
    chosen: list[int] = []
    for label in range(len(whole.manifest.classes)):
        rows = np.flatnonzero(whole.manifest.labels == label)
        free = [row for row in rows.tolist() if int(whole.manifest.ids[row]) not in used]
        chosen += free[:PER_CLASS]
    return whole.take(np.array(chosen))


def scored(path: Path, benchmark: str) -> dict[str, Any]:
    """Return the line of a record: what a run scores on its `left_out` images.

    Args:
        path: Of the run's folder.
        benchmark: Name of the record's line.
    """
    run, model = Run.open(path), api.load(path, device="cpu")
    training = run.config.training
    precision = resolve_precision(training.precision, CPU)
    predictions = predict_split(
        model.method, left_out(run), "left out", device=CPU, precision=precision,
        checkpoint=model.metadata.weights_sha256,
    )  # fmt: skip
    scores = score(
        predictions, ClassCounts(model.metadata.class_counts, model.metadata.classes),
        rule=run.config.data.groups, selection="last epoch", recipe=run.config.recipe,
        seed=training.seed,
    )  # fmt: skip
    return {
        **of_runs.facts(benchmark, run, model.metadata.weights_sha256),
        "split": "left out",
        "images": len(predictions.labels),
        **headlines(scores),
    }


def main() -> None:
    """Score the runs that are given."""
    arguments = of_runs.parser(__doc__, "left-out.jsonl").parse_args()
    for path in arguments.runs:
        line = scored(path, "left-out")
        append_record(arguments.record, line)
        print(f"{path}: {line['macro_accuracy']:.3f}")


if __name__ == "__main__":
    main()
