"""Score every mixture of the sub-models of DO's runs: on left-out training pictures, then on test.

    python benchmarks/do_mixtures.py runs/reproduce/do-ablations/short/*/seed-*

CIFAR-100-LT leaves out most training pictures of CIFAR-100. Up to 100 of them per class, which no run has
seen, are where choices are made here: which mixture, which option serves best. (The most frequent classes
have few left, the first none; averages are over the classes that have some.) Test is scored beside them and
chooses nothing. Where a run has a val split, a stacking and a router are fitted on it. Each line of
results/do-mixtures.jsonl is one run, one set of pictures and one pair of views.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
from do_router import fit_router

from longtail import api
from longtail.core import ClassCounts, ShotGroups
from longtail.data.config import open_data
from longtail.data.pictures import DataSet
from longtail.engine.hardware import describe_environment
from longtail.evaluation import Answers, answer_split, compare_mixtures
from longtail.methods import Method
from longtail.runs import Run, append_record

PER_CLASS = 100
CPU = torch.device("cpu")


def left_out(run: Run) -> DataSet:
    """Return training pictures of CIFAR-100 that the run's long-tailed cut does not hold."""
    config = run.config.data
    everything = config.model_copy(update={"long_tail": None, "validation_per_class": None})
    whole = open_data(everything).split("train")
    own = open_data(config, seed=run.config.training.seed)
    parts = [own.split(name) for name in ("train", "val") if own.manifest.has(name)]
    used = {number for part in parts for number in part.manifest.ids.tolist()}
    chosen: list[int] = []
    for label in range(len(whole.manifest.classes)):
        rows = np.flatnonzero(whole.manifest.labels == label)
        free = [row for row in rows.tolist() if int(whole.manifest.ids[row]) not in used]
        chosen += free[:PER_CLASS]
    return whole.take(np.array(chosen))


def answers_to(method: Method, part: DataSet, views: str) -> Answers:
    """Return what the sub-models answer to pictures and to two views of them."""
    clean = answer_split(method, part, device=CPU)
    labels = torch.from_numpy(part.manifest.labels.copy())
    if views == "mirror":
        first, second = clean, answer_split(method, part, device=CPU, view="mirror")
    else:
        first, second = (
            answer_split(method, part, device=CPU, view=views, seed=seed) for seed in (1, 2)
        )
    return Answers(clean, first, second, labels, method.known_bias(), views)


def routed(answers: Answers, held_out: Answers, counts: ClassCounts) -> dict[str, object]:
    """Return the line of the router."""
    router = fit_router(held_out.clean, held_out.labels, ShotGroups.from_counts(counts))
    scores = router(answers.clean)[:, None]  # scored like a sub-model that is alone
    line = compare_mixtures(Answers(scores, scores, scores, answers.labels), counts)[0]
    return line | {"name": "router (not kept)", "sees": "held-out"}


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
        data = open_data(run.config.data, seed=run.config.training.seed)
        val = data.split("val") if data.manifest.has("val") else None
        sets = {"left out": left_out(run), "test": data.split("test")}
        for name, part in sets.items():
            for views in arguments.views:
                answers = answers_to(model.method, part, views)
                held_out = None if val is None else answers_to(model.method, val, views)
                mixtures = compare_mixtures(answers, counts, held_out=held_out)
                if held_out is not None:
                    mixtures.append(routed(answers, held_out, counts))
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
                    "mixtures": mixtures,
                }
                append_record(arguments.record, json.loads(json.dumps(line)))
                best = max(line["mixtures"], key=lambda r: r["accuracy"] * (r["sees"] != "oracle"))
                print(f"{path}, {name}, {views}: best is {best['name']}, {best['accuracy']:.3f}")


if __name__ == "__main__":
    main()
