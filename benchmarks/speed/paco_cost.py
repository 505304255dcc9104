"""What PaCo's second view and its loss cost.

python benchmarks/speed/paco_cost.py

ResNet-32 on images of 32 pixels: one training step of PaCo against one of balanced softmax on the same
network, in turns in one process; then the share of the loss in PaCo's step, and the loss alone at
ImageNet's sizes (batch 128, queue 8,192, 1,000 classes, 128 dimensions). Appends a record to
results/paco-cost.jsonl.

Time: about two minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from longtail.core import Batch, ClassCounts, Position, ShotGroups
from longtail.engine.hardware import describe_environment
from longtail.engine.optimisation import build_optimizer, prepare_stage, training_mode
from longtail.engine.options import TrainingConfig
from longtail.engine.step import StepFunction
from longtail.losses import contrast, paco
from longtail.methods import METHODS, Setting
from longtail.models.options import ModelConfig

CPU = torch.device("cpu")
COUNTS = ClassCounts([int(500 * 0.01 ** (c / 99)) for c in range(100)])
PACO = {"alpha": 0.01, "temperature": 0.05, "projection_width": 32, "queue": 1024}


def stepper(name: str, options: dict[str, Any], batch: Batch) -> Callable[[], object]:
    """Return a function that takes one training step."""
    model = ModelConfig(backbone="resnet32")
    groups = ShotGroups.from_counts(COUNTS)
    setting = Setting(COUNTS, groups, 40, model.build, model.build_experts)
    kind: Any = METHODS[name]
    method = kind(kind.Config.model_validate({"name": name, **options}), setting)
    method = method.to(memory_format=torch.channels_last)
    stage, config = method.stages()[0], TrainingConfig(nesterov=False)
    prepare_stage(method, stage, 0, 0)
    training_mode(method, stage)
    optimizer = build_optimizer(method, stage, config)
    step, at = StepFunction(method, config, CPU), Position(0, 0, 0, 1, 40)

    def take() -> object:
        out = step([batch], at, optimizer)
        method.after_step(out, at)
        return out

    return take


def loss_alone(batch: int, queue: int, classes: int, width: int) -> Callable[[], object]:
    """Return a function that computes PaCo's loss and its gradients on random inputs."""
    generator = torch.Generator().manual_seed(0)

    def unit(rows: int) -> torch.Tensor:
        return F.normalize(torch.randn(rows, width, generator=generator), dim=1)

    q, k, kept = unit(batch).requires_grad_(), unit(batch), unit(queue)
    z = torch.randn(batch, classes, generator=generator).requires_grad_()
    labels = torch.randint(classes, (batch,), generator=generator)
    kept_labels = torch.randint(classes, (queue,), generator=generator)
    prior = torch.full((classes,), 1 / classes).log()

    def compute() -> object:
        pairs = contrast(q, k, kept, labels, kept_labels, 0.05)
        loss = paco(z, pairs, labels, log_prior=prior, alpha=0.01).loss.mean()
        return torch.autograd.grad(loss, [q, z])

    return compute


def seconds(function: Callable[[], object], calls: int) -> float:
    """Return the mean time of a call."""
    begin = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - begin) / calls


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--record", type=Path, default=Path("results/paco-cost.jsonl"))
    args = parser.parse_args()
    views = tuple(
        torch.randn(128, 3, 32, 32).contiguous(memory_format=torch.channels_last) for _ in range(2)
    )
    batch = Batch(views, torch.randint(100, (128,)), torch.arange(128))
    two = stepper("paco", PACO, batch)
    one = stepper("single-head", {"loss": "balanced-softmax"}, batch)
    small, large = loss_alone(128, 1024, 100, 32), loss_alone(128, 8192, 1000, 128)
    times: dict[str, list[float]] = {"paco": [], "single view": [], "loss": [], "large loss": []}
    for repetition in range(args.repetitions + 1):
        measured = {
            "paco": seconds(two, 5), "single view": seconds(one, 5),
            "loss": seconds(small, 20), "large loss": seconds(large, 5),
        }  # fmt: skip
        if repetition:  # the first one warms up
            for name, value in measured.items():
                times[name].append(value)
    ratios = sorted(a / b for a, b in zip(times["paco"], times["single view"], strict=True))
    shares = sorted(a / b for a, b in zip(times["loss"], times["paco"], strict=True))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        large()
    total = sum(event.self_cpu_time_total for event in profile.key_averages())
    allocating = sum(
        event.self_cpu_time_total
        for event in profile.key_averages()
        if event.key in ("aten::empty", "aten::empty_like", "aten::empty_strided", "aten::resize_")
    )
    environment = describe_environment(CPU)
    record = {
        "command": " ".join(["python", *sys.argv]),
        "date": f"{datetime.now():%Y-%m-%dT%H:%M:%S}",
        **{key: environment[key] for key in ("commit", "hardware", "versions")},
        "repetitions": args.repetitions,
        "step_ratio": {
            "median": statistics.median(ratios), "spread": [ratios[0], ratios[-1]], "target": 1.6,
        },
        "share_of_the_loss": {
            "median": statistics.median(shares), "spread": [shares[0], shares[-1]], "target": 0.03,
        },
        "large_loss_milliseconds": 1e3 * statistics.median(times["large loss"]),
        "large_loss_share_of_allocation": allocating / total,
    }  # fmt: skip
    print(json.dumps(record, indent=1))
    with args.record.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
