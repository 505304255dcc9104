"""Small parts that are trained beside the weights of a trained network.

    AdaptFormer   x' + MLP(LN(x')) + s W_up ReLU(W_down LN_a(x')), x' what the attention leaves of a block
                  (Chen et al., NeurIPS 2022, arXiv 2205.13535, equation 2)
    VPT           n more tokens: before the first block, where they stay until the last (shallow), or new ones
                  before every block, whose outputs are dropped (deep)
                  (Jia et al., ECCV 2022, arXiv 2203.12119, equations 4 to 8)
    SSF           y * scale + shift after every layer
                  (Lian et al., NeurIPS 2022, arXiv 2210.08823, equation 3)

AdaptFormer and SSF begin as if they were not there: where the released code of SSF draws scale and shift
near 1 and 0, here they are 1 and 0. A layer without bias gets a scale alone, so that a plain layer can do the
same. The scale s of AdaptFormer is learnt and begins with 1, as in LIFT's code; the paper fixes it at .1.
Where a block scales what its MLP gives (DINOv2, EVA), the bottleneck beside the MLP is scaled with it.

Tokens and scales are parameters of the block or layer itself, whose class is a subclass made for it, so that
all other tensors keep their names.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PROMPT, SCALE, SHIFT = "vpt_tokens", "ssf_scale", "ssf_shift"
# layers whose channels are in the second place of what they put out
BY_CHANNEL = (nn.Conv2d, nn.BatchNorm2d, nn.GroupNorm)  # and timm's LayerNorm2d


class ParallelAdapter(nn.Module):
    """A block's second normalisation and MLP, and a bottleneck beside them (AdaptFormer).

    Args:
        norm: Of the block, LN.
        mlp: Of the block.
        width: Of its tokens, D.
        bottleneck: Rows of W_down.
    """

    def __init__(self, norm: nn.Module, mlp: nn.Module, width: int, bottleneck: int) -> None:
        super().__init__()
        self.norm, self.mlp = norm, mlp
        self.adapter_norm = nn.LayerNorm(width)
        self.down = nn.Linear(width, bottleneck)
        self.up = nn.Linear(bottleneck, width)
        self.scale = nn.Parameter(torch.ones(1))
        nn.init.kaiming_normal_(self.down.weight, a=math.sqrt(5))
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map x' [B, L, D] to what the block adds to it, [B, L, D]."""
        addition: Tensor = self.up(F.relu(self.down(self.adapter_norm(tokens))))
        plain: Tensor = self.mlp(self.norm(tokens))
        return plain + self.scale * addition


def give_prompts(block: nn.Module, tokens: int, width: int, patch: int, *, keeps: bool) -> None:
    """Give a transformer block more tokens, in place.

    Args:
        block: Takes tokens [B, L, D] and gives as many.
        tokens: n; their values are drawn from U(-v, v), v = sqrt(6 / (3 patch^2 + D)).
        width: D.
        patch: Side of a patch in pixels.
        keeps: Whether its outputs for them go on to the next block.
    """
    bound = math.sqrt(6 / (3 * patch**2 + width))
    block.register_parameter(
        PROMPT, nn.Parameter(torch.empty(tokens, width).uniform_(-bound, bound))
    )
    _become(block, _prompted)
    drop_outputs(block, 0 if keeps else tokens)


def drop_outputs(block: nn.Module, tokens: int) -> None:
    """Let a block leave out the last outputs, those for the tokens that were added."""
    if not hasattr(block, "vpt_dropped"):
        _become(block, _prompted)
    block.vpt_dropped = tokens  # type: ignore[assignment]  # a number beside the modules


@cache
def _prompted(kind: Any) -> Any:  # noqa: ANN401 - a class of timm
    class Prompted(kind):  # type: ignore[misc]
        """A block of `kind` with tokens of its own."""

        vpt_dropped: int | None = None

        def forward(self, tokens: Tensor, *others: Any, **named: Any) -> Tensor:  # noqa: ANN401
            prompt = self._parameters.get(PROMPT)
            if prompt is not None:
                tokens = torch.cat([tokens, prompt.expand(tokens.shape[0], -1, -1)], dim=1)
            out: Tensor = super().forward(tokens, *others, **named)
            return out[:, : out.shape[1] - self.vpt_dropped] if self.vpt_dropped else out

    return Prompted


def give_scales(layer: nn.Module, channels: int) -> None:
    """Multiply what a layer puts out by a scale a channel, and add a shift, in place (SSF)."""
    layer.register_parameter(SCALE, nn.Parameter(torch.ones(channels)))
    if getattr(layer, "bias", None) is not None:
        layer.register_parameter(SHIFT, nn.Parameter(torch.zeros(channels)))
    _become(layer, _scaled)


def has_scales(layer: nn.Module) -> bool:
    """Say whether `give_scales` was called on a layer."""
    return SCALE in layer._parameters


@torch.no_grad()
def with_scales_inside(layer: nn.Module) -> dict[str, Tensor]:
    """Return weight and bias of the plain layer with the same outputs: s W and s b + t."""
    scale, weight = layer.get_parameter(SCALE), getattr(layer, "weight")  # noqa: B009 - of any type
    inside = {"weight": scale.reshape(-1, *[1] * (weight.ndim - 1)) * weight}
    if SHIFT in layer._parameters:
        inside["bias"] = scale * getattr(layer, "bias") + layer.get_parameter(SHIFT)  # noqa: B009
    return inside


@cache
def _scaled(kind: Any) -> Any:  # noqa: ANN401 - a class of layers
    class Scaled(kind):  # type: ignore[misc]
        """A layer of `kind` with a scale and a shift."""

        def forward(self, *given: Any, **named: Any) -> Tensor:  # noqa: ANN401
            out: Tensor = super().forward(*given, **named)
            scale, shift = self._parameters[SCALE], self._parameters.get(SHIFT)
            assert scale is not None
            by_channel = isinstance(self, BY_CHANNEL) or kind.__name__.endswith("2d")
            shape = (-1, 1, 1) if by_channel and out.ndim == 4 else (-1,)
            out = out * scale.reshape(shape)
            return out if shift is None else out + shift.reshape(shape)

    return Scaled


def keep_statistics(layer: nn.Module) -> None:
    """Let batch normalisation use the statistics it has, whatever mode it is put into, in place."""
    _become(layer, _fixed)


@cache
def _fixed(kind: Any) -> Any:  # noqa: ANN401 - a class of layers
    class Fixed(kind):  # type: ignore[misc]
        """Normalisation of `kind` that never trains its statistics."""

        @property
        def training(self) -> bool:
            return False

        @training.setter
        def training(self, value: bool) -> None:
            """Stay as it is."""

    return Fixed


def _become(module: nn.Module, subclass: Callable[[Any], Any]) -> None:
    kind: Any = type(module)
    made = subclass(kind)
    made.__name__ = kind.__name__
    module.__class__ = made
