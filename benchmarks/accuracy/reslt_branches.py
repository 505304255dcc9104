"""Accuracy of every ResLT branch alone and of their sum, by group (figure 6 of the paper).

python benchmarks/accuracy/reslt_branches.py runs/cifar100-lt-reslt-*/seed-*

Appends a line per run to results/reslt-branches.jsonl.

Time: 8 seconds a run on two threads, by the dates of the records.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from longtail import api
from longtail.core import GROUP_NAMES, ClassCounts, ShotGroups
from longtail.data.sampling.loader import evaluation_batches
from longtail.engine.hardware import describe_environment
from longtail.evaluation import confusion_matrix, macro_accuracy, micro_accuracy
from longtail.methods.reslt import ResLT

CPU = torch.device("cpu")


def branches(folder: Path) -> dict[str, Any]:
    """Return the accuracies of one run on its test split, in fp32."""
    model, run = api.load(folder, device="cpu"), api.Run.open(folder)
    if not isinstance(model.method, ResLT):
        raise SystemExit(f"{folder} is no run of ResLT")
    data = run.open_data().split("test")
    counts = ClassCounts(model.metadata.class_counts, model.metadata.classes)
    groups = ShotGroups.from_counts(counts, run.config.data.groups)
    logits, rows = [], []
    with torch.inference_mode():
        for images, places in evaluation_batches(data, batch_size=500, device=CPU):
            logits.append(model.method.branch_logits(images))
            rows.append(places)
    apart = torch.cat(logits, dim=1).numpy()  # [G, N, C]
    labels = data.manifest.labels[np.concatenate(rows)]

    def scores(values: np.ndarray[Any, Any]) -> dict[str, float | None]:
        confusion = confusion_matrix(labels, values.argmax(axis=1), len(counts))
        by_group = {n: macro_accuracy(confusion, groups.mask(n).numpy()) for n in GROUP_NAMES}
        return {"all": micro_accuracy(confusion)} | by_group

    found = {f"branch {number}": scores(values) for number, values in enumerate(apart)}
    return {
        "recipe": run.config.recipe,
        "seed": run.config.training.seed,
        "checkpoint_sha256": model.metadata.weights_sha256,
        "accuracy": found | {"sum": scores(apart.sum(axis=0))},
    }


def main() -> None:
    """Score the runs and write a record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--record", type=Path, default=Path("results/reslt-branches.jsonl"))
    arguments = parser.parse_args()
    with arguments.record.open("a", encoding="utf-8") as stream:
        for folder in arguments.runs:
            found = branches(folder)
            for name, scores in found["accuracy"].items():
                print(folder, name, {k: v and round(100 * v, 1) for k, v in scores.items()})
            record = {
                "benchmark": "reslt-branches",
                "date": f"{datetime.now():%Y-%m-%dT%H:%M:%S}",
                "command": " ".join(["python", *sys.argv]),
                **describe_environment(CPU),
            }
            stream.write(json.dumps(record | found) + "\n")


if __name__ == "__main__":
    main()
