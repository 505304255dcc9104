"""How many wrong labels `longtail data labels` finds on CIFAR-100-LT with 5 % of them changed, by shot group.

    LONGTAIL_DATA=... python benchmarks/accuracy/wrong_labels.py --cache FILE.npz [--seeds 3]

The labels of 5 % of the 10,847 training images (imbalance ratio 100) are changed: to any other class with
equal probability (symmetric), or to one of the five classes with the most similar mean features (similar).
The labels are judged on frozen features of EfficientNet-Lite0 (embedded weights, 96 pixels), kept in FILE.
Recorded for the first 5 % of the ranking: which share of the changed labels is among them (recall), and which
share of them was changed (precision), overall and by the shot group of the label that an image has; and the
same for the labels that are called suspicious. Labels of CIFAR-100 that are wrong already count as right.
`adjusted` ranks by p(label) - t_label instead, and `rarest` by class count alone. Shrinkage and factor of the
classifier were chosen on draws 0 to 2 by the same measure; recorded are draws 10 to 12.
Time: about two CPU seconds for each draw, and once, for the features, about three minutes on one thread (146
to 190 seconds for the same images in results/pretrained.jsonl).
Appends a line per kind to results/wrong-labels.jsonl.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from longtail.core import ClassCounts, ShotGroups
from longtail.core.groups import GROUP_NAMES
from longtail.data.images.storage import ArrayImages
from longtail.data.options import CifarData, LongTail
from longtail.data.source_to_batch import open_data
from longtail.evaluation.label_quality import LabelQuality, judge_labels
from longtail.models import build_backbone
from longtail.runs.records import append_measurement

FIRST_SEED = 10  # shrinkage and factor were chosen on earlier ones
SHARE, SIDE, SIMILAR = 0.05, 96, 5


def read_features(cache: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return features [N, D] and labels [N] of the training images, from the file if it is there."""
    if not cache.exists():
        config = CifarData(name="cifar100", long_tail=LongTail(imbalance_ratio=100), download=False)
        data = open_data(config).split("train")
        assert isinstance(data.images, ArrayImages)
        network = build_backbone("tf_efficientnet_lite0", weights="embedded", enlarge_to=SIDE)
        network = network.eval().to(memory_format=torch.channels_last)
        with torch.inference_mode():
            parts = torch.split(data.images.pixels, 16)
            found = torch.cat([network((part.float() / 255 - 0.5) / 0.5) for part in parts])
        np.savez(cache, features=found.numpy(), labels=data.manifest.labels)
    with np.load(cache) as kept:
        return kept["features"], kept["labels"]


def changed(
    features: NDArray[np.float32], labels: NDArray[np.int64], kind: str, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return labels of which 5 % are wrong, and which ones."""
    generator = np.random.default_rng([2026, seed])
    classes = int(labels.max()) + 1
    rows = generator.permutation(len(labels))[: round(SHARE * len(labels))]
    means = np.stack([features[labels == label].mean(axis=0) for label in range(classes)])
    means -= means.mean(axis=0)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    likeness = means @ means.T
    np.fill_diagonal(likeness, -np.inf)
    others = np.argsort(-likeness, axis=1)[:, : SIMILAR if kind == "similar" else classes - 1]
    given = labels.copy()
    for row in rows:
        given[row] = generator.choice(others[labels[row]])
    return given, np.isin(np.arange(len(labels)), rows)


def shares(
    chosen: NDArray[np.bool_], wrong: NDArray[np.bool_], groups: NDArray[np.str_]
) -> dict[str, float]:
    """Return recall and precision of the chosen rows, overall and by group."""
    found: dict[str, float] = {}
    for name in ("all", *GROUP_NAMES):
        inside = np.ones(len(wrong), bool) if name == "all" else groups == name
        right = (chosen & wrong & inside).sum()
        found[f"recall_{name}"] = float(right / max(1, (wrong & inside).sum()))
        found[f"precision_{name}"] = float(right / max(1, (chosen & inside).sum()))
    return found


def first(score: NDArray[np.float64], number: int) -> NDArray[np.bool_]:
    """Return which rows have the smallest scores."""
    chosen = np.zeros(len(score), bool)
    chosen[np.argsort(score, kind="stable")[:number]] = True
    return chosen


def measure(
    quality: LabelQuality, given: NDArray[np.int64], wrong: NDArray[np.bool_]
) -> dict[str, dict[str, float]]:
    """Return the shares of each way of choosing."""
    counts = np.bincount(given, minlength=int(given.max()) + 1)
    rule = ShotGroups.from_counts(ClassCounts(tuple(counts.tolist())), "threshold")
    groups = np.array(GROUP_NAMES)[list(rule.assignment)][given]
    number = round(SHARE * len(given))
    thresholds = np.bincount(given, quality.own) / counts
    return {
        "ranking": shares(first(quality.margin, number), wrong, groups),
        "suspicious": shares(quality.suspicious, wrong, groups)
        | {"called": float(quality.suspicious.mean())},
        "adjusted": shares(first(quality.own - thresholds[given], number), wrong, groups),
        "rarest": shares(first(counts[given].astype(float), number), wrong, groups),
    }


def main() -> None:
    """Measure both kinds of wrong labels and record them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--record", type=Path, default=Path("results/wrong-labels.jsonl"))
    arguments = parser.parse_args()
    features, labels = read_features(arguments.cache)
    for kind in ("symmetric", "similar"):
        begin, found = time.process_time(), []
        for seed in range(FIRST_SEED, FIRST_SEED + arguments.seeds):
            given, wrong = changed(features, labels, kind, seed)
            quality = judge_labels(features, given, int(labels.max()) + 1, seed=seed)
            found.append(measure(quality, given, wrong))
            print(kind, seed, found[-1]["ranking"], flush=True)
        line = {
            "benchmark": "wrong-labels", "kind": kind, "images": len(labels), "share": SHARE,
            "features": f"tf_efficientnet_lite0 at {SIDE} pixels", "seeds": arguments.seeds,
            "cpu_seconds_a_seed": round((time.process_time() - begin) / arguments.seeds, 1),
        }  # fmt: skip
        for way in found[0]:
            for spread, function in (("mean", np.mean), ("std", lambda v: np.std(v, ddof=1))):
                line[f"{way}_{spread}"] = {
                    key: round(float(function([one[way][key] for one in found])), 3)
                    for key in found[0][way]
                }
        append_measurement(arguments.record, line)


if __name__ == "__main__":
    main()
