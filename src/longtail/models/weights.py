"""Weights of a network in somebody's file.

Training scripts store a network in many ways: bare, below a key (`state_dict`, `model`, `net`), below the
prefix of a wrapper (`module.`, `_orig_mod.`, `model.`), in two parts, with a moving average beside. One
reader finds it by the names of the network's own tensors, for whoever needs it.
"""

from __future__ import annotations

import argparse
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from longtail.core.boundary import brief, named, reading
from longtail.core.errors import ConfigError, DataError
from longtail.core.names import shown
from longtail.core.words import counted

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar", ".th")
COUNTER = "num_batches_tracked"  # files of old versions of torch lack it, and nothing here reads it
COMPILED = "_orig_mod."  # what torch.compile puts before the names of what it wraps
# words in the keys of moving averages, which loading code prefers
AVERAGES = {"ema", "average", "averaged", "avg", "swa"}
DEEPEST = 4  # levels of keys that are looked into
NUMPY_SCALAR: Any = np.float64(0).__reduce__()[0]  # what numbers of numpy are stored as a call of
# plain values that training scripts store beside weights; none of them runs code when it is read
PLAIN: list[Any] = [
    argparse.Namespace, np.dtype, NUMPY_SCALAR, (NUMPY_SCALAR, "numpy.core.multiarray.scalar"),
    *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "?")),
]  # fmt: skip
Place = tuple[str, ...]


