"""Where in an image a network sees the class that it predicts (Grad-CAM).

Idea: The last feature map before pooling still has places. The gradient of the margin
m = z_predicted - z_label says how much each entry of the map speaks for the prediction rather than for the
label:

    map_ij = max(0, sum_d dm/dA_dij * A_dij)

Symbols: A [B, D, h, w] the last feature map, or for a transformer the tokens that its last block takes; z the
logits.

This is Grad-CAM (Selvaraju et al., ICCV 2017) with the gradient of each place where Grad-CAM takes its mean
over places (HiResCAM, Draelos and Carin, arXiv 2011.08891). Both agree where average pooling and a linear
head follow, as in most networks: the sum over all places, before the maximum with 0, is then the margin
without the biases. The tokens of a transformer have exchanged what they know, so its maps are rougher hints.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from longtail.methods.method import Method
from longtail.models.backbones import Backbone


def grad_cam(method: Method, images: Tensor, predicted: Tensor, labels: Tensor) -> Tensor | None:
    """Return what speaks for the predicted class at each place, [B, h, w], the largest value of an image 1.

    An image is 0 everywhere if no place speaks for the prediction.

    Args:
        method: In eval mode, on the device of the images.
        images: Normalised, [B, 3, H, W].
        predicted: int64 [B], the class in question.
        labels: int64 [B], the class that it is held against.

    Returns:
        None if the method has several networks, or its network has no last map of places.
    """
    backbone = getattr(method, "backbone", None)
    if not isinstance(backbone, Backbone):
        return None
    with torch.enable_grad():
        with _last_map(backbone) as found:
            logits = method.predict(images).double()
        last = next(iter(found), None)
        if last is None or not logits.requires_grad or len(last) != len(images):
            return None
        rows = torch.arange(len(images), device=images.device)
        margin = logits[rows, predicted] - logits[rows, labels]
        gradients: Sequence[Tensor | None] = torch.autograd.grad(
            margin.sum(), last, allow_unused=True
        )
    gradient = gradients[0]
    if gradient is None:
        return None  # the logits do not come from that map
    places = _in_rows((gradient * last).detach().float(), backbone.network)
    if places is None:
        return None
    places = places.clamp(min=0)
    largest = places.amax(dim=(1, 2), keepdim=True)
    return places / torch.where(largest > 0, largest, 1)


@contextmanager
def _last_map(backbone: Backbone) -> Iterator[list[Tensor]]:
    """Yield a list that one call of a backbone fills with its last map, where gradients then begin.

    It stays empty if there is no such map, or if the backbone is called several times.
    """
    found: list[Tensor] = []
    calls: list[None] = []

    def begin(values: Tensor) -> Tensor:
        if len(calls) > 1:
            return values
        # the copy may be changed in place by what follows, which a leaf may not
        found[:] = [values.detach().requires_grad_().clone()]
        return found[0]

    def keep(_module: nn.Module, _given: object, output: Any) -> Any:  # noqa: ANN401 - torch's own
        if not isinstance(output, Tensor):
            return None
        if output.ndim == 3:
            found.clear()  # tokens: a map before them is not the last that has places
        return begin(output) if _channels(output) is not None else None

    def keep_tokens(_module: nn.Module, given: Any) -> Any:  # noqa: ANN401 - torch's own
        return (begin(given[0]), *given[1:])

    def count(_module: nn.Module, _given: object) -> None:
        calls.append(None)
        found.clear()

    network: Any = backbone.network
    hooks = [backbone.register_forward_pre_hook(count)]
    if _prefix_tokens(network) is not None:
        hooks.append(network.blocks[-1].register_forward_pre_hook(keep_tokens))
    else:
        hooks += [part.register_forward_hook(keep) for part in network.modules()]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _channels(output: Tensor) -> int | None:
    """Return the dimension of the channels of a square map with several places; None if it is no such map."""
    if output.ndim != 4:
        return None
    first, second, third = output.shape[1:]
    if second == third > 1:
        return 1
    return 3 if first == second > 1 else None


def _prefix_tokens(network: nn.Module) -> int | None:
    """Return how many tokens of a transformer in timm's form have no place; None for other networks."""
    number = getattr(network, "num_prefix_tokens", None)
    return (
        number
        if isinstance(getattr(network, "blocks", None), nn.Sequential | nn.ModuleList)
        else None
    )


def _in_rows(product: Tensor, network: nn.Module) -> Tensor | None:
    """Return the sum over channels of a map, [B, h, w], or of tokens [B, N, D] that make a square."""
    dimension = _channels(product)
    if dimension is not None:
        return product.sum(dim=dimension)
    sums = product.sum(dim=2)[:, _prefix_tokens(network) or 0 :]  # [B, N]
    side = math.isqrt(sums.shape[1])
    return sums.reshape(-1, side, side) if side > 1 and side**2 == sums.shape[1] else None
