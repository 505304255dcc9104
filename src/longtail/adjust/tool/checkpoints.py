"""Checkpoints of timm and of plain PyTorch networks, to be corrected."""

from __future__ import annotations

import importlib
import io
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from longtail.adjust.tool.adjustment import Adjustment
from longtail.adjust.tool.corrections import CORRECTIONS, Request
from longtail.adjust.tool.evidence import Evidence
from longtail.adjust.tool.last_layer import LinearModel, collect, last_linear
from longtail.adjust.tool.notes import read_note
from longtail.core.boundary import brief, named, reading
from longtail.core.counts import ClassCounts
from longtail.core.errors import ConfigError, DataError
from longtail.core.prior import UNKNOWN, Prior, read_stated
from longtail.data.options import FolderData, TableData
from longtail.data.preparation import read_files
from longtail.data.source_to_batch import open_data
from longtail.engine.hardware import find_device
from longtail.models.weights import (
    Copy,
    Place,
    find_copies,
    is_safetensors,
    listed,
    look_up,
    misfits,
    read_content,
    replaced,
    usable,
)
from longtail.recipes import RunConfig


@dataclass(frozen=True)
class Network:
    """One copy of the network that the file holds, with its last layer.

    Attributes:
        model: The network, its last layer, and its outputs.
        copy: Where its tensors stand in the file.
    """

    model: LinearModel
    copy: Copy


