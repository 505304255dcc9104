"""A perceptual hash: coarsely what an image shows, in 144 bits that nearly agree for a copy of another size.

Zauner, "Implementation and benchmarking of perceptual image hash functions", 2010 (the DCT hash, here with
12 x 12 coefficients): the brightness at 48 x 48 pixels, its 12 x 12 lowest frequencies, and whether each is
above their median. Colours are not looked at, nor is what is finer than a twelfth of the image.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn
from torch import Tensor

SIDE, KEPT = 48, 12  # pixels; frequencies of each direction
BITS = KEPT**2
FLAT = 8  # of 255: an image with less contrast has a hash of noise


def perceptual_hash(pixels: Tensor) -> str:
    """Return the hash of an image, 36 hexadecimal digits; empty for an image of nearly one brightness.

    Args:
        pixels: RGB, uint8 [3, H, W].
    """
    whole = Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))
    if min(whole.size) > 4 * SIDE:  # most of the work, before the colours are mixed
        whole = whole.reduce(min(whole.size) // (2 * SIDE))
    small = whole.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    grey = np.asarray(small, dtype=np.float64)
    if np.ptp(grey) < FLAT:
        return ""
    low = dctn(grey)[:KEPT, :KEPT]
    return np.packbits(low > np.median(low)).tobytes().hex()


def as_unit_vectors(hashes: Sequence[str]) -> NDArray[np.float32]:
    """Return hashes as float32 [N, 144] of length 1: two that differ in d bits have cosine 1 - d / 72."""
    raw = np.frombuffer(bytes.fromhex("".join(hashes)), np.uint8).reshape(len(hashes), BITS // 8)
    signs = np.unpackbits(raw, axis=1).astype(np.float32) * 2 - 1
    unit: NDArray[np.float32] = signs / np.float32(KEPT)
    return unit
