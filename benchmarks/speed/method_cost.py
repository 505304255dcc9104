"""What training with each method costs, against cross-entropy: steps of every stage, and predictions.

    LONGTAIL_DATA=DATA python benchmarks/speed/method_cost.py [--recipes NAME ...]

Each recipe of CIFAR-100-LT goes through all its stages on a part of the training images of each class, at
least four steps an epoch and five epochs a stage, so that what a method does late in training has its share.
The CPU seconds of a step, times the steps of the real schedule, are the cost of its training. What is done
once (fits, surveys, features of a frozen part) is not counted. Cross-entropy is measured before and after
each recipe, and the recipe relative to the mean of both: the speed of a shared processor changes within an
hour. One thread, fp32. Appends a record to results/method-cost.jsonl after each recipe; recipes that it holds
are left out.

DO is measured by do_cost.py: its later stages follow from what the first one found.

Time: about a minute of a core a recipe, and ten for glmc.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from network_cost import CPU
from numpy.typing import NDArray

from longtail import api
from longtail.core import Protocol
from longtail.data.source_to_batch import open_data
from longtail.engine import RunFolder, Trainer
from longtail.engine.checkpoint import CheckpointMetadata
from longtail.engine.log import SilentLog
from longtail.engine.streams import build_sampler
from longtail.recipes import resolve
from longtail.runs import append_measurement

REFERENCE = "cross-entropy"
RECIPES = (
    REFERENCE, "balanced-softmax", "crt", "ace", "balms", "balpoe", "bbn", "bcl", "cc-sam", "cmo",
    "elf", "fslwf", "gcl", "glmc", "gpaco", "h2t", "kcl", "lfme", "mdcs", "mislas", "ncl",
    "paco", "proco", "reslt", "reslt-experts", "ride", "ride-distilled", "ride-router", "rsg",
    "sade", "sam", "shike", "supcon", "sure", "tde", "tsc", "weight-balancing",
)  # fmt: skip
COMPARED = ("training_seconds", "prediction_seconds")
STEPS, EPOCHS = 4, 5


class StepTimes(SilentLog):
    """CPU seconds of the steps of each epoch of each stage."""

    def __init__(self) -> None:
        self.of_stage: dict[str, list[list[float]]] = {}
        self._name, self._since = "", 0.0

    def typical(self, stage: str) -> float:
        """Return the mean over epochs of their median step."""
        return statistics.mean(statistics.median(epoch) for epoch in self.of_stage[stage] if epoch)

    def stage(self, name: str, epochs: int, first: int, steps: int) -> None:
        """Begin a stage."""
        self._name = name

    def step(self, step: int, loss: Callable[[], float], rate: float, speed: float) -> None:
        """Keep the time of a step; an epoch's first one waits for what comes before it."""
        now = time.process_time()
        if step == 0:
            self.of_stage.setdefault(self._name, []).append([])
        else:
            self.of_stage[self._name][-1].append(now - self._since)
        self._since = now


def measured(recipe: str, epochs: int = EPOCHS) -> dict[str, Any]:
    """Return CPU seconds of the whole training of a recipe, by stage, and of a prediction."""
    config = resolve(f"cifar100-lt/{recipe}", ["precision=fp32"])
    data = open_data(config.data)
    train = data.split("train")
    method = api.build(config, config.model, data.manifest.class_counts(), data.images.size)
    method = method.to(memory_format=torch.channels_last)
    stages = tuple(method.stages())
    method.stages = lambda: [  # type: ignore[method-assign]
        replace(stage, epochs=min(epochs, stage.epochs), steps=None) for stage in stages
    ]
    log = StepTimes()
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder))
        run.checkpoints.mkdir(parents=True)
        metadata = CheckpointMetadata(
            method=config.method_name, classes=train.manifest.classes,
            class_counts=train.manifest.class_counts().values, corrections=method.corrections(),
            mean=data.mean, std=data.std, image_size=data.images.size, stage=0, epoch=0, epochs_done=0,
            finished=False,
        )  # fmt: skip
        share = STEPS * config.training.batch_size / len(train.manifest)
        few = train.take(thinned(train.manifest.labels, share))
        Trainer(
            method, few, config.training, Protocol(has_val=False), run, metadata, CPU, log
        ).run()
    seconds = {}
    for number, stage in enumerate(stages):
        if stage.name in log.of_stage:
            steps = stage.epochs * build_sampler(train, config.training, number, stage, 0).steps
            seconds[stage.name] = steps * log.typical(stage.name)
    return {
        "recipe": recipe,
        "epochs": {stage.name: stage.epochs for stage in stages if stage.epochs},
        "batch_size": config.training.batch_size,
        "seconds_by_stage": seconds,
        "training_seconds": sum(seconds.values()),
        "prediction_seconds": prediction(method),
        "weights": sum(p.numel() for p in method.parameters()),
    }


def thinned(labels: NDArray[np.int64], share: float) -> NDArray[np.int64]:
    """Return the rows of a share of each class, rounded up, and at least two where it has them."""
    rows = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return np.sort(np.concatenate([own[: max(2, math.ceil(share * len(own)))] for own in rows]))


def prediction(method: torch.nn.Module) -> float:
    """Return the CPU seconds of predicting 128 images, the median of ten."""
    method.eval()
    images = torch.randn(128, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    found = []
    with torch.inference_mode():
        for _ in range(11):
            begin = time.process_time()
            method.predict(images)  # type: ignore[operator]
            found.append(time.process_time() - begin)
    return statistics.median(found[1:])


def main() -> None:
    """Measure and write the records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=RECIPES)
    parser.add_argument("--record", type=Path, default=Path("results/method-cost.jsonl"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    known = args.record.read_text(encoding="utf-8").splitlines() if args.record.exists() else []
    done = {json.loads(line)["recipe"] for line in known}
    measured(REFERENCE, 2)  # the first run of a process meets new memory
    before = measured(REFERENCE, 2)
    for recipe in args.recipes:
        if recipe not in done:
            line = measured(recipe)
            after = measured(REFERENCE, 2)
            line["reference"] = {kind: [before[kind], after[kind]] for kind in COMPARED}
            print(line, flush=True)
            append_measurement(args.record, line)
            before = after


if __name__ == "__main__":
    main()
