"""From the host to the device without waiting."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def send(values: NDArray[Any], device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Return an array as a tensor on `device`; the host does not wait for what the device computes.

    Args:
        values: Of any shape and any type that PyTorch has.
        device: Where to.
        dtype: Of the result; that of `values` by default.
    """
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    if dtype is not None:
        tensor = tensor.to(dtype)  # before it is pinned: what is converted on the way is not
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    # Metal would read the memory later, when it may hold something else
    return tensor.to(device, non_blocking=device.type != "mps")
