"""What light fine-tuning has trained, in a file of its own, without the weights that stayed.

Ours is one `.safetensors` file: the trained tensors by name, and in its header which weights they belong to
(the SHA-256 of everything that stayed). Low-rank additions are also read and written as a folder of the
library `peft` (`adapter_config.json`, `adapter_model.safetensors`): there A and B are called lora_A and
lora_B, and B A is multiplied by lora_alpha / r, which is 1 here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from longtail.core.boundary import named, reading
from longtail.core.errors import ConfigError, DataError
from longtail.models.low_rank import LowRank, LowRankConvolution, ReadLowRankLinear
from longtail.models.weights import weights_checksum

KEPT = "kept_sha256"
PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BEFORE = "base_model.model."  # what peft puts before the names of the network
# what of peft's LoRA has no counterpart here -> the value that means it is not used
UNUSED = {"use_dora": False, "bias": "none", "fan_in_fan_out": False}


def kept_checksum(backbone: nn.Module) -> str:
    """Return the SHA-256 of the weights that stay, whatever is trained beside them."""
    stays = nn.Module()
    for name, value in backbone.named_buffers():
        stays.register_buffer(name.replace(".", "/"), value)
    return weights_checksum(stays)


def trained_tensors(backbone: nn.Module) -> dict[str, Tensor]:
    """Return what is trained of a backbone that was made light, by name.

    Raises:
        ConfigError: If nothing of it stays.
    """
    if not any(True for _ in backbone.buffers()):
        raise ConfigError("The whole backbone is trained; there is no adapter to write.")
    return {name: value.detach().cpu().contiguous() for name, value in backbone.named_parameters()}


def load_adapter(backbone: nn.Module, path: Path) -> None:
    """Copy trained tensors of a file of ours or a folder of peft's into a backbone, all of them or none.

    Args:
        backbone: Made light in the same way, on the weights that the adapter was trained on.
        path: See the head of this file.

    Raises:
        ConfigError: If they belong to other weights, or to another kind, rank or network.
        DataError: If they cannot be read.
    """
    found = _of_peft(backbone, path) if path.is_dir() else _of_file(backbone, path)
    own = dict(backbone.named_parameters())
    if unknown := sorted(set(found) - set(own)):
        raise ConfigError(
            f"{path} holds {named(unknown)}, which this backbone does not train. Give it the same "
            "model.low_rank or model.adapter as when it was trained."
        )
    for name, value in found.items():
        if value.shape != own[name].shape:
            raise ConfigError(
                f"{path}: {name} has shape {list(value.shape)} and here {list(own[name].shape)}; give it the "
                "same model.low_rank or model.adapter_size as when it was trained."
            )
    with torch.no_grad():
        for name, value in found.items():
            own[name].copy_(value)


def peft_content(network: nn.Module) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the configuration and the tensors of a folder of peft's for a network with low-rank additions.

    Raises:
        ConfigError: If it has none, or some that peft cannot hold.
    """
    added: dict[str, Any] = {n: m for n, m in network.named_modules() if isinstance(m, LowRank)}
    if not added:
        raise ConfigError(
            "peft's format holds low-rank additions; this run has none (model.low_rank)."
        )
    read = [name for name, module in added.items() if isinstance(module, ReadLowRankLinear)]
    if read:
        raise ConfigError(
            f"The network reads the weights of {len(read)} layers instead of calling them "
            f"({named(read[:1])}), and peft's additions are lost there. Use --format adapter, or timm for "
            "the sum."
        )
    rank = len(next(iter(added.values())).down)
    tensors: dict[str, Tensor] = {}
    for name, module in added.items():
        down, up = module.down.detach(), module.up.detach()
        if isinstance(module, LowRankConvolution):
            down, up = down[:, :, None, None], up[:, :, None, None]
        tensors[f"{BEFORE}{name}.lora_A.weight"] = down.cpu().contiguous()
        tensors[f"{BEFORE}{name}.lora_B.weight"] = up.cpu().contiguous()
    config = {
        "peft_type": "LORA", "task_type": None, "inference_mode": True, "base_model_name_or_path": None,
        "r": rank, "lora_alpha": rank, "lora_dropout": 0.0, "bias": "none", "use_rslora": False,
        "use_dora": False, "fan_in_fan_out": False, "init_lora_weights": True, "modules_to_save": None,
        "target_modules": sorted(added),
    }  # fmt: skip
    return config, tensors


def _of_file(backbone: nn.Module, path: Path) -> dict[str, Tensor]:
    with reading(path, "an adapter"), safetensors.safe_open(path, framework="pt") as opened:
        facts: Mapping[str, str] = opened.metadata() or {}
        names = list(opened.keys())
        found = {name: opened.get_tensor(name) for name in names}
    if KEPT not in facts:
        raise DataError(
            f"{path} does not say which weights it belongs to; longtail export RUN --format adapter writes "
            "files that do, and a folder of peft's can be named."
        )
    if facts[KEPT] != kept_checksum(backbone):
        raise ConfigError(
            f"{path} was trained on other weights (SHA-256 {facts[KEPT][:12]}...). Name those of its run: "
            f"backbone={facts.get('backbone', 'NAME')}, with the same model.weights, model.low_rank or "
            "model.adapter."
        )
    return {
        name.removeprefix("backbone."): value
        for name, value in found.items()
        if name.startswith("backbone.")
    }


def _of_peft(backbone: nn.Module, folder: Path) -> dict[str, Tensor]:
    with reading(folder / PEFT_CONFIG, "the configuration of an adapter"):
        config = json.loads((folder / PEFT_CONFIG).read_text(encoding="utf-8"))
        if not isinstance(config, dict) or config.get("peft_type") != "LORA":
            raise DataError(
                f"{folder / PEFT_CONFIG}: only adapters of peft's type LORA can be read."
            )
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
    for key, plain in UNUSED.items():
        if config.get(key, plain) != plain:
            raise ConfigError(
                f"{folder / PEFT_CONFIG}: {key}={config[key]} has no counterpart here."
            )
    if config.get("rank_pattern") or config.get("alpha_pattern"):
        raise ConfigError(
            f"{folder / PEFT_CONFIG}: ranks that differ by layer have no counterpart here."
        )
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    with reading(folder / PEFT_WEIGHTS, "the tensors of an adapter"):
        stored = safetensors.torch.load_file(folder / PEFT_WEIGHTS)
    place = "network." if hasattr(backbone, "network") else ""
    found: dict[str, Tensor] = {}
    for name, value in stored.items():
        short = name.removeprefix(BEFORE)
        for suffix, own, factor in (
            (".lora_A.weight", "down", 1.0),
            (".lora_B.weight", "up", scale),
        ):
            if short.endswith(suffix):
                key = f"{place}{short.removesuffix(suffix)}.{own}"
                found[key] = value.flatten(1).float() * factor
    if not found:
        raise DataError(f"{folder / PEFT_WEIGHTS} holds no lora_A and lora_B.")
    return found
