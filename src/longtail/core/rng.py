"""Random numbers by name and position; nothing in the library seeds globally."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from numpy.typing import NDArray

_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_STEP = np.uint64(0x9E3779B97F4A7C15)


def derive_seed(seed: int, *key: str | int) -> int:
    """Return a 63-bit seed for the generator named by `key`, for example `("sampler", 0, 12)`."""
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in key]
    return int(np.random.SeedSequence([seed, *words]).generate_state(1, np.uint64)[0] >> 1)


def numpy_generator(seed: int, *key: str | int) -> np.random.Generator:
    """Return NumPy's generator for `key`."""
    return np.random.default_rng(derive_seed(seed, *key))


def torch_generator(
    seed: int, *key: str | int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Return torch's generator for `key` on `device`."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *key))


def hashed(seed: int, *words: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return one well-mixed 64-bit number per row of the broadcast integer arrays `words`.

    A random function of position: the same words always give the same number, in any order and on
    any process. (Finaliser of SplitMix64 by Steele, Lea and Flood, 2014, once per word.)
    """
    state = np.uint64(derive_seed(seed, "hashed"))
    result = np.broadcast_to(state, np.broadcast_shapes(*(np.shape(word) for word in words)))
    with np.errstate(over="ignore"):
        for word in words:
            result = (result ^ np.asarray(word).astype(np.uint64)) + _STEP
            result = (result ^ (result >> np.uint64(30))) * _MIX[0]
            result = (result ^ (result >> np.uint64(27))) * _MIX[1]
            result = result ^ (result >> np.uint64(31))
    return result
