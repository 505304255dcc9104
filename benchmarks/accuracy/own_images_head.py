"""How the default for one's own images trains its classifier, chosen on images that measure nothing else.

    LONGTAIL_DATA=... python benchmarks/accuracy/own_images_head.py --cache FOLDER [--draws 6] [--sizes 128]

Each draw takes 12 classes of CIFAR-100's train split that no measured draw of first_minutes.py takes, 150 to
4 images a class to train on and 15 others of each class to score. The frozen features of EfficientNet-Lite0
(embedded weights) are computed once per image size and kept in FOLDER; on them a linear classifier is trained
with balanced softmax, as recipe images/frozen-features does, from random weights and from class means
(`head_start`), at each learning rate, weight decay and number of images seen. At 128 pixels, `mirror` draws
the features of an image or of its mirror image at each step; `both` averages the two features of every image,
of those that are scored too.
Time: 4 CPU minutes for the features of six draws; the classifiers were not timed.
Appends a line per setting, its accuracy that of the last epoch, to results/own-images-head.jsonl.
"""

from __future__ import annotations

import argparse
import itertools
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from first_minutes import COUNTS, held_out_classes
from torch import Tensor, nn

from longtail.core import ClassCounts
from longtail.core.paths import data_root
from longtail.data.images.storage import ArrayImages
from longtail.data.sources.cifar import read_cifar
from longtail.losses import balanced_softmax
from longtail.methods.ingredients.head_start import ClassMeansOptions, start_head
from longtail.models import build_backbone
from longtail.models.heads import LinearHead
from longtail.runs.records import append_record

SCORED = 15  # images of each class
BATCH, MOST_EPOCHS = 32, 100
RATES, DECAYS = (0.003, 0.01, 0.03), (5e-4, 5e-3)
SEEN = (5_000, 20_000)
STARTS = ("random", "class-means")
VIEWS = {128: ("one", "mirror", "both"), 160: ("one",)}  # by image size


@dataclass(frozen=True)
class Draw:
    """Features [V, N, D] of V views, and labels [N], of training images and of those that are scored."""

    train: Tensor
    labels: Tensor
    scored: Tensor
    truth: Tensor


def features(network: nn.Module, pixels: Tensor, mirrored: bool) -> Tensor:
    """Return features [V, N, D] of uint8 images [N, 3, H, W], and of their mirror images if asked for."""
    found = []
    with torch.inference_mode():
        for seen in (pixels, pixels.flip(3))[: 1 + mirrored]:
            parts = torch.split(seen, 8)
            found.append(torch.cat([network((part.float() / 255 - 0.5) / 0.5) for part in parts]))
    return torch.stack(found)


def read_draw(number: int, size: int, cache: Path) -> Draw:
    """Compute the features of a draw, or read them where they were kept."""
    file = cache / f"{number}-{size}.pt"
    if not file.exists():
        data = read_cifar("cifar100", data_root(), download=False)
        manifest, images = data.manifest, data.images
        assert isinstance(images, ArrayImages)
        generator = np.random.default_rng([2026, number])
        rows = []
        for given, count in zip(held_out_classes(number), COUNTS, strict=True):
            own = np.flatnonzero((manifest.labels == given) & (manifest.splits == 0))
            rows.append(generator.permutation(own)[: count + SCORED])
        network = build_backbone("tf_efficientnet_lite0", weights="embedded", enlarge_to=size)
        network = network.eval().to(memory_format=torch.channels_last)
        train = np.concatenate([r[SCORED:] for r in rows])
        scored = np.concatenate([r[:SCORED] for r in rows])
        cache.mkdir(parents=True, exist_ok=True)
        mirrored = len(VIEWS[size]) > 1
        torch.save(
            {
                "train": features(network, images.pixels[train], mirrored),
                "labels": torch.arange(len(COUNTS)).repeat_interleave(torch.tensor(COUNTS)),
                "scored": features(network, images.pixels[scored], mirrored),
                "truth": torch.arange(len(COUNTS)).repeat_interleave(SCORED),
            },
            file,
        )
    return Draw(**torch.load(file, weights_only=True))


def score(draw: Draw, views: str, start: str, rate: float, decay: float, seen: int) -> float:
    """Train a classifier and return its macro accuracy after the last epoch."""
    torch.manual_seed(0)
    if views == "both":
        train, scored = draw.train.mean(0, keepdim=True), draw.scored.mean(0)
    else:
        train, scored = draw.train[: 2 if views == "mirror" else 1], draw.scored[0]
    head = LinearHead(train.shape[2], len(COUNTS))
    if start == "class-means":
        batches = [(view, draw.labels) for view in train]
        start_head(head, ClassMeansOptions(), batches, tuple(map(str, range(len(COUNTS)))))
    optimizer = torch.optim.SGD(
        head.parameters(), lr=rate, momentum=0.9, nesterov=True, weight_decay=decay
    )
    number = len(draw.labels)
    steps, epochs = number // BATCH, min(MOST_EPOCHS, max(1, round(seen / number)))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    counts = ClassCounts(COUNTS)
    for _ in range(epochs):
        order = torch.randperm(number)
        for step in range(steps):
            rows = order[BATCH * step : BATCH * (step + 1)]
            view = torch.randint(len(train), (len(rows),))
            loss = balanced_softmax(head(train[view, rows]), draw.labels[rows], counts)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    right = head(scored).argmax(1) == draw.truth
    return float(right.view(len(COUNTS), SCORED).float().mean())  # classes of one size


def main() -> None:
    """Train every setting on every draw and record it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=6)
    parser.add_argument("--sizes", type=int, nargs="*", default=list(VIEWS))
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--record", type=Path, default=Path("results/own-images-head.jsonl"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for size in arguments.sizes:
        begin = time.process_time()
        draws = [read_draw(number, size, arguments.cache) for number in range(arguments.draws)]
        print(
            f"{size} pixels: {time.process_time() - begin:.0f} CPU seconds for features", flush=True
        )
        for views, start, rate, decay, seen in itertools.product(
            VIEWS[size], STARTS, RATES, DECAYS, SEEN
        ):
            macro = [score(draw, views, start, rate, decay, seen) for draw in draws]
            line = {
                "benchmark": "own-images-head",
                "image_size": size,
                "views": views,
                "head_start": start,
                "learning_rate": rate,
                "weight_decay": decay,
                "images_seen": seen,
                "macro_accuracy": [round(value, 4) for value in macro],
                "mean": round(float(np.mean(macro)), 4),
                "std": round(float(np.std(macro, ddof=1)), 4),
            }
            append_record(arguments.record, line)
            print(line, flush=True)


if __name__ == "__main__":
    main()
