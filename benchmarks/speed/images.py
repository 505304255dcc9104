"""Measure the data path of large images on 5,000 generated JPEG files of 500 x 375 pixels.

    python benchmarks/speed/images.py

Each line is a ratio of medians of alternating repetitions in one run on one machine, with the smallest and
largest ratio of a pair. The peer is what the papers' codes use: ImageFolder, torchvision's transforms on
Pillow images, and a DataLoader with its best worker count. No network runs: this is the data path alone.

Time: three to seven minutes on two cores for what is measured, by the recorded rates; writing the images
comes on top. Appends to results/images.jsonl.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision import datasets, transforms
from training import CPU, REPEATS, Line, compare

from longtail.core import ClassCounts
from longtail.core.stage import Sampling
from longtail.data.data_set import DataSet
from longtail.data.images.decode import ImageFile
from longtail.data.options import FolderData
from longtail.data.sampling.loader import TrainingLoader, evaluation_batches
from longtail.data.sampling.samplers import EpochSampler
from longtail.data.source_to_batch import IMAGENET_MEAN, IMAGENET_STD, open_data
from longtail.engine.hardware import describe_environment

CLASSES, EACH, BATCH, SIDE = 50, 100, 128, 224


def generate(root: Path) -> None:
    """Write smooth images with noise, as a camera makes them, about 65 kB each."""

    def write(number: int) -> None:
        generator = np.random.default_rng(number)
        patches = generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        smooth = Image.fromarray(patches).resize((500, 375), Image.Resampling.BICUBIC)
        noise = generator.normal(0, 8, (375, 500, 1)).astype(np.int16)
        pixels = (np.asarray(smooth).astype(np.int16) + noise).clip(0, 255).astype(np.uint8)
        path = root / "train" / f"class-{number % CLASSES:02d}" / f"{number:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, quality=90)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, range(CLASSES * EACH)))


def ours(data: DataSet, workers: int) -> float:
    """Make the batches of one epoch: random resized crop and flip; images per second."""
    labels = data.manifest.labels
    counts = ClassCounts(np.bincount(labels).tolist())
    sampler = EpochSampler(labels, counts, Sampling(), batch_size=BATCH, epochs=1, seed=0, stage=0)
    loader = TrainingLoader(
        data, sampler, ("resized-crop-flip",), device=CPU, seed=0, workers=workers
    )
    return _rate(lambda: sum(len(batch.labels) for batch in loader.epoch(0)))


def theirs(root: Path, workers: int) -> float:
    """The same with ImageFolder, transforms on Pillow images and a DataLoader."""
    steps = transforms.Compose(
        [
            transforms.RandomResizedCrop(SIDE), transforms.RandomHorizontalFlip(),
            transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )  # fmt: skip
    folder = datasets.ImageFolder(str(root / "train"), steps)
    loader = torch.utils.data.DataLoader(
        folder, batch_size=BATCH, shuffle=True, num_workers=workers, drop_last=True
    )
    return _rate(lambda: sum(len(labels) for _, labels in loader))


def evaluated(data: DataSet, workers: int) -> float:
    """Make evaluation batches: shorter side 256, centre; images per second."""
    batches = evaluation_batches(data, batch_size=200, device=CPU, workers=workers)
    return _rate(lambda: sum(len(rows) for _, rows in batches))


def plainly_evaluated(root: Path, workers: int) -> float:
    """The same by torchvision."""
    steps = transforms.Compose(
        [
            transforms.Resize(256), transforms.CenterCrop(SIDE), transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )  # fmt: skip
    folder = datasets.ImageFolder(str(root / "train"), steps)
    loader = torch.utils.data.DataLoader(folder, batch_size=200, num_workers=workers)
    return _rate(lambda: sum(len(labels) for _, labels in loader))


def decoders(files: list[Path]) -> Line:
    """Compare with torchvision's own decoder, which is deprecated since 0.29, on one thread."""
    from torchvision.io import ImageReadMode, decode_jpeg, read_file

    def own() -> float:
        return _rate(lambda: len([ImageFile(file).pixels() for file in files]))

    def torchvision() -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _rate(
                lambda: len([decode_jpeg(read_file(str(f)), mode=ImageReadMode.RGB) for f in files])
            )

    return compare(
        "decoding alone, one thread", "torchvision.io.decode_jpeg (deprecated)",
        "images/s", own, torchvision, None,
    )  # fmt: skip


def _rate(work: Callable[[], int]) -> float:
    begin = time.perf_counter()
    return work() / (time.perf_counter() - begin)


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", type=Path, default=Path("results/images.jsonl"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "images"
        generate(root)
        config = FolderData(name="folder", path=root, test_share=0.01, validation_share=0.01)
        data = open_data(config).split("train")
        begin = time.perf_counter()
        cached = open_data(config.model_copy(update={"cache": Path(folder) / "cache"}))
        building = time.perf_counter() - begin
        size = sum(file.stat().st_size for file in (Path(folder) / "cache").iterdir())
        cached = cached.split("train")
        workers = {n: ours(data, n) for n in (1, 2, 4)}
        own = max(workers, key=workers.__getitem__)
        rates = {n: theirs(root, n) for n in (0, 1, 2)}
        best = max(rates, key=rates.__getitem__)
        peer = f"ImageFolder and DataLoader, {best} workers"
        lines = [
            compare("training images from files", peer, "images/s",
                    lambda: ours(data, own), lambda: theirs(root, best), None),
            compare("training images from the decoded cache", peer, "images/s",
                    lambda: ours(cached, own), lambda: theirs(root, best), None),
            compare("evaluation images from files", peer, "images/s",
                    lambda: evaluated(data, own), lambda: plainly_evaluated(root, best), None),
            compare("evaluation images from the decoded cache", peer, "images/s",
                    lambda: evaluated(cached, own), lambda: plainly_evaluated(root, best), None),
            decoders(sorted(root.rglob("*.jpg"))[:1000]),
        ]  # fmt: skip
    record = {
        "benchmark": "images",
        "date": f"{datetime.now():%Y-%m-%dT%H:%M:%S}",
        "command": " ".join(["python", *sys.argv]),
        **describe_environment(CPU),
        "repeats": REPEATS,
        "files": CLASSES * EACH,
        "threads_of_ours": own,
        "rates_by_threads_of_ours": {str(n): round(rate, 1) for n, rate in workers.items()},
        "rates_by_workers_of_theirs": {str(n): round(rate, 1) for n, rate in rates.items()},
        "cache_bytes": size,
        "cache_seconds": round(building, 1),
        "lines": [asdict(line) for line in lines],
    }
    with arguments.record.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(record) + "\n")
    print(f"written to {arguments.record}")


if __name__ == "__main__":
    main()
