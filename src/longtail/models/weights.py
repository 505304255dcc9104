"""Weights of a network in somebody's file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from longtail.core.errors import ConfigError, DataError
from longtail.core.words import counted

WRAPPERS = ("state_dict", "model", "model_state_dict")  # under which training scripts store weights
COUNTER = "num_batches_tracked"  # files of old versions of torch lack it, and nothing here reads it


def read_content(path: Path) -> dict[str, Any]:
    """Read `.safetensors`, or what `torch.save` wrote; code in a pickle is never run.

    Raises:
        DataError: If the file cannot be read, is damaged, or holds more than tensors and plain values.
    """
    try:
        if path.suffix == ".safetensors":
            return dict(safetensors.torch.load_file(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} cannot be read ({error}).") from error
    except Exception as error:
        # torch reports foreign objects and damage by several kinds of errors
        raise DataError(
            f"{path} is damaged or holds more than tensors and plain values; pickled code is not "
            "loaded. Save the weights alone: torch.save(model.state_dict(), path)."
        ) from error
    if not isinstance(content, dict):
        raise DataError(
            f"{path} holds no state_dict; save it with torch.save(model.state_dict(), path)."
        )
    return content


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def weights_in(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of a file by name, out of the wrapper of a training script if there is one."""
    inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), dict)), content)
    return {key: value for key, value in inner.items() if isinstance(value, Tensor)}


def load_network(network: nn.Module, path: Path) -> None:
    """Copy the weights of a file into a network without classifier, all of them or none.

    The network may lie under any one prefix (`module.`, `backbone.`, `encoder.`). A classifier of the
    file is left out.

    Args:
        network: A backbone; its `default_cfg["classifier"]`, if it has one, names what may be left out.
        path: See `read_content`.

    Raises:
        DataError: If the file cannot be read.
        ConfigError: If it is of another network, or holds the network more than once.
    """
    own, found = network.state_dict(), weights_in(read_content(path))
    prefix = _prefix(own, found, path)
    inside = {name.removeprefix(prefix): found[name] for name in found if name.startswith(prefix)}
    problems = [f"missing {n}" for n in own if n not in inside and not n.endswith(COUNTER)]
    problems += [
        f"{name} has shape {list(inside[name].shape)} instead of {list(value.shape)}"
        for name, value in own.items()
        if name in inside and inside[name].shape != value.shape
    ]
    problems += [f"unexpected {name}" for name in inside if _is_of_network(name, own, network)]
    if problems:
        more = f"; and {len(problems) - 4} more" if problems[4:] else ""
        raise ConfigError(
            f"model.weights: {path} is of another network: {'; '.join(problems[:4])}{more}. Name the "
            "network that it is of with model.backbone."
        )
    network.load_state_dict({name: inside.get(name, own[name]) for name in own})


def _prefix(own: Mapping[str, Tensor], found: Mapping[str, Tensor], path: Path) -> str:
    """Return what stands before the names of the network in the file."""
    first = next(iter(own))
    prefixes = [
        name.removesuffix(first) for name in found if name == first or name.endswith(f".{first}")
    ]
    if not prefixes:
        raise ConfigError(
            f"model.weights: {path} holds {counted(len(found), 'tensor', 'tensors')} and none is called "
            f"{first}, as in this network. Name the network that it is of with model.backbone."
        )
    needed = [name for name in own if not name.endswith(COUNTER)]
    hits = {prefix: sum(prefix + name in found for name in needed) for prefix in prefixes}
    whole = [prefix for prefix, number in hits.items() if number == len(needed)]
    if len(whole) > 1:
        raise ConfigError(
            f"model.weights: {path} holds this network {len(whole)} times, below "
            f"{', '.join(repr(prefix) for prefix in whole)}. Save the one that is meant alone."
        )
    return max(prefixes, key=lambda prefix: hits[prefix])


def _is_of_network(name: str, own: Mapping[str, Tensor], network: nn.Module) -> bool:
    """Say whether a name that the network lacks is one of its layers, which a deeper one has."""
    if name in own:
        return False
    settings: Any = getattr(network, "default_cfg", None) or {}
    named = settings.get("classifier") or ()
    classifiers = (named,) if isinstance(named, str) else tuple(named)
    if name.startswith(tuple(f"{classifier}." for classifier in classifiers)):
        return False
    return name.split(".")[0] in {known.split(".")[0] for known in own}
