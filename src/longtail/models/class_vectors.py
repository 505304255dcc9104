"""Vectors of classes in a file: what a text tower makes of their names, or any other vector a class.

    .safetensors, .npz    one array [E] for each class, by the name of the class; if known `__projection__`
                          [E, D], with which the image network of CLIP maps its features to the vectors' space

Order in the file means nothing: rows are found by name.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from longtail.core.boundary import named, reading
from longtail.core.errors import ConfigError, DataError
from longtail.core.names import normal_name, same_to_people, shown
from longtail.core.words import counted

PROJECTION = "__projection__"
SUFFIXES = (".safetensors", ".npz")


@dataclass(frozen=True)
class ClassVectors:
    """Vectors by class.

    Attributes:
        source: The file, for messages.
        by_name: Of each class, float32 [E].
        projection: [E, D] from features to vectors, or None.
    """

    source: str
    by_name: Mapping[str, Tensor]
    projection: Tensor | None = None

    @property
    def width(self) -> int:
        """E."""
        return len(next(iter(self.by_name.values())))

    def ordered(self, classes: Sequence[str]) -> Tensor:
        """Return the vectors of some classes in their order, float32 [C, E].

        Raises:
            ConfigError: If one is missing; the nearest names of the file are shown.
        """
        known = {normal_name(name): vector for name, vector in self.by_name.items()}
        if missing := [name for name in classes if normal_name(name) not in known]:
            alike = {same_to_people(name): name for name in self.by_name}
            near = alike.get(same_to_people(missing[0]))
            if near is None:
                found = difflib.get_close_matches(missing[0], list(self.by_name), n=1)
                near = found[0] if found else None
            hint = f" It has {shown(near)!r}; names must be equal." if near else ""
            raise ConfigError(
                f"{self.source} has no vector for {len(missing)} of {len(classes)} classes: "
                f"{named(missing)}.{hint}"
            )
        return torch.stack([known[normal_name(name)] for name in classes])

    def for_features(self, classes: Sequence[str], width: int) -> Tensor:
        """Return one row a class for features of a width, float32 [C, width].

        Vectors t of the features' own width are taken as they are. Otherwise t P: the product of t with the
        projection P f of features f is that of t P with f, so classes rank as in CLIP.

        Raises:
            ConfigError: If a class is missing, or the vectors are of another network.
        """
        rows = self.ordered(classes)
        if self.width == width:
            return rows
        if self.projection is not None and self.projection.shape[1] == width:
            return rows @ self.projection
        through = (
            "" if self.projection is None
            else f", or {self.projection.shape[1]} through its projection"
        )  # fmt: skip
        raise ConfigError(
            f"{self.source} holds vectors of {self.width} numbers{through}, and the features of this "
            f"backbone have {width}. Text and images must be of one model; a CLIP backbone of timm needs a "
            "file with a projection (longtail text-head writes it), or model.projection=true."
        )

    def unused(self, classes: Sequence[str]) -> list[str]:
        """Return the names of the file that are none of the classes."""
        used = {normal_name(name) for name in classes}
        return [name for name in self.by_name if normal_name(name) not in used]


def read_class_vectors(path: Path) -> ClassVectors:
    """Read vectors of classes.

    Raises:
        ConfigError: If the name ends otherwise than in `SUFFIXES`.
        DataError: If the file cannot be read, holds something else, or two names are the same class.
    """
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path}: vectors of classes are read from {' or '.join(SUFFIXES)}.")
    with reading(path, "vectors of classes"):
        content = _content(path)
        projection = content.pop(PROJECTION, None)
        if not content:
            raise DataError(f"{path} holds no vector.")
        for name, value in content.items():
            if value.ndim != 1 or not value.numel():
                raise DataError(
                    f"{path}: {shown(name)!r} has shape {list(value.shape)}. The file must hold one vector "
                    "for each class, under the name of the class."
                )
            if not bool(torch.isfinite(value).all()) or not bool(value.any()):
                raise DataError(f"{path}: the vector of {shown(name)!r} is zero or not finite.")
        widths = sorted({len(value) for value in content.values()})
        if len(widths) > 1:
            raise DataError(f"{path}: its vectors have different lengths: {named(widths)}.")
        if projection is not None and (projection.ndim != 2 or len(projection) != widths[0]):
            raise DataError(
                f"{path}: its projection has shape {list(projection.shape)} and not [{widths[0]}, D]."
            )
        if len({normal_name(name) for name in content}) < len(content):
            raise DataError(
                f"{path}: two of its {counted(len(content), 'name', 'names')} are one class."
            )
    return ClassVectors(str(path), content, projection)


def write_class_vectors(
    path: Path,
    names: Sequence[str],
    vectors: Tensor,
    projection: Tensor | None = None,
    about: Mapping[str, str] | None = None,
) -> None:
    """Write vectors [C, E] of classes into a `.safetensors` or `.npz` file.

    Args:
        path: See `SUFFIXES`.
        names: Of the classes.
        vectors: One row a class.
        projection: [E, D], see `ClassVectors`.
        about: Kept in a `.safetensors` file: which model, which texts.
    """
    tensors = {name: row.float().contiguous() for name, row in zip(names, vectors, strict=True)}
    if projection is not None:
        tensors[PROJECTION] = projection.float().contiguous()
    if path.suffix == ".npz":
        with path.open("wb") as stream:
            np.savez(stream, **{name: value.numpy() for name, value in tensors.items()})
    else:
        # rows of one matrix share memory, which safetensors refuses
        copies = {name: value.clone() for name, value in tensors.items()}
        safetensors.torch.save_file(copies, path, metadata=dict(about or {}))


def _content(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}
    else:
        found = dict(safetensors.torch.load_file(path))
    return {name: value.float() for name, value in found.items()}
