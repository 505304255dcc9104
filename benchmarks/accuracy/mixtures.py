"""Score every mixture of the sub-models of runs (DO, SADE): on left-out training images, then on test.

    python benchmarks/accuracy/mixtures.py runs/reproduce/do-ablations/short/*/seed-*
    python benchmarks/accuracy/mixtures.py runs/reproduce/experts-cifar100/short/sade/seed-* \\
        --record results/experts-mixtures.jsonl

Left-out images (see left_out.py) are where choices are made here; test is scored beside them and chooses
nothing. Where a run has a val split, a stacking and a router are fitted on it. Each line of
the record is one run, one set of images and one pair of views.

Time: 48 to 330 seconds for each line of the record of DO on one thread and 27 seconds for SADE on two, by the
dates of the records of one command.
"""

from __future__ import annotations

import json
from functools import partial

import of_runs
import torch
from do_router import fit_router
from left_out import left_out

from longtail import api
from longtail.core import ClassCounts, ShotGroups
from longtail.data.data_set import DataSet
from longtail.engine.hardware import resolve_precision
from longtail.ensembles import SubModelLogits, compare_mixtures
from longtail.methods import Method
from longtail.prediction import predict_sub_models
from longtail.runs import Run, append_record

CPU = torch.device("cpu")


def logits_of(method: Method, part: DataSet, views: str, precision: str) -> SubModelLogits:
    """Return the logits of the sub-models for images and for two views of them."""
    predict = partial(predict_sub_models, method, part, device=CPU, precision=precision)
    clean = predict()
    labels = torch.from_numpy(part.manifest.labels.copy())
    if views == "mirror":
        first, second = clean, predict(view="mirror")
    else:
        first, second = (predict(view=views, seed=seed) for seed in (1, 2))
    return SubModelLogits(clean, first, second, labels, method.known_bias(), views)


def routed(
    logits: SubModelLogits, held_out: SubModelLogits, counts: ClassCounts
) -> dict[str, object]:
    """Return the line of the router."""
    router = fit_router(held_out.clean, held_out.labels, ShotGroups.from_counts(counts))
    scores = router(logits.clean)[:, None]  # scored like a sub-model that is alone
    line = compare_mixtures(SubModelLogits(scores, scores, scores, logits.labels), counts)[0]
    return line | {"name": "router (not kept)", "sees": "held-out"}


def main() -> None:
    """Score the runs that are given."""
    parser = of_runs.parser(__doc__, "do-mixtures.jsonl")
    parser.add_argument("--views", nargs="+", default=["mirror", "sade"])
    arguments = parser.parse_args()
    for path in arguments.runs:
        run, model = Run.open(path), api.load(path, device="cpu")
        counts = ClassCounts(model.metadata.class_counts, model.metadata.classes)
        data = run.open_data()
        precision = resolve_precision(run.config.training.precision, CPU)
        val = data.split("val") if data.manifest.has("val") else None
        sets = {"left out": left_out(run), "test": data.split("test")}
        for name, part in sets.items():
            for views in arguments.views:
                logits = logits_of(model.method, part, views, precision)
                held_out = None if val is None else logits_of(model.method, val, views, precision)
                mixtures = compare_mixtures(logits, counts, held_out=held_out)
                if held_out is not None:
                    mixtures.append(routed(logits, held_out, counts))
                line = {
                    **of_runs.facts("mixtures", run, model.metadata.weights_sha256),
                    "row": path.parent.name,
                    "images": name,
                    "size": len(part.manifest),
                    "views": views,
                    "mixtures": mixtures,
                }
                append_record(arguments.record, json.loads(json.dumps(line)))
                best = max(line["mixtures"], key=lambda r: r["accuracy"] * (r["sees"] != "oracle"))
                print(f"{path}, {name}, {views}: best is {best['name']}, {best['accuracy']:.3f}")


if __name__ == "__main__":
    main()
