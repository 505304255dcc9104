"""Score every mixture of the sub-models of DO's runs: on left-out training pictures, then on test.

    python benchmarks/do_mixtures.py runs/reproduce/do-ablations/short/*/seed-*

CIFAR-100-LT leaves out most training pictures of CIFAR-100. Up to 100 of them per class, which no run has
seen, are where choices are made here: which mixture, which option serves best. (The most frequent classes
have few left, the first none; averages are over the classes that have some.) Test is scored beside them and
chooses nothing. Each line of results/do-mixtures.jsonl is one run, one set of pictures and one pair of views.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import datetime
from pathlib import Path

import numpy as np
import torch

from longtail import api
from longtail.core import ClassCounts
from longtail.data.config import open_data
from longtail.data.pictures import DataSet
from longtail.engine.hardware import describe_environment
from longtail.evaluation import Answers, answer_split, compare_mixtures
from longtail.runs import Run, append_record

PER_CLASS = 100
CPU = torch.device("cpu")


def left_out(run: Run) -> DataSet:
    """Return training pictures of CIFAR-100 that the run's long-tailed cut does not hold."""
    config = run.config.data
    whole = open_data(config.model_copy(update={"long_tail": None})).split("train")
    used = set(open_data(config).split("train").manifest.ids.tolist())
    chosen: list[int] = []
    for label in range(len(whole.manifest.classes)):
        rows = np.flatnonzero(whole.manifest.labels == label)
        free = [row for row in rows.tolist() if int(whole.manifest.ids[row]) not in used]
        chosen += free[:PER_CLASS]
    return whole.take(np.array(chosen))


def main() -> None:
    """Score the runs that are given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--views", nargs="+", default=["mirror", "sade"])
    parser.add_argument("--record", type=Path, default=Path("results/do-mixtures.jsonl"))
    arguments = parser.parse_args()
    for path in arguments.runs:
        run, model = Run.open(path), api.load(path, device="cpu")
        counts = ClassCounts(model.card.class_counts, model.card.classes)
        sets = {"left out": left_out(run), "test": open_data(run.config.data).split("test")}
        for name, part in sets.items():
            clean = answer_split(model.method, part, device=CPU)
            labels = torch.from_numpy(part.manifest.labels.copy())
            for views in arguments.views:
                if views == "mirror":
                    first, second = (
                        clean,
                        answer_split(model.method, part, device=CPU, view="mirror"),
                    )
                else:
                    first, second = (
                        answer_split(model.method, part, device=CPU, view=views, seed=seed)
                        for seed in (1, 2)
                    )
                answers = Answers(
                    clean, first, second, labels, model.method.known_bias(), views
                )  # fmt: skip
                line = {
                    "benchmark": "do-mixtures",
                    "date": f"{datetime.now():%Y-%m-%dT%H:%M:%S}",
                    "command": " ".join(["python", *sys.argv]),
                    **describe_environment(CPU),
                    "row": path.parent.name,
                    "seed": run.config.training.seed,
                    "pictures": name,
                    "size": len(part.manifest),
                    "views": views,
                    "checkpoint_sha256": model.card.weights_sha256,
                    "config": run.config.model_dump(mode="json"),
                    "mixtures": compare_mixtures(answers, counts),
                }
                append_record(arguments.record, json.loads(json.dumps(line)))
                best = max(line["mixtures"], key=lambda r: r["accuracy"] * (r["sees"] != "oracle"))
                print(f"{path}, {name}, {views}: best is {best['name']}, {best['accuracy']:.3f}")


if __name__ == "__main__":
    main()
