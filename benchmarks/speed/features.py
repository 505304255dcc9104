"""Corrections on features of ImageNet-LT's size, which never run a backbone.

python benchmarks/speed/features.py

115,846 training, 20,000 validation and 50,000 test vectors of 2,048 dimensions and 1,000 classes are
generated. The published procedure runs the backbone over the images for every epoch of cRT and LWS
and, for tau and NCM, over all splits once; its time is computed from the measured throughput of
ResNeXt-50's forward pass on this machine. Every part is measured in a process of its own, so that peak
memory is its own too. Appends a record to results/features.jsonl.

Time: about three minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from longtail.adjust import (
    Retraining,
    learn_scales,
    nearest_class_mean,
    retrain_classifier,
    tau_curve,
    tau_normalize,
)
from longtail.core import ClassCounts
from longtail.engine.hardware import describe_environment
from longtail.evaluation import confusion_matrix, macro_accuracy
from longtail.models import build_backbone

WIDTH, CLASSES = 2048, 1000
SIZES = {"train": 115_846, "val": 20_000, "test": 50_000}
PASSES = {
    "tau": 1,
    "ncm": 1,
    "lws": 5,
    "crt": 10,
}  # of the backbone over train in the published code
TARGETS = {"tau": 10, "ncm": 20, "lws": 90, "crt": 90}


def class_counts() -> ClassCounts:
    """Return counts of a Pareto-like tail, 1280 to 5, that sum to ImageNet-LT's size."""
    ranks = np.arange(1, CLASSES + 1, dtype=np.float64)
    low, high = 0.1, 3.0
    for _ in range(100):  # the exponent that gives the published number of images
        middle = (low + high) / 2
        total = np.clip(1280 * ranks**-middle, 5, 1280).round().sum()
        low, high = (middle, high) if total > SIZES["train"] else (low, middle)
    counts = np.clip(1280 * ranks**-low, 5, 1280).round().astype(np.int64)
    counts[10] += SIZES["train"] - counts.sum()
    return ClassCounts(counts)


def generate(split: str, counts: ClassCounts) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features [N, 2048] and labels [N] of one split: noise around a direction per class."""
    generator = torch.Generator().manual_seed(len(split))
    if split == "train":
        labels = torch.repeat_interleave(torch.arange(CLASSES), counts.tensor())
    else:
        labels = torch.arange(CLASSES).repeat_interleave(SIZES[split] // CLASSES)
    centres = torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(0))
    features = torch.empty(len(labels), WIDTH)
    for rows in torch.split(torch.arange(len(labels)), 8192):
        noise = torch.randn(len(rows), WIDTH, generator=generator)
        features[rows] = (0.05 * centres[labels[rows]] + noise).relu_()
    return features, labels


def measure(name: str) -> dict[str, Any]:
    """Run one correction from features in memory to test scores."""
    counts = class_counts()
    test, test_labels = generate("test", counts)
    norms = counts.tensor(torch.float32) ** 0.25
    weight = torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(0))
    weight *= (norms / norms.mean() / WIDTH**0.5)[:, None]
    bias = torch.zeros(CLASSES)
    fitted, labels = generate("val" if name == "tau" else "train", counts)
    begin = time.perf_counter()
    if name == "tau":
        curve = tau_curve(fitted, labels, weight)
        logits = test @ tau_normalize(weight, curve.best).T
    elif name == "ncm":
        classifier = nearest_class_mean(fitted, labels, CLASSES)
        logits = torch.cat([classifier.scores(part) for part in torch.split(test, 4096)])
    elif name == "lws":
        joint = torch.addmm(bias, fitted, weight.T)
        del fitted  # the scales need the logits only
        scales = learn_scales(joint, labels, counts, Retraining(epochs=5))
        logits = torch.addmm(scales * bias, test, (scales[:, None] * weight).T)
    else:
        new, offset = retrain_classifier(fitted, labels, counts, Retraining(epochs=10))
        logits = torch.addmm(offset, test, new.T)
    predicted = logits.argmax(dim=1).numpy()
    accuracy = macro_accuracy(confusion_matrix(test_labels.numpy(), predicted, CLASSES))
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "peak_memory_gb": peak / 1e9, "test_accuracy": accuracy}


def throughput(batch_size: int = 8, repetitions: int = 3) -> float:
    """Return images of 224 pixels per second through ResNeXt-50, forward only, best of some."""
    network = build_backbone("resnext50").eval().to(memory_format=torch.channels_last)
    images = torch.randn(batch_size, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    best = 0.0
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        network(images)
        for _ in range(repetitions):
            begin = time.perf_counter()
            network(images)
            best = max(best, batch_size / (time.perf_counter() - begin))
    return best


def main() -> None:
    """Measure every correction and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=TARGETS)
    parser.add_argument("--record", type=Path, default=Path("results/features.jsonl"))
    args = parser.parse_args()
    if args.only:
        print(json.dumps(measure(args.only)))
        return
    speed = throughput()
    lines = []
    for name, target in TARGETS.items():
        command = [sys.executable, __file__, "--only", name]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found = json.loads(done.stdout)
        passed = PASSES[name] * SIZES["train"] + SIZES["test"]
        passed += SIZES["val"] if name == "tau" else 0
        published = passed / speed
        lines.append({
            "correction": name, "target_seconds": target, **found,
            "published_images": passed, "published_seconds": published,
            "ratio": published / found["seconds"],
        })  # fmt: skip
        print(lines[-1])
    environment = describe_environment(torch.device("cpu"))
    record = {
        "command": " ".join(["python", *sys.argv]),
        "date": f"{datetime.now():%Y-%m-%dT%H:%M:%S}",
        **{key: environment[key] for key in ("commit", "hardware", "versions")},
        "backbone_images_per_second": speed,
        "lines": lines,
    }
    with args.record.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
