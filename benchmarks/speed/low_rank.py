"""What low-rank additions save: weights that are trained, bytes besides the network, time of a step.

python benchmarks/speed/low_rank.py

A ViT-S/16 on images of 224 pixels, 100 classes, AdamW. Training everything, additions of rank 8, the other
kinds of light fine-tuning and the head alone run in turns in one process; ratios are medians over the pairs.
The weights are random, which changes neither time nor size. Appends a record to results/low-rank.jsonl.

Time: some minutes on two cores.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Literal, get_args

import torch
from network_cost import COUNTS, CPU, ratio_of

from longtail.core import Batch, Position, ShotGroups
from longtail.engine.optimisation import build_optimizer, prepare_stage, training_mode
from longtail.engine.options import TrainingConfig
from longtail.engine.step import StepFunction
from longtail.methods import Setting
from longtail.methods.single_head import SingleHead, SingleHeadOptions
from longtail.models import build_backbone
from longtail.models.light import Kind
from longtail.models.options import ModelConfig
from longtail.runs import append_measurement

Train = Literal["all", "head"]
Way = tuple[int | None, Kind | None, Train]
BACKBONE, SIDE, SIZE = "vit_small_patch16_224", 224, 8
# row: rank, other light fine-tuning, what is trained
ROWS: dict[str, Way] = {
    "everything": (None, None, "all"),
    "additions of rank 8": (8, None, "all"),
    **{kind: (None, kind, "all") for kind in get_args(Kind)},
    "the head": (None, None, "head"),
}
BYTES = 12  # of a trained weight besides itself: gradient and two moments, float32


class Trained:
    """One way to train, and how long its steps took."""

    def __init__(self, rank: int | None, adapter: Kind | None, train: Train) -> None:
        groups = ShotGroups.from_counts(COUNTS)
        setting = Setting(
            COUNTS, groups, 10,
            lambda: build_backbone(BACKBONE, image_size=SIDE, low_rank=rank, adapter=adapter),
            ModelConfig(backbone=BACKBONE).build_experts,
        )  # fmt: skip
        self.method = SingleHead(SingleHeadOptions(train=train), setting)
        config = TrainingConfig(optimizer="adamw", learning_rate=1e-3)
        self.stage = self.method.stages()[0]
        prepare_stage(self.method, self.stage, 0, 0)
        self.optimizer = build_optimizer(self.method, self.stage, config)
        self.step = StepFunction(self.method, config, CPU)
        self.weights = sum(p.numel() for p in self.method.parameters() if p.requires_grad)
        self.seconds: list[float] = []

    def measure(self, batch: Batch, steps: int) -> float:
        """Take some steps and return the seconds of one."""
        training_mode(self.method, self.stage)
        begin = time.perf_counter()
        for _ in range(steps):
            self.step([batch], Position(0, 0, 0, 0, 10), self.optimizer)
        return (time.perf_counter() - begin) / steps


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=11)
    parser.add_argument("--record", type=Path, default=Path("results/low-rank.jsonl"))
    args = parser.parse_args()
    batch = Batch(
        (torch.randn(SIZE, 3, SIDE, SIDE),), torch.randint(100, (SIZE,)), torch.arange(SIZE)
    )
    ways = {row: Trained(*what) for row, what in ROWS.items()}
    for repetition in range(args.repetitions + 1):
        for way in ways.values():
            seconds = way.measure(batch, steps=2)
            if repetition:  # the first one warms up
                way.seconds.append(seconds)
    lines = []
    for row, way in ways.items():
        ratio, spread = ratio_of(way.seconds, ways["everything"].seconds)
        lines.append(
            {
                "row": row,
                "trained_weights": way.weights,
                "megabytes_besides": way.weights * BYTES / 1e6,
                "step_ratio": ratio,
                "spread": spread,
            }
        )
        print(lines[-1])
    measured = {"backbone": BACKBONE, "repetitions": args.repetitions, "lines": lines}
    append_measurement(args.record, measured)


if __name__ == "__main__":
    main()
