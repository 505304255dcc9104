"""CIFAR-10 and CIFAR-100 from torchvision's folder layout, read without trusting a pickle."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray

from longtail.core.errors import DataError
from longtail.core.manifest import Manifest
from longtail.data.data_set import DataSet
from longtail.data.images.storage import ArrayImages

# Both sets are normalised with CIFAR-10's numbers in every long-tail code (LDAM-DRW, ResLT, ...).
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2023, 0.1994, 0.2010)


@dataclass(frozen=True)
class _Layout:
    folder: str
    train: tuple[str, ...]
    test: str
    meta: str
    labels: bytes
    names: bytes
    num_classes: int


LAYOUTS = {
    "cifar10": _Layout(
        "cifar-10-batches-py",
        tuple(f"data_batch_{part}" for part in range(1, 6)),
        "test_batch",
        "batches.meta",
        b"labels",
        b"label_names",
        10,
    ),
    "cifar100": _Layout(
        "cifar-100-python", ("train",), "test", "meta", b"fine_labels", b"fine_label_names", 100
    ),
}


class _ArrayClass:
    """Stands for `numpy.ndarray` inside a pickle; cannot be called."""


def _empty_array(*_arguments: object) -> NDArray[np.uint8]:
    """Stand for NumPy's `_reconstruct`: an empty byte array that the pickle then fills."""
    return np.empty(0, dtype=np.uint8)


def _byte_type(code: object, *_arguments: object) -> np.dtype[np.uint8]:
    """Stand for `numpy.dtype`: only unsigned bytes exist here."""
    if code not in ("u1", b"u1", "uint8", b"uint8"):
        raise pickle.UnpicklingError(f"an array of type {code!r} instead of unsigned bytes")
    return np.dtype(np.uint8)


def _latin1(text: object, encoding: object = "latin1") -> bytes:
    """Stand for `_codecs.encode`, with which Python 3 writes bytes into old pickles."""
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError("an encoding other than latin1")
    return text.encode("latin1")


class _ArrayUnpickler(pickle.Unpickler):
    """Builds dicts, lists, numbers, strings and byte arrays, and calls nothing else."""

    _allowed: dict[tuple[str, str], object] = {  # noqa: RUF012 - a constant
        ("numpy.core.multiarray", "_reconstruct"): _empty_array,
        ("numpy._core.multiarray", "_reconstruct"): _empty_array,
        ("numpy", "ndarray"): _ArrayClass,
        ("numpy", "dtype"): _byte_type,
        ("_codecs", "encode"): _latin1,
    }

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - pickle's signature
        try:
            return self._allowed[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks to run {module}.{name}") from None

    def persistent_load(self, pid: object) -> NoReturn:
        raise pickle.UnpicklingError("it refers to objects outside the file")


def read_pickle(path: Path) -> dict[bytes, Any]:
    """Read one CIFAR file; whatever else a pickle might contain is refused.

    Raises:
        DataError: If the file is missing, damaged, or asks for anything but byte arrays.
    """
    try:
        with path.open("rb") as stream:
            content = _ArrayUnpickler(stream, encoding="bytes").load()
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist.") from error
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, IndexError, KeyError,
            AttributeError, OverflowError, MemoryError) as error:  # fmt: skip
        raise DataError(
            f"{path} is not a CIFAR file, or it is damaged ({error}). Nothing in it was executed. "
            "Download the archive again from the official page."
        ) from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is not a CIFAR file: it contains a {type(content).__name__}.")
    # files written by Python 3 have text keys
    return {k.encode() if isinstance(k, str) else k: v for k, v in content.items()}


def read_cifar(name: str, root: Path, *, download: bool = True) -> DataSet:
    """Read CIFAR-10 or CIFAR-100 in file order: train rows first, then test.

    Args:
        name: `cifar10` or `cifar100`.
        root: Folder that holds torchvision's folder (`cifar-100-python/`).
        download: Whether torchvision may download the archive if it is not there.

    Raises:
        DataError: If the files are not there and cannot be fetched (the message says which file
            belongs where), or are damaged.
    """
    layout = LAYOUTS[name]
    folder = root / layout.folder
    if not (folder / layout.train[0]).exists():
        _fetch(name, root, layout, download=download)
    names = tuple(
        entry.decode() if isinstance(entry, bytes) else str(entry)
        for entry in _entry(folder / layout.meta, layout.names)
    )
    # one array, filled file by file: the archive is never held twice
    pixels = np.empty((60_000, 3, 32, 32), dtype=np.uint8)
    labels, splits, filled = [], [], 0
    for split, files in ((0, layout.train), (2, (layout.test,))):
        for file in files:
            planes, numbers = _planes(folder / file, read_pickle(folder / file), layout.labels)
            if filled + len(planes) > len(pixels):
                raise DataError(f"{folder} contains more than {len(pixels)} images.")
            pixels[filled : filled + len(planes)] = planes
            filled += len(planes)
            labels.append(numbers)
            splits.append(np.full(len(numbers), split, dtype=np.int8))
            del planes
    manifest = Manifest(
        {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}[name],
        names,
        np.arange(filled),
        np.concatenate(labels),
        np.concatenate(splits),
    )
    return DataSet(manifest, ArrayImages(torch.from_numpy(pixels[:filled])), MEAN, STD)


def _entry(path: Path, key: bytes) -> Any:  # noqa: ANN401 - content of a pickle
    content = read_pickle(path)
    if key not in content:
        raise DataError(f"{path} is not a CIFAR file: it has no {key.decode()!r}.")
    return content[key]


def _planes(
    path: Path, content: dict[bytes, Any], label_key: bytes
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return images [N, 3, 32, 32] and labels [N] of one file."""
    data = content.get(b"data")
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (3072,):
        raise DataError(f"{path} is not a CIFAR file: its data is not a uint8 array [N, 3072].")
    labels = np.asarray(content.get(label_key, ()), dtype=np.int64)
    if len(labels) != len(data):
        raise DataError(f"{path}: {len(data)} images, {len(labels)} labels.")
    return data.reshape(-1, 3, 32, 32), labels


def _fetch(name: str, root: Path, layout: _Layout, *, download: bool) -> None:
    where = (
        f"Put the unpacked archive there, so that {root / layout.folder / layout.train[0]} exists, "
        "or set another folder with data.root=DIR or the environment variable LONGTAIL_DATA."
    )
    if not download:
        raise DataError(f"{name} is not in {root} and download is off. {where}")
    from torchvision import datasets

    reader = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
    try:
        reader(str(root), download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{name} is not in {root} and cannot be downloaded ({error}). {where}"
        ) from error
