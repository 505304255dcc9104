"""What ResLT's released code does at test time only: on one trained network, on left-out images and test.

    python benchmarks/accuracy/reslt_test_time.py runs/reproduce/reslt-disagreements/short/*/seed-*

Training uses neither, so that one network serves for every value:
- gamma: the logits are sum_g f_g (W_j / |W_j|^gamma)^T without the bias, or as trained with it;
- the convolution head, which is trained before pooling, is tested after it (released) or before it.
Appends a line per run and set of images to results/reslt-gamma.jsonl, or to reslt-pooling.jsonl for runs
with a convolution head.

Time: 34 seconds (gamma) and 92 seconds (pooling) for each run and set of images on one thread, by the dates
of the records.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import of_runs
import torch
from left_out import left_out
from torch import Tensor, nn

from longtail import api
from longtail.adjust import tau_normalize
from longtail.core import GROUP_NAMES, ClassCounts, ShotGroups
from longtail.data.data_set import DataSet
from longtail.data.sampling.loader import evaluation_batches
from longtail.evaluation import confusion_matrix, macro_accuracy
from longtail.methods.reslt import ResLT
from longtail.runs import Run, append_record

GAMMAS = (0.0, 0.1, 0.3, 0.5, 0.7, 1.0)
POOLING = {"pooled before the head (released)": "published", "pooled after it, as trained": "never"}
CPU = torch.device("cpu")
Scored = tuple[dict[str, Tensor], np.ndarray[Any, Any]]  # logits by choice, [N, C]; labels, [N]


def by_gamma(method: ResLT, data: DataSet) -> Scored:
    """Predict with every gamma."""
    kept: list[Tensor] = []
    rows: list[Any] = []

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:  # noqa: ANN401
        kept.append(output.sum(dim=0))

    expert: Any = method.experts[0]
    hook = expert.branches.register_forward_hook(keep)
    with torch.inference_mode():
        for images, places in evaluation_batches(data, batch_size=500, device=CPU):
            method.predict(images)
            rows.append(places)
    hook.remove()
    features, layer = torch.cat(kept), expert.classifier  # [N, D]
    logits = {"as trained": features @ layer.weight.T + expert.branches.count * layer.bias}
    for gamma in GAMMAS:
        logits[f"gamma {gamma:g}"] = features @ tau_normalize(layer.weight, gamma).T
    return logits, data.manifest.labels[np.concatenate(rows)]


def by_pooling(method: ResLT, data: DataSet) -> Scored:
    """Predict with the head after and before pooling."""
    expert: Any = method.experts[0]
    config, kept = expert.config, {name: [] for name in POOLING}
    rows: list[Any] = []
    with torch.inference_mode():
        for images, places in evaluation_batches(data, batch_size=500, device=CPU):
            rows.append(places)
            for name, order in POOLING.items():
                expert.config = config.model_copy(update={"pool_first": order})
                kept[name].append(method.predict(images))
    logits = {name: torch.cat(parts) for name, parts in kept.items()}
    return logits, data.manifest.labels[np.concatenate(rows)]


def main() -> None:
    """Score the runs and write the records."""
    arguments = of_runs.parser(__doc__, "").parse_args()
    for path in arguments.runs:
        run, model = Run.open(path), api.load(path, device="cpu")
        method, metadata = model.method, model.metadata
        if not isinstance(method, ResLT) or len(method.experts) > 1:
            raise SystemExit(f"{path} is no run of ResLT with one expert")
        counts = ClassCounts(metadata.class_counts, metadata.classes)
        groups = ShotGroups.from_counts(counts, run.config.data.groups)
        pooling = method.config.head == "convolution"
        benchmark = "reslt-pooling" if pooling else "reslt-gamma"
        for name, data in (("left out", left_out(run)), ("test", run.open_data().split("test"))):
            data = data.normalised_by(metadata.mean, metadata.std)
            logits, labels = (by_pooling if pooling else by_gamma)(method, data)
            found = {}
            for choice, values in logits.items():
                confusion = confusion_matrix(labels, values.argmax(dim=1).numpy(), len(counts))
                found[choice] = {"all": macro_accuracy(confusion)} | {
                    group: macro_accuracy(confusion, groups.mask(group).numpy())
                    for group in GROUP_NAMES
                }
                shown = {k: v and round(100 * v, 1) for k, v in found[choice].items()}
                print(path, name, choice, shown)
            facts = of_runs.facts(benchmark, run, metadata.weights_sha256)
            line = facts | {"images": name, "accuracy": found}
            append_record(arguments.record / f"{benchmark}.jsonl", line)


if __name__ == "__main__":
    main()
