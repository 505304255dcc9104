"""What branches, experts and several networks cost: parameters, FLOPs, time of training and inference.

python benchmarks/speed/network_cost.py

ResNet-32 on images of 32 pixels, 100 classes. Plain cross-entropy and the others run in turns in one
process; ratios are medians over the pairs. A step of BBN sees two batches, one per stream, and counts as one.
Appends a record to results/network-cost.jsonl.

Time: about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from longtail.core import Batch, ClassCounts, Position, ShotGroups
from longtail.engine.hardware import autocast, resolve_precision
from longtail.engine.optimisation import build_optimizer, prepare_stage
from longtail.engine.options import TrainingConfig
from longtail.engine.step import StepFunction
from longtail.methods import METHODS, Method, Setting
from longtail.models.options import ModelConfig
from longtail.runs import append_measurement

CPU = torch.device("cpu")
COUNTS = ClassCounts([int(500 * 0.01 ** (c / 99)) for c in range(100)])
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "cross-entropy": ("single-head", {}),
    "reslt, batchnorm head": ("reslt", {}),
    "reslt, convolution head": ("reslt", {"head": "convolution"}),
    "reslt, three experts": ("reslt", {"experts": 3}),
    "three narrow experts (SADE)": ("experts", {}),
    "three experts of full width (BalPoE)": ("experts", {"narrow": False}),
    "two branches (BBN)": ("bbn", {}),
    "three networks (NCL)": ("ncl", {}),
    "normalised heads (TDE)": ("tde", {}),
    "side exits (ELF)": ("elf", {}),
}
TARGETS = {"inference": 1.05, "training": 1.15}


def build(name: str, options: dict[str, Any]) -> Method:
    """Build a method on ResNet-32."""
    model = ModelConfig(backbone="resnet32")
    groups = ShotGroups.from_counts(COUNTS)
    setting = Setting(COUNTS, groups, 40, model.build, model.build_experts)
    kind: Any = METHODS[name]
    method: Method = kind(kind.Config(**options), setting)
    return method.to(memory_format=torch.channels_last)


def runners(method: Method, batch: Batch) -> dict[str, Callable[[], object]]:
    """Return functions that take one training step and predict one batch."""
    config = TrainingConfig()
    stage = method.stages()[0]
    prepare_stage(method, stage, 0, 0)
    optimizer = build_optimizer(method, stage, config)
    step = StepFunction(method, config, CPU)
    precision = resolve_precision(config.precision, CPU)

    def train() -> object:
        method.train()
        return step([batch] * len(stage.samplings), Position(0, 0, 0, 0, 40), optimizer)

    def predict() -> object:
        method.eval()
        with torch.inference_mode(), autocast(precision, CPU):
            return method.predict(batch.images)

    return {"training": train, "inference": predict}


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--record", type=Path, default=Path("results/network-cost.jsonl"))
    args = parser.parse_args()
    images = torch.randn(128, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    batch = Batch((images,), torch.randint(100, (128,)), torch.arange(128))
    methods = {row: build(*what) for row, what in ROWS.items()}
    made = {row: runners(method, batch) for row, method in methods.items()}
    seconds: dict[str, dict[str, list[float]]] = {row: {} for row in ROWS}
    for repetition in range(args.repetitions + 1):
        for kind, steps in (("training", 6), ("inference", 12)):
            for row in ROWS:
                begin = time.perf_counter()
                for _ in range(steps):
                    made[row][kind]()
                if repetition:  # the first one warms up
                    spent = (time.perf_counter() - begin) / steps
                    seconds[row].setdefault(kind, []).append(spent)
    lines = []
    for row, method in methods.items():
        method.eval()
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            method.predict(images[:1])
        line: dict[str, Any] = {
            "row": row,
            "parameters": sum(p.numel() for p in method.parameters()),
            "inference_flops": counter.get_total_flops(),
        }
        for kind, target in TARGETS.items():
            ratio, spread = ratio_of(seconds[row][kind], seconds["cross-entropy"][kind])
            line[kind] = {
                "microseconds_per_image": 1e6 * statistics.median(seconds[row][kind]) / 128,
                "ratio": ratio,
                "spread": spread,
                "target": target,
            }
        lines.append(line)
        print(line)
    append_measurement(args.record, {"repetitions": args.repetitions, "lines": lines})


def ratio_of(own: list[float], other: list[float]) -> tuple[float, list[float]]:
    """Return the median ratio of times that were taken in turns, and its spread without the outer tenths."""
    ratios = sorted(a / b for a, b in zip(own, other, strict=True))
    return statistics.median(ratios), [ratios[len(ratios) // 10], ratios[-1 - len(ratios) // 10]]


if __name__ == "__main__":
    main()
