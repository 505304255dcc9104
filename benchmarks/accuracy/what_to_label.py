"""Does labelling what `longtail suggest` names help rare classes more than labelling other images?

    LONGTAIL_DATA=... python benchmarks/accuracy/what_to_label.py --cache FOLDER [--scored left-out]

CIFAR-100-LT (ratio 100) leaves out 39,153 training images. Pools of two kinds are drawn from 16,000 of
them: `left out`, 12,000 by chance, in which rare classes are the frequent ones; and `like training`, up to
3,000 by the class prior of training, as a field season would bring them. A linear classifier with balanced
softmax on frozen features of EfficientNet-Lite0 (embedded weights, 96 pixels) is trained on the 10,847
images, 500 images of the pool are chosen and labelled, and it is trained again. Chosen by: chance;
uncertainty (largest entropy); probability of few-shot classes; the expected gain for rare classes; and
`longtail suggest`, which takes the images that stand for many of large gain. Three seeds draw pool and
training. The way of `longtail suggest` was chosen with `--scored left-out`, which scores 4,000 other left-out
images instead of the test split.
Time: 25 CPU minutes for the features, kept in FOLDER; 10 for the rest.
Appends a line per pool and way to choose to results/what-to-label.jsonl.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from longtail.core import ClassCounts, ShotGroups
from longtail.core.groups import GROUP_NAMES
from longtail.core.paths import data_root
from longtail.data.images.storage import ArrayImages
from longtail.data.sources.cifar import read_cifar
from longtail.data.splits.long_tail import cut
from longtail.losses import balanced_softmax
from longtail.models import build_backbone
from longtail.runs.records import append_measurement
from longtail.uncertainty import expected_gain, rank_for_labelling

SIDE, POOL, BUDGET = 96, 16_000, 500
LEFT_OUT, LIKE_TRAINING = "left out", "like training"
SIZES = {LEFT_OUT: 12_000, LIKE_TRAINING: 3_000}
EPOCHS, BATCH, RATE, DECAY = 8, 128, 0.04, 5e-4


@dataclass(frozen=True)
class Images:
    """Features [N, D] and labels [N]."""

    features: Tensor
    labels: Tensor

    def take(self, rows: np.ndarray) -> Images:
        """Return some of them."""
        return Images(self.features[rows], self.labels[rows])


def read_images(cache: Path) -> dict[str, Images]:
    """Return the images of training, test and pool; features are computed once and kept."""
    file = cache / f"lite0-{SIDE}.pt"
    if not file.exists():
        data = read_cifar("cifar100", data_root(), download=False)
        manifest, images = data.manifest, data.images
        assert isinstance(images, ArrayImages)
        tail = cut(manifest, profile="exponential", imbalance_ratio=100.0)
        train, test = tail.ids[tail.splits == 0], manifest.ids[manifest.splits == 2]
        left = np.setdiff1d(manifest.ids[manifest.splits == 0], train)
        pool = np.sort(np.random.default_rng([2026, 34]).permutation(left)[:POOL])
        ids = np.concatenate([train, test, pool])
        place = {number: row for row, number in enumerate(manifest.ids.tolist())}
        rows = torch.tensor([place[number] for number in ids.tolist()])
        network = build_backbone("tf_efficientnet_lite0", weights="embedded", enlarge_to=SIDE)
        network = network.eval().to(memory_format=torch.channels_last)
        with torch.inference_mode():
            found = [
                network((images.pixels[part].float() / 255 - 0.5) / 0.5).half()
                for part in torch.split(rows, 20)
            ]
        cache.mkdir(parents=True, exist_ok=True)
        content = {
            "features": torch.cat(found),
            "labels": torch.from_numpy(manifest.labels)[rows],
            "parts": torch.tensor([len(train), len(test), len(pool)]),
        }
        torch.save(content, file)
    kept = torch.load(file, weights_only=True)
    features = torch.split(kept["features"].float(), kept["parts"].tolist())
    labels = torch.split(kept["labels"], kept["parts"].tolist())
    names = ("train", "test", "pool")
    return {n: Images(x, y) for n, x, y in zip(names, features, labels, strict=True)}


def trained(images: Images, seed: int) -> nn.Linear:
    """Return a classifier that was trained with balanced softmax."""
    torch.manual_seed(seed)
    counts = ClassCounts(torch.bincount(images.labels))
    head = nn.Linear(images.features.shape[1], len(counts))
    optimizer = torch.optim.SGD(
        head.parameters(), lr=RATE, momentum=0.9, nesterov=True, weight_decay=DECAY
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    for _ in range(EPOCHS):
        for rows in torch.split(torch.randperm(len(images.labels)), BATCH):
            loss = balanced_softmax(head(images.features[rows]), images.labels[rows], counts)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    return head


def accuracies(head: nn.Linear, images: Images, groups: ShotGroups) -> dict[str, float]:
    """Return the class-averaged accuracy of all classes and of each shot group."""
    with torch.no_grad():
        right = (head(images.features).argmax(1) == images.labels).float()
    size = len(groups.assignment)
    tested = torch.bincount(images.labels, minlength=size)
    each = torch.bincount(images.labels, weights=right, minlength=size) / tested
    masks = {"all": torch.ones(size, dtype=torch.bool)} | {n: groups.mask(n) for n in GROUP_NAMES}
    return {name: float(each[mask & (tested > 0)].mean()) for name, mask in masks.items()}


def drawn_pool(
    kind: str, pool: Images, counts: ClassCounts, generator: np.random.Generator
) -> Images:
    """Return the unlabelled images of one seed."""
    order = generator.permutation(len(pool.labels))
    if kind == LEFT_OUT:
        return pool.take(order[: SIZES[kind]])
    # images of each class in proportion to its training images, as far as there are any
    wanted = np.round(counts.prior().numpy() * SIZES[kind]).astype(int)
    rows = [order[pool.labels.numpy()[order] == c][:n] for c, n in enumerate(wanted.tolist())]
    return pool.take(np.concatenate(rows))


def choose(
    way: str,
    pool: Images,
    train: Images,
    head: nn.Linear,
    groups: ShotGroups,
    generator: np.random.Generator,
) -> np.ndarray:
    """Return the rows of the pool that are labelled."""
    with torch.no_grad():
        p = head(pool.features).double().softmax(1).numpy()
    counts = torch.bincount(train.labels).numpy()
    if way == "chance":
        return generator.permutation(len(p))[:BUDGET]
    if way == "uncertainty":
        entropy = -(p * np.log(np.maximum(p, 1e-12))).sum(1)
        return np.argsort(-entropy)[:BUDGET]
    if way == "few-shot probability":
        return np.argsort(-p[:, groups.mask("few").numpy()].sum(1))[:BUDGET]
    if way == "gain":
        return np.argsort(-expected_gain(p, counts))[:BUDGET]
    return rank_for_labelling(p, counts, BUDGET, pool.features.numpy(), generator).rows


WAYS = ("nothing added", "chance", "uncertainty", "few-shot probability", "gain", "suggest")


def main() -> None:
    """Choose, label and train for every pool, way and seed, and record it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--scored", choices=("test", "left-out"), default="test")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--record", type=Path, default=Path("results/what-to-label.jsonl"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    images = read_images(arguments.cache)
    train, pool = images["train"], images["pool"]
    counts = ClassCounts(torch.bincount(train.labels))
    groups = ShotGroups.from_counts(counts)
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for seed in range(arguments.seeds):
        generator = np.random.default_rng([2026, 35, seed])
        order = generator.permutation(len(pool.labels))
        others, held = pool.take(order[:12_000]), pool.take(order[12_000:])
        scored = images["test"] if arguments.scored == "test" else held
        head = trained(train, seed)
        for kind in SIZES:
            unlabelled = drawn_pool(kind, others, counts, generator)
            for way in WAYS:
                more, line = train, {}
                if way != WAYS[0]:
                    rows = choose(way, unlabelled, train, head, groups, generator)
                    chosen = unlabelled.take(rows)
                    few = groups.mask("few")[chosen.labels]
                    line = {"few_shot_images": int(few.sum())}
                    more = Images(
                        torch.cat([train.features, chosen.features]),
                        torch.cat([train.labels, chosen.labels]),
                    )
                line |= accuracies(head if way == WAYS[0] else trained(more, seed), scored, groups)
                found.setdefault((kind, way), []).append(line)
                print(seed, kind, way, line, flush=True)
    if arguments.scored == "test":
        for (kind, way), lines in found.items():
            append_measurement(
                arguments.record,
                {
                    "benchmark": "what-to-label",
                    "pool": kind,
                    "pool_images": SIZES[kind],
                    "chosen_by": way,
                    "added": 0 if way == WAYS[0] else BUDGET,
                    "seeds": arguments.seeds,
                    **{key: [round(line[key], 4) for line in lines] for key in lines[0]},
                },
            )


if __name__ == "__main__":
    main()
