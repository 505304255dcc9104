"""Compare readings of DO's release after one trained stage 1: what is left of its network.

    python benchmarks/do_release.py runs/reproduce/do-ablations/short/do/seed-1

The paper does not say how often importance is measured, on whose pictures, from which gradients, and whether
the statistics of the normalisation are taken anew when the last weights are gone. Each reading releases 80 %
of the weights of the same network (the default 50 %, too), retrains by its schedule and is scored on left-out
pictures (see left_out.py), as it is and with statistics of 100 batches of its stage. Appends a line per
reading to results/do-release.jsonl.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import of_runs
import torch
from left_out import left_out
from torch import Tensor, nn

from longtail import api
from longtail.core import Protocol
from longtail.core.panel import accuracy_by_group, class_accuracy
from longtail.core.stage import Stage
from longtail.data.loader import evaluation_batches
from longtail.data.pictures import DataSet
from longtail.engine import RunFolder, Trainer
from longtail.engine import checkpoint as ckpt
from longtail.engine.config import TrainingConfig
from longtail.engine.hardware import autocast, resolve_precision
from longtail.engine.log import SilentLog
from longtail.engine.streams import build_loaders
from longtail.methods.do import DO
from longtail.models.allotment import Allotment
from longtail.runs import Run, append_record

CPU = torch.device("cpu")
BATCHES = 100  # that statistics are taken from
READINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "ranking follows with every tenth": {"importance_refresh": "tenth"},
    "ranked once, before the release": {"importance_refresh": "once"},
    "gradients of each class": {"gradients": "class"},
    "pictures of all classes": {"importance_classes": "all"},
    "gradients of the label's probability": {"importance_loss": "probability"},
    "absolute in place of squared change": {"importance": "taylor-absolute"},
    "random, a control": {"importance": "random"},
}
RELEASES = ((0.5, "default"), *((0.8, name) for name in READINGS))  # share, reading


class FirstRelease(DO):
    """DO that ends when the weights of group 1 are settled."""

    def stages(self) -> Sequence[Stage]:
        """Return the stages of group 1."""
        return [stage for stage in super().stages() if stage.name.startswith("group 1")]


def accuracy(
    answer: Callable[[Tensor], Tensor],
    data: DataSet,
    training: TrainingConfig,
    groups: dict[str, Tensor],
) -> dict[str, float | None]:
    """Return class-averaged accuracy over all classes and by shot group."""
    labels = torch.from_numpy(data.manifest.labels.copy())
    with torch.inference_mode(), autocast(resolve_precision(training.precision, CPU), CPU):
        answered = (
            (answer(images).argmax(dim=1)[None], labels[rows])
            for images, rows in evaluation_batches(data, device=CPU)
        )
        found = class_accuracy(answered, len(data.manifest.classes))
    places, series = accuracy_by_group(found, ["it"], groups)
    return dict(zip(places, series["it"], strict=True))


def recalibrated(method: FirstRelease, data: DataSet, training: TrainingConfig) -> nn.Module:
    """Return sub-model 1 with normalisation statistics of training batches as its stage draws them."""
    assert isinstance(method.allotment, Allotment)
    network = deepcopy(method.allotment.network)
    network.load_state_dict(method.allotment.settled_weights(1))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the mean over all batches
    network.train()
    loader = build_loaders(data, training, 0, method.stages()[0], method, CPU, print)[0]
    done, epoch = 0, 0
    with torch.no_grad(), autocast(resolve_precision(training.precision, CPU), CPU):
        while done < BATCHES:
            for batch in loader.epoch(epoch):
                if done < BATCHES:
                    network(batch.images)
                    done += 1
            epoch += 1
    return network.eval()


def main() -> None:
    """Release after the first stage of the runs that are given, by every reading."""
    arguments = of_runs.parser(__doc__, "do-release.jsonl").parse_args()
    for path in arguments.runs:
        run, first = Run.open(path), api.load(path, device="cpu", stage=0)
        assert isinstance(first.method, DO)
        place = run.folder.checkpoints / ckpt.checkpoint_name(0, 0, finished=True)
        training, data, shown = run.config.training, run.open_data().split("train"), left_out(run)
        groups = {name: first.groups.mask(name) for name in ("many", "medium", "few")}
        for share, name in RELEASES:
            options = READINGS[name]
            changed = first.method.config.model_copy(update={"release": (share, share), **options})
            torch.manual_seed(training.seed)
            method = FirstRelease(changed, first.method.setting)
            with tempfile.TemporaryDirectory() as folder:
                trainer = Trainer(
                    method, data, training, Protocol(has_val=False), RunFolder(Path(folder)), first.card,
                    CPU, SilentLog(),
                )  # fmt: skip
                trainer.start_from(ckpt.read_weights(place), first.card.epochs_done, str(place))
                trainer.run()
            method.eval()
            own = accuracy(partial(method.allotment.sub_model, stage=1), shown, training, groups)
            anew = accuracy(recalibrated(method, data, training), shown, training, groups)
            line = {
                **of_runs.facts("do-release", run, first.card.weights_sha256),
                "split": "left out",
                "reading": name,
                "options": options,
                "share": share,
                "accuracy": own,
                "with_new_statistics": anew,
            }
            append_record(arguments.record, line)
            print(f"{path}, {share:.0%}, {name}: {own['all']:.3f}, anew {anew['all']:.3f}")


if __name__ == "__main__":
    main()
