"""Checkpoints of timm and of plain PyTorch networks, to be repaired."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from longtail.core.counts import ClassCounts
from longtail.core.errors import ConfigError, DataError
from longtail.data.config import FolderData, TableData, open_data, read_files
from longtail.engine import checkpoint as ckpt
from longtail.engine.hardware import find_device
from longtail.engine.run_folder import writing
from longtail.models.weights import WRAPPERS, read_content, weights_in
from longtail.recipes import RunConfig
from longtail.repair.corrections import Corrected
from longtail.repair.evidence import Evidence
from longtail.repair.last_layer import LinearModel, collect, last_linear


@dataclass(frozen=True)
class CheckpointModel:
    """A checkpoint of a timm or plain network that is to be repaired."""

    path: Path
    content: dict[str, Any]
    model: LinearModel

    @property
    def evidence(self) -> Evidence:
        """What is known."""
        return self.model.evidence

    def write(self, corrected: Corrected, target: Path, name: str) -> list[Path]:
        """Write the checkpoint with a new last layer; everything else is as it was.

        Class means are no layer: they are written as an .npz of means, centre and classes.
        """
        if corrected.means is not None:
            target = target.with_suffix(".npz")
            fitted = corrected.means
            with writing(target) as file, file.open("wb") as stream:
                np.savez(
                    stream, means=fitted.means.numpy(), centre=fitted.centre.numpy(),
                    classes=np.array(self.evidence.class_counts.names),
                )  # fmt: skip
            return [target]
        new = self.model.corrected_layer(corrected)
        weights, prefix = _parallel(weights_in(self.content))
        changed = {prefix + key: value for key, value in new.items()}
        with writing(target) as file:
            if self.path.suffix == ".safetensors":
                plain = {k: v.contiguous() for k, v in {**weights, **changed}.items()}
                safetensors.torch.save_file(plain, file)
            else:
                content = dict(self.content)
                wrapper = next((key for key in WRAPPERS if key in content), None)
                merged = {**weights, **changed}
                torch.save(merged if wrapper is None else {**content, wrapper: merged}, file)
        return [target]


def read_checkpoint(
    path: Path,
    architecture: str,
    config: RunConfig,
    *,
    classes: tuple[str, ...] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    device: str | None = None,
) -> CheckpointModel:
    """Run somebody's checkpoint over labelled pictures.

    Args:
        path: `.safetensors`, or `.pth`, `.pt`, `.bin` with tensors and plain values only.
        architecture: `timm:NAME`, `torchvision:NAME`, or `MODULE:FUNCTION`, a function of the number
            of classes that returns the network.
        config: Its data section says which pictures; the training split gives the class counts.
        classes: Names in the order of the network's outputs; the data's order if not given.
        mean: Of the pixels, as the network was trained; ImageNet's if not given.
        std: Likewise.
        device: Where to compute.

    Raises:
        LongtailError: If anything does not fit, in words.
    """
    content = read_content(path)
    training = config.training
    if isinstance(config.data, FolderData | TableData):
        listed = read_files(config.data).manifest
        if not (listed.has("val") or listed.has("test")):
            raise DataError(
                f"{config.data.path} has no split of its own, and pictures drawn from it now may be "
                "ones that the model was trained on. Put those that it has not seen into val/ and "
                "test/, or into rows with split val and test."
            )
    data = open_data(config.data, workers=training.workers)
    data = data.normalised_by(mean or data.mean, std or data.std)
    counts = data.manifest.class_counts()
    if classes is not None:
        if sorted(classes) != sorted(counts.names):
            odd = sorted(set(classes) ^ set(counts.names))[:5]
            raise DataError(f"--classes and the data name different classes: {', '.join(odd)}.")
        place = {name: number for number, name in enumerate(counts.names)}
        counts = ClassCounts([counts.values[place[name]] for name in classes], classes)
    network = _build(architecture, len(counts))
    weights, prefix = _parallel(weights_in(content))
    own = {key.removeprefix(prefix): value for key, value in weights.items()}
    ckpt.load_weights(network, own, str(path))
    where = find_device(device)
    network = network.to(where).eval()
    layer = last_linear(network, data, where)
    evidence = collect(network, layer, data, counts, where, training.workers)
    return CheckpointModel(path, content, LinearModel(network, layer, evidence))


def _parallel(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Return the weights and the prefix that a parallel wrapper has put before their names."""
    return weights, "module." if all(key.startswith("module.") for key in weights) else ""


def _build(architecture: str, num_classes: int) -> nn.Module:
    library, colon, name = architecture.partition(":")
    if not colon:
        raise ConfigError(
            f"--architecture must be timm:NAME, torchvision:NAME or MODULE:FUNCTION, not {architecture!r}."
        )
    try:
        if library == "timm":
            import timm  # takes seconds

            made: object = timm.create_model(name, num_classes=num_classes)
        elif library == "torchvision":
            import torchvision  # takes seconds

            made = torchvision.models.get_model(name, num_classes=num_classes)
        else:
            made = getattr(importlib.import_module(library), name)(num_classes)
    except Exception as error:
        raise ConfigError(
            f"--architecture {architecture} cannot be built for {num_classes} classes "
            f"({type(error).__name__}: {error})."
        ) from error
    if not isinstance(made, nn.Module):
        raise ConfigError(
            f"--architecture {architecture} returned {type(made).__name__}, no network."
        )
    return made