@dataclass(frozen=True)
class CheckpointModel:
    """A checkpoint of a timm or plain network that is to be corrected.

    Attributes:
        path: The file.
        content: What it holds.
        networks: One, or a moving average and the weights that it follows; loading code takes the first.
        request: What a second network is corrected by, for itself.
    """

    path: Path
    content: dict[str, Any]
    networks: tuple[Network, ...]
    request: Request = field(default_factory=Request)

    @property
    def evidence(self) -> Evidence:
        """What is known of the network that loading code takes."""
        return self.networks[0].model.evidence

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the user about what the file holds."""
        if len(self.networks) == 1:
            return ()
        return (
            (
                f"{self.path} contains a moving average (EMA) and the weights that it follows. The scores "
                "are those of the average, which is what other programs load; each of the two is "
                "corrected with its own strength."
            ),
        )

    def target(self, done: Adjustment, target: Path) -> Path:
        """Return the file to write: class means are no layer and go into an .npz."""
        return target if done.corrected.means is None else target.with_suffix(".npz")

    def write(self, done: Adjustment, target: Path) -> None:
        """Write the checkpoint with a new last layer; everything else is as it was.

        Class means are no layer: they are written as an .npz of means, centre and classes.
        """
        if done.corrected.means is not None:
            fitted = done.corrected.means
            with target.open("wb") as stream:
                np.savez(
                    stream, means=fitted.means.numpy(), centre=fitted.centre.numpy(),
                    classes=np.array(self.evidence.class_counts.names),
                )  # fmt: skip
            return
        changes: dict[Place, Tensor] = {}
        for number, network in enumerate(self.networks):
            corrected = done.corrected
            if number:
                corrected = CORRECTIONS[done.name](network.model.evidence, self.request)
            for name, value in network.model.corrected_layer(corrected).items():
                place = network.copy.places[name]
                stored: Tensor = look_up(self.content, place)
                changes[place] = value.to(stored.dtype).cpu()
                if not bool(torch.isfinite(changes[place]).all()):
                    raise DataError(
                        f"The corrected {name} does not fit into {stored.dtype}, the type that {self.path} "
                        "stores. Choose a smaller strength."
                    )
        content = replaced(self.content, changes)
        if is_safetensors(self.path):
            plain = {key: value.contiguous() for key, value in content.items()}
            with safetensors.safe_open(self.path, "pt") as source:
                metadata = source.metadata()
            target.write_bytes(safetensors.torch.save(plain, metadata))
        else:
            written = io.BytesIO()  # torch's own writer ends the process on a full disk
            torch.save(content, written)
            target.write_bytes(written.getbuffer())


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
    """Run somebody's checkpoint over labelled images.

    Args:
        path: See `longtail.models.weights.read_content`; tensors and plain values only.
        architecture: `timm:NAME`, `torchvision:NAME`, or `MODULE:FUNCTION`, a function of the number
            of classes that returns the network.
        config: Its data section says which images; the training split gives the class counts.
        classes: Names in the order of the network's outputs; if not given, the order that the file tells
            (`class_to_idx`), or the data's.
        mean: Of the pixels, as the network was trained; ImageNet's if not given.
        std: Likewise.
        device: Where to compute.

    Raises:
        LongtailError: If anything does not fit, in words.
    """
    content = read_content(path)
    classes = classes or _classes_in(content, path)
    training = config.training
    if isinstance(config.data, FolderData | TableData):
        files = read_files(config.data).manifest
        if not (files.has("val") or files.has("test")):
            raise DataError(
                f"{config.data.path} has no split of its own, so images held out now may be ones that the "
                "model was trained on. Put images that the model has not seen into val/ and test/, or "
                "mark them with split val and test."
            )
    data = open_data(config.data, workers=training.workers)
    data = data.normalised_by(mean or data.mean, std or data.std)
    counts = data.manifest.class_counts()
    if classes is not None:
        if sorted(classes) != sorted(counts.names):
            odd = sorted(set(classes) ^ set(counts.names))[:5]
            raise DataError(
                f"The model (--classes, or class_to_idx in {path}) and the data have different classes: "
                f"{named(odd)}."
            )
        place = {name: number for number, name in enumerate(counts.names)}
        counts = ClassCounts([counts.values[place[name]] for name in classes], classes)
    built = _build(architecture, len(counts))
    where = find_device(device)
    own = built.state_dict()
    with reading(path, "a checkpoint"):
        copies = find_copies(content, own, path)
        tensors = [usable(copy.tensors(content), path) for copy in copies]
    prior, corrections = read_note(path)
    networks = []
    for copy, weights in zip(copies, tensors, strict=True):
        problems = misfits(own, weights) + [f"unexpected {name}" for name in copy.unknown]
        if problems:
            raise ConfigError(
                f"{path} does not fit --architecture {architecture} for {len(counts)} classes: "
                f"{listed(problems)}."
            )
        network = deepcopy(built)
        network.load_state_dict({name: weights.get(name, own[name]) for name in own})
        network = network.to(where).eval()
        layer = last_linear(network, data, where)
        evidence = collect(network, layer, data, counts, where, training.workers)
        evidence = replace(
            evidence, corrections=tuple(map(str, corrections)), assumed_prior=_stated(prior)
        )
        networks.append(Network(LinearModel(network, layer, evidence), copy))
    return CheckpointModel(path, content, tuple(networks))


def _stated(prior: object) -> Prior:
    try:
        return read_stated(prior)
    except (TypeError, ValueError):
        return UNKNOWN  # the note is of this file, but damaged


def _classes_in(content: dict[str, Any], path: Path) -> tuple[str, ...] | None:
    """Return the classes in the order that a file tells by `class_to_idx`, if it does."""
    found = content.get("class_to_idx")
    if not isinstance(found, dict) or not found:
        return None
    if sorted(found.values(), key=str) != sorted(range(len(found)), key=str):
        raise DataError(
            f"{path}: class_to_idx must number its classes from 0 to {len(found) - 1}. Use --classes "
            "instead."
        )
    return tuple(str(name) for name in sorted(found, key=found.__getitem__))


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
            f"({type(error).__name__}: {brief(error)})."
        ) from error
    if not isinstance(made, nn.Module):
        raise ConfigError(
            f"--architecture {architecture} returned {type(made).__name__}, which is not a network."
        )
    return made
