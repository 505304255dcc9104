"""Light fine-tuning: a trained network keeps its weights, and a small part of it or beside it is trained.

    adaptformer, vpt-shallow, vpt-deep, ssf   see `longtail.models.light_layers`
    bias    every bias (BitFit: Ben Zaken et al., ACL 2022, arXiv 2106.10199)
    norm    weight and bias of every normalisation
    LoRA    see `longtail.models.low_rank`

What is not trained is a buffer: no optimiser, weight decay or momentum can reach it. Batch normalisation
keeps its statistics. LoRA, SSF, bias and norm can be written into a plain network of the same form;
AdaptFormer is not linear and VPT is no weight, so a network with them has no plain form.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from longtail.core.errors import ConfigError
from longtail.core.words import counted
from longtail.models.light_layers import (
    SCALE,
    SHIFT,
    ParallelAdapter,
    drop_outputs,
    give_prompts,
    give_scales,
    has_scales,
    keep_statistics,
    with_scales_inside,
)

Kind = Literal["adaptformer", "vpt-shallow", "vpt-deep", "ssf", "bias", "norm"]
SIZES = {"adaptformer": 64, "vpt-shallow": 10, "vpt-deep": 10}  # AdaptFormer's paper, LIFT's code
WITHOUT_SIZE = tuple(kind for kind in get_args(Kind) if kind not in SIZES)
STATISTICS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
KIND = "light_kind"  # attribute of a network that was changed


def lighten(network: nn.Module, kind: Kind, images: Tensor, size: int | None = None) -> None:
    """Keep the weights of a trained network, and let a small part be trained, in place.

    Args:
        network: A backbone, or timm's network in one.
        kind: See the head of this file.
        images: [B, 3, H, W] that it takes, to see which layers it calls.
        size: Width of AdaptFormer's bottleneck, or tokens of VPT.

    Raises:
        ConfigError: If the network has no such parts.
    """
    called = called_layers(network, images) if kind == "ssf" else {}
    kept = _kept_parameters(network, kind)
    keep_weights(network, but=kept)
    size = SIZES.get(kind, 0) if size is None else size
    if kind == "adaptformer":
        _add_adapters(network, size)
    elif kind in ("vpt-shallow", "vpt-deep"):
        _add_prompts(network, size, deep=kind == "vpt-deep")
    elif kind == "ssf":
        for layer in called.values():
            # a scale after an activation could not become part of the normalisation before it
            if isinstance(getattr(layer, "act", None), nn.Identity | None):
                weight: Any = layer.weight
                give_scales(layer, len(weight))
    if not any(True for _ in network.parameters()):
        raise ConfigError(
            f"model.adapter={kind}: this network has no parameters of that kind. Choose another adapter."
        )
    setattr(network, KIND, kind)


def keep_weights(network: nn.Module, but: frozenset[int] = frozenset()) -> None:
    """Turn parameters into buffers, and let batch normalisation keep its statistics, in place.

    Args:
        network: Any.
        but: Identities (`id`) of the parameters that stay ones.
    """
    for module in network.modules():
        for name, value in list(module.named_parameters(recurse=False)):
            if id(value) not in but:
                delattr(module, name)
                module.register_buffer(name, value.detach())
        if isinstance(module, STATISTICS):
            keep_statistics(module)


def called_layers(network: nn.Module, images: Tensor) -> dict[str, nn.Module]:
    """Return the linear layers, convolutions and normalisations that a forward pass calls, by name."""
    called: set[nn.Module] = set()
    layers = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) or _is_norm(module)
    }
    hooks = [m.register_forward_hook(lambda m, *_: called.add(m)) for m in layers.values()]
    modes = {module: module.training for module in network.modules()}
    with torch.no_grad():
        network.eval()(images)
    for module, mode in modes.items():
        module.training = mode
    for hook in hooks:
        hook.remove()
    return {name: module for name, module in layers.items() if module in called}


def describe_light(network: nn.Module) -> str:
    """Say what is trained of a network, `adaptformer (589,824 weights)`; empty if all of it."""
    for module in network.modules():
        kind = getattr(module, KIND, None)
        if kind is not None:
            trained = sum(parameter.numel() for parameter in module.parameters())
            kept = sum(buffer.numel() for buffer in module.buffers())
            return f"{kind} ({counted(trained, 'weight', 'weights')} trained, {kept:,} kept)"
    return ""


def has_plain_form(network: nn.Module) -> bool:
    """Say whether the network can be written as a plain one, with the same outputs."""
    return not any(
        isinstance(module, ParallelAdapter) or hasattr(module, "vpt_dropped")
        for module in network.modules()
    )


def inside_scales(network: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights in which the scales and shifts of SSF are part of the layers."""
    weights = dict(weights)
    for name, layer in network.named_modules():
        if has_scales(layer):
            before = f"{name}." if name else ""
            weights |= {f"{before}{key}": value for key, value in with_scales_inside(layer).items()}
            del weights[f"{before}{SCALE}"]
            weights.pop(f"{before}{SHIFT}", None)
    return weights


def _kept_parameters(network: nn.Module, kind: Kind) -> frozenset[int]:
    """Return the identities of the weights that are trained themselves."""
    if kind == "bias":
        return frozenset(
            id(value)
            for name, value in network.named_parameters()
            if name.rpartition(".")[2].endswith("bias") and value.ndim == 1
        )
    if kind == "norm":
        return frozenset(
            id(value)
            for module in network.modules()
            if _is_norm(module)
            for value in module.parameters(recurse=False)
        )
    return frozenset()


def _is_norm(module: nn.Module) -> bool:
    """Say whether a module is a normalisation with a weight."""
    kind = type(module).__name__
    named = isinstance(module, (*STATISTICS, nn.LayerNorm, nn.GroupNorm)) or "Norm" in kind
    return named and getattr(module, "weight", None) is not None


def _blocks(network: nn.Module, what: str, kinds: tuple[type, ...]) -> list[Any]:
    blocks = [module for module in network.modules() if isinstance(module, kinds)]
    if not blocks:
        raise ConfigError(
            f"model.adapter={what} is for transformers of the form of ViT (ViT, CLIP, SigLIP, DINOv2"
            + (", DINOv3, EVA, BEiT)" if what == "adaptformer" else ")")
            + "; for others there are low_rank, ssf, bias and norm."
        )
    return blocks


def _add_adapters(network: nn.Module, bottleneck: int) -> None:
    from timm.models import beit, eva, vision_transformer  # takes seconds

    kinds = (vision_transformer.Block, beit.Block, eva.EvaBlock)
    for block in _blocks(network, "adaptformer", kinds):
        width = len(block.norm2.weight)
        block.mlp = ParallelAdapter(block.norm2, block.mlp, width, bottleneck)
        block.norm2 = nn.Identity()


def _add_prompts(network: nn.Module, tokens: int, *, deep: bool) -> None:
    from timm.models import vision_transformer  # takes seconds

    what = "vpt-deep" if deep else "vpt-shallow"
    blocks = _blocks(network, what, (vision_transformer.Block,))
    (vit,) = [m for m in network.modules() if isinstance(m, vision_transformer.VisionTransformer)]
    patch = int(vit.patch_embed.patch_size[0])
    width = int(vit.embed_dim)
    if deep:
        for block in blocks:
            give_prompts(block, tokens, width, patch, keeps=False)
        return
    give_prompts(blocks[0], tokens, width, patch, keeps=True)
    drop_outputs(blocks[-1], tokens)
