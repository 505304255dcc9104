"""The linear last layer of a network, found by running it.

It is the `nn.Linear` whose output is the network's output, unchanged; features are what goes into it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from longtail.adjust.tool.corrections import Corrected
from longtail.adjust.tool.evidence import Classifier, Evidence, Outputs
from longtail.core.counts import ClassCounts
from longtail.core.errors import ConfigError, DataError, LongtailError
from longtail.core.manifest import SPLITS
from longtail.data.data_set import DataSet
from longtail.data.preparation import Progress
from longtail.data.sampling.loader import evaluation_batches
from longtail.frozen import frozen_features

NOT_LINEAR = (
    "The network does not end in a linear layer, so the correction cannot be written into it. "
    "Write its logits into a table and adjust the table (for a run, longtail evaluate RUN "
    "writes predictions-*.parquet)."
)


@dataclass(frozen=True)
class LinearModel:
    """A network with a linear last layer.

    Attributes:
        network: In eval mode.
        layer: Name of the last layer in it.
        evidence: Its outputs.
    """

    network: nn.Module
    layer: str
    evidence: Evidence

    def corrected_layer(self, corrected: Corrected) -> dict[str, Tensor]:
        """Return the new weight and bias by their names in the network.

        Raises:
            ConfigError: If there is no bias to carry the correction.
        """
        folded = corrected.folded(self.evidence.known_classifier())
        assert folded is not None, "class means are written by the caller"
        layer: Any = self.network.get_submodule(self.layer)
        new = {f"{self.layer}.weight": folded.weight.to(layer.weight.dtype)}
        if layer.bias is not None:
            new[f"{self.layer}.bias"] = folded.bias.to(layer.bias.dtype)
        elif folded.bias.abs().max() > 0:
            raise ConfigError(
                f"The last layer {self.layer} has no bias, which this correction needs. Choose tau "
                "or lws, or add a bias of zeros to the model."
            )
        return new


def last_linear(network: nn.Module, data: DataSet, device: torch.device) -> str:
    """Return the name of the linear layer whose output is the network's output."""
    split = next(name for name in SPLITS if data.manifest.has(name))
    images, _ = next(evaluation_batches(data.split(split), batch_size=2, device=device))
    candidates: list[str] = [
        name for name, m in network.named_modules() if isinstance(m, nn.Linear)
    ]
    with _passing(network, candidates) as outputs, torch.inference_mode():
        try:
            logits: object = network(images)
        except LongtailError:
            raise
        except Exception as error:
            raise DataError(
                f"The network cannot process images of shape {list(images.shape)} ({type(error).__name__}: "
                f"{error}). Set image_size=N."
            ) from error
    for name in candidates:
        if name in outputs and outputs[name][1] is logits:
            return name
    raise ConfigError(NOT_LINEAR)


def collect(
    network: nn.Module,
    layer: str,
    data: DataSet,
    counts: ClassCounts,
    device: torch.device,
    workers: int,
    frozen: nn.Module | None = None,
    progress: Progress = lambda done, size: None,
) -> Evidence:
    """Run every split once, without augmentation, and keep what goes into the last layer.

    Args:
        network: From images to logits.
        layer: Name of its last layer.
        data: All splits.
        counts: Of the training images; the classes.
        device: Where to compute.
        workers: Decoding threads.
        frozen: The part before the last layer, if its weights are those that it began with: then its features
            are read where they are kept, see `longtail.frozen`.
        progress: Called after every batch, with the images of its split.
    """

    def passed(done: int, size: int, _seconds: float) -> None:
        progress(done, size)

    place = {name: number for number, name in enumerate(counts.names)}
    own = torch.tensor([place.get(name, -1) for name in data.manifest.classes])
    splits: dict[str, Outputs] = {}
    for split in SPLITS:
        if not data.manifest.has(split):
            continue
        part = data.split(split)
        stacked = (
            _inputs(network, layer, part, device, workers, progress)
            if frozen is None
            else frozen_features(
                frozen, part, device=device, workers=workers, progress=passed
            ).cpu()
        )
        if stacked.ndim != 2:
            raise ConfigError(NOT_LINEAR)
        labels = own[torch.tensor(part.manifest.labels)]
        splits[split] = Outputs(labels, None, stacked, part.together)
    module: Any = network.get_submodule(layer)
    weight = module.weight.detach().float().cpu()
    bias = (
        weight.new_zeros(len(weight)) if module.bias is None else module.bias.detach().float().cpu()
    )
    return Evidence(counts, splits, Classifier(weight, bias))


def _inputs(
    network: nn.Module,
    layer: str,
    part: DataSet,
    device: torch.device,
    workers: int,
    progress: Progress,
) -> Tensor:
    """Return what goes into the last layer for every image of a split."""
    features, done = [], 0
    # not in inference mode: a classifier may be trained on these features
    with _passing(network, [layer]) as outputs, torch.no_grad():
        for images, _ in evaluation_batches(part, device=device, workers=workers, everything=True):
            network(images)
            features.append(outputs[layer][0].float().cpu())
            done += len(images)
            progress(done, len(part.manifest))
    return torch.cat(features)


@contextmanager
def _passing(network: nn.Module, names: list[str]) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Yield a dict that holds input and output of the named layers after a forward pass."""
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def remember(name: str) -> Callable[..., None]:
        def hook(_layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            found[name] = (inputs[0], output)

        return hook

    handles = [network.get_submodule(n).register_forward_hook(remember(n)) for n in names]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
