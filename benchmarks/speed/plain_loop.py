"""The loop of the papers' codes, written with library parts: the peer of the speed benchmark.

torchvision's CIFAR class with PIL transforms, a DataLoader, fp32, and `.item()` in every step. Network,
optimiser, schedule and long-tailed cut are those of `cifar100-lt/cross-entropy`, so that only the way
of feeding and stepping differs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets, transforms

from longtail.data.sources.cifar import MEAN, STD
from longtail.data.splits.long_tail import profile_counts, published_ranks
from longtail.engine.options import TrainingConfig
from longtail.engine.schedule import learning_rate
from longtail.models import LinearHead, build_backbone

BATCH = 128
CPU = torch.device("cpu")


class _Cifar(datasets.CIFAR100):
    """torchvision's class on a copy whose images are in another order, which its MD5 refuses."""

    def _check_integrity(self) -> bool:
        return True

    def _load_meta(self) -> None:
        self.classes = [str(label) for label in range(100)]


class Cutout:
    """One black square of 16 pixels on a tensor image."""

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """Return the image [3, 32, 32] with its hole."""
        y, x = np.random.randint(32), np.random.randint(32)
        image[:, max(0, y - 8) : y + 8, max(0, x - 8) : x + 8] = 0
        return image


def transform(kind: str) -> Callable[[Any], torch.Tensor]:
    """Return the PIL transform called `standard`, `autoaugment-cutout` or `test`."""
    steps: list[Any] = []
    if kind != "test":
        steps += [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
    if kind == "autoaugment-cutout":
        steps.append(transforms.AutoAugment(transforms.AutoAugmentPolicy.CIFAR10))
    steps.append(transforms.ToTensor())
    if kind == "autoaugment-cutout":
        steps.append(Cutout())
    return transforms.Compose([*steps, transforms.Normalize(MEAN, STD)])


def long_tailed(root: Path, kind: str) -> Dataset[Any]:
    """Return the published cut of CIFAR-100 at ratio 100."""
    full = _Cifar(str(root), train=True, transform=transform(kind))
    labels = np.array(full.targets)
    counts = profile_counts("exponential", 100, 500, 100)
    kept = [
        np.flatnonzero(labels == label)[ranks]
        for label, ranks in enumerate(published_ranks(counts, np.bincount(labels)))
    ]
    rows = np.concatenate(kept)
    full.data, full.targets = full.data[rows], labels[rows].tolist()
    return full


class PlainLoop:
    """Network, optimiser and loader.

    Args:
        root: Folder of the archive.
        kind: Augmentation.
        workers: Of the DataLoader.
        seed: Of everything, set globally as the papers' codes do.
        device: Where to compute.
    """

    def __init__(
        self,
        root: Path,
        kind: str,
        workers: int,
        seed: int = 0,
        device: torch.device = CPU,
    ) -> None:
        torch.manual_seed(seed)
        np.random.seed(seed)
        backbone = build_backbone("resnet32")
        self.network = nn.Sequential(backbone, LinearHead(backbone.num_features, 100)).to(device)
        self.device = device
        self.config = TrainingConfig()
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
        )
        self.loader = DataLoader(
            long_tailed(root, kind),
            batch_size=BATCH,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            persistent_workers=workers > 0,
        )
        self.test = DataLoader(
            _Cifar(str(root), train=False, transform=transform("test")),
            batch_size=BATCH,
            num_workers=workers,
            persistent_workers=workers > 0,
        )

    def epoch(self, number: int, epochs: int) -> float:
        """Train one epoch; return images per second."""
        self.network.train()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, number, epochs)
        begin, seen, total = time.perf_counter(), 0, 0.0
        for images, labels in self.loader:
            logits = self.network(images.to(self.device))
            loss = F.cross_entropy(logits, labels.to(self.device))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += loss.item()
            seen += len(labels)
        return seen / (time.perf_counter() - begin)

    def evaluate(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], float]:
        """Return labels, predictions and seconds over the 10,000 test images."""
        self.network.eval()
        begin, labels, predicted = time.perf_counter(), [], []
        with torch.no_grad():
            for images, known in self.test:
                predicted.append(self.network(images.to(self.device)).argmax(1).cpu())
                labels.append(known)
        seconds = time.perf_counter() - begin
        return torch.cat(labels).numpy(), torch.cat(predicted).numpy(), seconds
