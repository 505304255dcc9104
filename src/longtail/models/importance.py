"""Importance of weights for the classes of a task (Molchanov et al., CVPR 2019; DO, AAAI 2024).

    taylor      (w g)^2   change of the loss without the weight, to first order
    fisher      g^2
    magnitude   |w|       knows no data
    random      a control

g is the gradient of the mean loss over all images of one class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from longtail.models.allotment import layer_weights

Criterion = Literal["taylor", "magnitude", "fisher", "random"]
Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Network:
    """Something that predicts, and the weights that it predicts with.

    Attributes:
        name: For people.
        weights: Of its convolutions and linear layers, by name.
        predict: Maps such weights and images [B, 3, H, W] to logits [B, C]; images are independent.
    """

    name: str
    weights: Weights
    predict: Callable[[Weights, Tensor], Tensor]


def class_gradients(
    weights: Weights,
    logits_with: Callable[[Weights, Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Yield each class with the gradient of its mean cross-entropy by every weight.

    One gradient of all weights is in memory, whatever the number of classes.

    Args:
        weights: By name, as the network uses them.
        logits_with: Maps weights and images [B, ...] to logits [B, C]. Images must not depend on each other:
            normalisation in eval mode.
        batches: Images and labels int64 [B], the images of a class one after the other.
    """
    live = {name: weight.detach().clone().requires_grad_() for name, weight in weights.items()}
    total: list[Tensor] = []
    current, images_seen = -1, 0

    def mean() -> tuple[int, dict[str, Tensor]]:
        return current, {n: g / images_seen for n, g in zip(live, total, strict=True)}

    for images, labels in batches:
        for label in torch.unique_consecutive(labels).tolist():
            own = labels == label
            with torch.enable_grad():
                logits = logits_with(live, images[own]).float()
                loss = F.cross_entropy(logits, labels[own], reduction="sum")
            found = torch.autograd.grad(loss, list(live.values()))
            if label != current:
                if images_seen:
                    yield mean()
                current, images_seen, total = label, 0, [torch.zeros_like(g) for g in found]
            total = [one + other for one, other in zip(total, found, strict=True)]
            images_seen += int(own.sum())
    if images_seen:
        yield mean()


def score(weight: Tensor, gradient: Tensor, criterion: Literal["taylor", "fisher"]) -> Tensor:
    """Return the importance of every entry of a weight for the class of the gradient; never negative."""
    return (gradient if criterion == "fisher" else weight * gradient).square()


def class_importance(
    network: Network, batches: Iterable[tuple[Tensor, Tensor]], num_classes: int
) -> Tensor:
    """Return the mean of (w g)^2 over all weights of a network for each class, float64 [C].

    It costs a pass forward and one back. Large values also mean that images are misclassified: the gradients
    of their loss are large.

    Args:
        network: What predicts, in eval mode.
        batches: As of `class_gradients`.
        num_classes: C; a class without images is NaN.
    """
    size = sum(weight.numel() for weight in network.weights.values())
    found = torch.full((num_classes,), torch.nan, dtype=torch.float64)
    for label, gradients in class_gradients(network.weights, network.predict, batches):
        sums = (score(w, gradients[name], "taylor").sum() for name, w in network.weights.items())
        found[label] = float(torch.stack(list(sums)).detach().sum()) / size
    return found


def predicting(module: nn.Module, predict: Callable[[Tensor], Tensor], images: Tensor) -> Network:
    """Return a module as one network: the weights that its prediction uses, whichever these are.

    Args:
        module: In eval mode.
        predict: Of its methods, the one that predicts.
        images: Some images, [B, 3, H, W], to see which weights are used.
    """
    predicting_module = _Predicting(module, predict)
    own = dict(predicting_module.named_parameters())
    live = {name: own[name].detach().requires_grad_() for name in layer_weights(predicting_module)}
    with torch.enable_grad():
        logits = functional_call(predicting_module, live, (images,))
    found = torch.autograd.grad(logits.sum(), list(live.values()), allow_unused=True)
    used = {n: w for (n, w), g in zip(live.items(), found, strict=True) if g is not None}
    return Network("network", used, lambda w, x: functional_call(predicting_module, dict(w), (x,)))


class _Predicting(nn.Module):
    """Predicts in `forward`, so that weights can be put in place of a module's own."""

    def __init__(self, module: nn.Module, predict: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.module, self.predict = module, predict

    def forward(self, images: Tensor) -> Tensor:
        return self.predict(images)
