"""What features depend on: the network and its weights, how images are prepared, and the images."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from longtail.data.data_set import DataSet
from longtail.data.images.storage import ArrayImages
from longtail.models.weights import weights_checksum

FORMAT = 1  # of the files, and of how this version of longtail prepares images


def about(backbone: nn.Module, data: DataSet, device: torch.device) -> dict[str, Any]:
    """Return everything that features depend on besides the images, as JSON; equal for equal features.

    Args:
        backbone: From normalised images [B, 3, H, W] to features [B, D].
        data: Says how images are prepared; which images it contains does not matter.
        device: Only its kind matters.
    """
    images = data.images
    return {
        "format": FORMAT,
        "network": hashlib.sha256(repr(backbone).encode()).hexdigest(),
        "weights": weights_checksum(backbone),
        "enlarge_to": getattr(backbone, "enlarge_to", None),
        "mean": list(data.mean),
        "std": list(data.std),
        "image_size": images.size,
        "images": type(images).__name__,
        "fit": getattr(images, "fit", None),
        "bit_depth": getattr(images, "bit_depth", None),
        "device": device.type,
        "torch": torch.__version__,
        "timm": importlib.metadata.version("timm"),
    }


def key_of(facts: Mapping[str, Any]) -> str:
    """Return the name of the folder for what `about` returned."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]


def image_digests(data: DataSet) -> list[bytes]:
    """Return the SHA-256 of each image: of its pixels if they are in memory, else of its file."""
    images = data.images
    if isinstance(images, ArrayImages):
        return [
            hashlib.sha256(np.ascontiguousarray(pixels).data).digest()
            for pixels in images.pixels.cpu().numpy()
        ]
    if data.digests:
        return [bytes.fromhex(digest) for digest in data.digests]
    paths: tuple[Path, ...] | None = getattr(images, "paths", None)
    if paths is not None:
        return [hashlib.sha256(path.read_bytes()).digest() for path in paths]
    return [
        hashlib.sha256(np.ascontiguousarray(images.decode(row)).data).digest()
        for row in range(len(images))
    ]