@dataclass(frozen=True)
class Copy:
    """One copy of a network in a file.

    Attributes:
        places: Keys that lead to each tensor, by the network's own names.
        unknown: Names in the same part of the file that the network lacks.
        average: Whether it is a moving average of the trained weights.
    """

    places: Mapping[str, Place]
    unknown: tuple[str, ...]
    average: bool

    def tensors(self, content: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the tensors by the network's own names."""
        return {name: look_up(content, place) for name, place in self.places.items()}


def read_content(path: Path) -> dict[str, Any]:
    """Read `.safetensors`, or what `torch.save` wrote; code in a pickle is never run.

    Raises:
        DataError: If the file cannot be read, is damaged, or holds more than tensors and plain values.
    """
    with reading(path, "a checkpoint"):
        if is_safetensors(path):
            return dict(safetensors.torch.load_file(path))
        try:
            with torch.serialization.safe_globals(PLAIN):
                content = torch.load(path, map_location="cpu", weights_only=True)
        except OSError:
            raise
        except Exception as error:
            # torch reports foreign objects and damage by several kinds of errors
            raise DataError(
                f"{path} is damaged or contains more than tensors and plain values ({_foreign(error)}); "
                "pickled code is not loaded. Save only the weights: torch.save(model.state_dict(), path)."
            ) from error
    if not isinstance(content, dict):
        raise DataError(
            f"{path} does not contain a state_dict; save it with torch.save(model.state_dict(), path)."
        )
    return content


def is_safetensors(path: Path) -> bool:
    """Say whether a file is one of safetensors, by its name or by how it begins."""
    if path.suffix.lower() == ".safetensors":
        return True
    with path.open("rb") as stream:
        return stream.read(9)[8:] == b"{"


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def weights_checksum(network: nn.Module) -> str:
    """Return the SHA-256 of the names, shapes and values of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        plain = value.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {list(plain.shape)}\n".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def find_copies(content: Mapping[str, Any], own: Mapping[str, Tensor], path: Path) -> list[Copy]:
    """Return the copies of a network in a file, moving averages first; at least one and at most two.

    Args:
        content: Of the file.
        own: Tensors of the network by name, for names and shapes.
        path: Of the file, for messages.

    Raises:
        ConfigError: If it holds no such network, or several that are told apart by nothing.
    """
    parts = dict(_parts(content))
    if not parts:
        raise ConfigError(f"{path} contains no named tensors.")
    needed = [name for name in own if not name.endswith(COUNTER)]
    if not needed:
        raise ConfigError("The network has no weights.")
    found = [copy for place in parts for copy in _copies_in(parts, [place], own)]
    whole = [copy for copy in found if all(name in copy.places for name in needed)]
    if not whole:  # in parts side by side, as backbone and classifier
        parents = {place[:-1] for place in parts if place}
        for parent in sorted(parents):
            beside = [place for place in parts if place and place[:-1] == parent]
            joint = _joined([_best(_copies_in(parts, [place], own)) for place in beside])
            if joint is not None and all(name in joint.places for name in needed):
                whole.append(joint)
    if not whole:
        raise ConfigError(_no_network(parts, found, own, path))
    plain_ones = [copy for copy in whole if not copy.average]
    averages = [copy for copy in whole if copy.average]
    if len(plain_ones) > 1 or len(averages) > 1:
        several = averages if len(averages) > 1 else plain_ones
        first = needed[0]
        places = (".".join(copy.places[first]).removesuffix(first) for copy in several)
        where = named(map(repr, places))
        raise ConfigError(
            f"{path} contains this network {len(several)} times, under {where}. Save only the one that "
            "you mean."
        )
    return [*averages, *plain_ones]


def look_up(content: Mapping[str, Any], place: Place) -> Any:  # noqa: ANN401 - whatever is there
    """Return what stands at the end of keys."""
    inside: Any = content
    for key in place:
        inside = inside[key]
    return inside


def replaced(content: Mapping[str, Any], changes: Mapping[Place, Tensor]) -> dict[str, Any]:
    """Return the content of a file with other tensors at some places; everything else is the same."""
    result = dict(content)
    for place, value in changes.items():
        inside = result
        for key in place[:-1]:
            # attributes that state_dict() puts onto its dict are of no use to anybody who loads it
            inside[key] = dict(inside[key])
            inside = inside[key]
        inside[place[-1]] = value
    return result


def usable(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return tensors that are ordinary numbers in memory.

    Raises:
        DataError: If one is sparse, quantised, without content (meta), or not finite.
    """
    for name, value in tensors.items():
        odd = (
            "without content (device meta)" if value.is_meta
            else "quantised" if value.is_quantized
            else f"stored as {value.layout}" if value.layout != torch.strided
            else "complex" if value.is_complex()
            else ""
        )  # fmt: skip
        if odd:
            raise DataError(
                f"{path}: the tensor {shown(str(name))} is {odd}; save ordinary dense tensors."
            )
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise DataError(
                f"{path}: the tensor {shown(str(name))} contains values that are not finite."
            )
    return dict(tensors)


def load_network(network: nn.Module, path: Path) -> None:
    """Copy the weights of a file into a network without classifier, all of them or none.

    The network may lie under any one prefix (`module.`, `backbone.`, `encoder.`), and of a moving average and
    the weights that it follows, the average is taken, as timm does. A classifier of the file is left out.

    Args:
        network: A backbone; its `default_cfg["classifier"]`, if it has one, names what may be left out.
        path: See `read_content`.

    Raises:
        DataError: If the file cannot be read.
        ConfigError: If it is of another network, or holds the network more than once.
    """
    own, content = network.state_dict(), read_content(path)
    try:
        with reading(path, "a checkpoint"):
            best = find_copies(content, own, path)[0]
            inside = usable(best.tensors(content), path)
        problems = misfits(own, inside)
        problems += [f"unexpected {n}" for n in best.unknown if _is_of_network(n, own, network)]
        if problems:
            raise ConfigError(f"{path} belongs to another network: {listed(problems)}.")
    except (ConfigError, DataError) as error:
        raise type(error)(
            f"model.weights: {error} Name the right network with model.backbone."
        ) from error
    network.load_state_dict({name: inside.get(name, own[name]) for name in own})


def misfits(own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """Return in words which tensors of a network a file lacks or has in another shape."""
    missing = [f"missing {n}" for n in own if n not in found and not n.endswith(COUNTER)]
    return missing + [
        f"{name} has shape {list(found[name].shape)} instead of {list(value.shape)}"
        for name, value in own.items()
        if name in found and found[name].shape != value.shape
    ]


def listed(problems: list[str], most: int = 4) -> str:
    """Return the first of several problems."""
    more = f"; and {len(problems) - most} more" if problems[most:] else ""
    return "; ".join(shown(problem) for problem in problems[:most]) + more


def _parts(inside: object, place: Place = ()) -> Iterator[tuple[Place, dict[str, Tensor]]]:
    """Yield every dict of tensors in a file, by the keys that lead to it; optimisers are left out."""
    if not isinstance(inside, Mapping) or len(place) > DEEPEST or "optim" in "".join(place[-1:]):
        return
    tensors = {k: v for k, v in inside.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if tensors:
        yield place, tensors
    for key, value in inside.items():
        if isinstance(key, str) and not isinstance(value, Tensor):
            yield from _parts(value, (*place, key))


def _copies_in(
    parts: Mapping[Place, Mapping[str, Tensor]], places: list[Place], own: Mapping[str, Tensor]
) -> list[Copy]:
    """Return what one part of a file holds of a network, below each prefix that fits a name."""
    copies = []
    for place in places:
        names = {name.replace(COMPILED, ""): name for name in parts[place]}
        for prefix in _prefixes(names, own):
            inside = {n.removeprefix(prefix): names[n] for n in names if n.startswith(prefix)}
            known = {name: (*place, inside[name]) for name in own if name in inside}
            unknown = tuple(name for name in inside if name not in own)
            words = re.split(r"[^a-z]+", ".".join((*place, prefix)).lower())
            average = not AVERAGES.isdisjoint(words)
            copies.append(Copy(known, unknown, average))
    return copies


def _prefixes(names: Mapping[str, str], own: Mapping[str, Tensor]) -> list[str]:
    """Return what stands before names of the network, by the rarest of its names that are there."""
    for probe in own:
        found = [n.removesuffix(probe) for n in names if n == probe or n.endswith(f".{probe}")]
        if found:
            return found
    return []


def _best(copies: list[Copy]) -> Copy | None:
    return max(copies, key=lambda copy: len(copy.places), default=None)


def _joined(copies: list[Copy | None]) -> Copy | None:
    """Return parts of one network as one copy, if no name is in two of them."""
    known = [copy for copy in copies if copy is not None]
    places: dict[str, Place] = {}
    for copy in known:
        if set(places) & set(copy.places):
            return None
        places |= copy.places
    unknown = tuple(name for copy in known for name in copy.unknown)
    return Copy(places, unknown, any(copy.average for copy in known)) if places else None


def _no_network(
    parts: Mapping[Place, Mapping[str, Tensor]],
    found: list[Copy],
    own: Mapping[str, Tensor],
    path: Path,
) -> str:
    """Say what is there instead of the network."""
    best = _best(found)
    if best is not None and len(best.places) > len(own) // 2:
        missing = [f"missing {n}" for n in own if n not in best.places and not n.endswith(COUNTER)]
        missing += [f"unexpected {name}" for name in best.unknown]
        return f"{path} belongs to another network: {listed(missing)}."
    total = sum(map(len, parts.values()))
    return (
        f"{path} belongs to another network: it contains {counted(total, 'tensor', 'tensors')}, "
        f"and none is called {next(iter(own))}, as in this network, or most of them are missing."
    )


def _foreign(error: Exception) -> str:
    """Return which object torch refused to load, or what it says of a damaged file."""
    said = str(error)
    if "Unsupported global: GLOBAL " in said:
        return shown(said.split("Unsupported global: GLOBAL ", 1)[1].split()[0], 80)
    return "it was not written by torch.save" if "weights_only" in said else brief(error)


def _is_of_network(name: str, own: Mapping[str, Tensor], network: nn.Module) -> bool:
    """Say whether a name that the network lacks is one of its layers, which a deeper one has."""
    settings: Any = getattr(network, "default_cfg", None) or {}
    stated = settings.get("classifier") or ()
    classifiers = (stated,) if isinstance(stated, str) else tuple(stated)
    if name.startswith(tuple(f"{classifier}." for classifier in classifiers)):
        return False
    return name.split(".")[0] in {known.split(".")[0] for known in own}
