"""What is left to the data in a recipe for somebody's own images, and how it is chosen when they are open.

Weights that nobody named: on a GPU those of a large network of the hub, if it is in the cache or the
hub responds within five seconds; else those that are installed with longtail, whose network is fast on a CPU.
Where the images are grey and many, a network from nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from longtail.data.data_set import DataSet
from longtail.data.images.storage import ArrayImages
from longtail.data.options import FolderData, TableData
from longtail.methods import Method
from longtail.models.embedded import BACKBONE
from longtail.models.hub import at_hand
from longtail.models.published import saw_imagenet_alone, weights_licence
from longtail.recipes.options import RunConfig, validate
from longtail.recipes.own_images import FROM_NOTHING, FROZEN
from longtail.recipes.shipped import read_recipe

ON_A_GPU = "vit_small_patch14_dinov2.lvd142m"  # of the hub, 88 MB
UNLIKE_FROM = 5000  # grey training images from which a network from nothing is trained
LOOKED_AT, GREY_SHARE, SAME = 200, 0.95, 3  # images; share of them; difference of colours, of 255
OTHERS = "Others: weights=FILE backbone=NAME, or pretrained=true backbone=NAME."


def settle(
    config: RunConfig, data: DataSet, device: torch.device
) -> tuple[RunConfig, tuple[str, ...]]:
    """Choose weights, backbone, epochs and batch size by the data.

    Args:
        config: Of a run, which may leave these open.
        data: Opened.
        device: Where it is trained.

    Returns:
        The configuration, and sentences for people on what was chosen.
    """
    images = len(data.manifest.rows("train"))
    reasons: tuple[str, ...] = ()
    if config.model.weights == "auto":
        if images >= UNLIKE_FROM and _keeps_nothing(config) and looks_grey(data):
            config = from_nothing(config)
            reasons = (
                (
                    f"training starts from random weights, because the {images:,} training images "
                    f"({UNLIKE_FROM:,} or more) have no colour, and published weights are for colour "
                    "photographs. weights=embedded uses pretrained weights anyway."
                ),
            )
        else:
            chosen, reason = _weights(device)
            config = config.model_copy(update={"model": config.model.model_copy(update=chosen)})
            reasons = (reason,)
    training = config.training.fitted_to(images)
    return config.model_copy(update={"training": training}), reasons


def settled_as(config: RunConfig, stored: RunConfig) -> RunConfig:
    """Return a configuration with what it leaves open as a run that was begun with it settled that."""
    if "on_bad_image" not in config.data.model_fields_set and hasattr(stored.data, "on_bad_image"):
        kept: dict[str, Any] = {"on_bad_image": stored.data.on_bad_image}
        config = config.model_copy(update={"data": config.data.model_copy(update=kept)})
    if config.model.weights == "auto":
        model = stored.model
        if not model.begins_trained:
            config = from_nothing(config)
        kept = {"weights": model.weights, "pretrained": model.pretrained}
        config = config.model_copy(update={"model": config.model.model_copy(update=kept)})
    if config.model.enlarge_to == "auto":
        kept = {"enlarge_to": stored.model.enlarge_to}
        config = config.model_copy(update={"model": config.model.model_copy(update=kept)})
    if config.training.images_seen is not None:
        kept = {
            key: getattr(stored.training, key) for key in ("epochs", "batch_size", "images_seen")
        }
        config = config.model_copy(update={"training": config.training.model_copy(update=kept)})
    return config


def from_nothing(config: RunConfig) -> RunConfig:
    """Return a frozen-features configuration as one for a network from nothing; other changes stay."""
    raw = config.model_dump(mode="json")
    frozen, nothing = read_recipe(FROZEN), read_recipe(FROM_NOTHING)
    for part in ("model", "method", "training"):
        for key in {*frozen[part], *nothing[part]}:
            old, new = frozen[part].get(key), nothing[part].get(key)
            if old == new or (old is not None and raw[part][key] != old):
                continue
            if new is None:
                del raw[part][key]  # its default
            else:
                raw[part][key] = new
    return validate(raw, FROM_NOTHING)


def looks_grey(data: DataSet) -> bool:
    """Say whether the training images hold no colour, by a sample of them."""
    rows = data.manifest.rows("train")
    sample = rows[np.linspace(0, len(rows) - 1, min(LOOKED_AT, len(rows))).astype(np.int64)]
    grey = 0
    for row in sample.tolist():
        images = data.images
        pixels = (
            images.pixels[row].numpy() if isinstance(images, ArrayImages) else images.decode(row)
        )
        grey += int(np.ptp(pixels.astype(np.int16), axis=0).max()) <= SAME
    return grey >= GREY_SHARE * len(sample)


def _keeps_nothing(config: RunConfig) -> bool:
    """Say whether no weights were asked for that a network from nothing has not: those that stay."""
    return config.model.low_rank is None and config.model.adapter is None


def _weights(device: torch.device) -> tuple[dict[str, Any], str]:
    """Return the weights that nobody named, as a part of the configuration and as a sentence."""
    if device.type == "cuda" and at_hand(ON_A_GPU):
        return (
            {"weights": None, "pretrained": True, "backbone": ON_A_GPU},
            (
                f"the backbone starts with the published weights {ON_A_GPU} from the Hugging Face hub, "
                f"because there is a GPU and the weights are available. {OTHERS}"
            ),
        )
    why = (
        "because the Hugging Face hub did not respond"
        if device.type == "cuda"
        else "because it is fast without a GPU and nothing has to be downloaded"
    )
    return (
        {"weights": "embedded"},
        (
            f"the backbone is {BACKBONE} with the weights that were installed with longtail "
            f"(ImageNet-1k, Apache-2.0), {why}. {OTHERS}"
        ),
    )


def notes_on_weights(config: RunConfig, method: Method) -> tuple[str, ...]:
    """Say which weights the backbone begins with: published ones, or random ones where it matters."""
    if config.model.pretrained and config.model.backbone is not None:
        tag = config.model.backbone.partition(".")[2]
        more = "" if saw_imagenet_alone(tag) else ", which saw more than ImageNet-1k"
        licence = weights_licence(config.model.backbone)
        terms = f" Licence of the weights: {licence}." if licence else ""
        return (
            f"the backbone begins with the published weights {config.model.backbone}{more}.{terms}",
        )
    if config.model.begins_trained:
        named = config.model.weights
        of = "the embedded weights" if named == "embedded" else f"the weights of {named}"
        return (f"the backbone {config.model.backbone} starts with {of}, as requested.",)
    if config.start is not None:
        return ()
    trained = [stage.trainable for stage in method.stages() if stage.kind == "train"]
    tops = tuple(f"{top}." for names in trained for top in names)
    backbone = [name for name, _ in method.named_parameters() if name.startswith("backbone.")]
    left = 0 if () in trained else sum(not name.startswith(tops) for name in backbone)
    if left:
        return (
            (
                f"{left} of the {len(backbone)} tensors of the backbone keep random weights. To use "
                "pretrained ones: model.pretrained=true, or model.weights=FILE."
            ),
        )
    if isinstance(config.data, FolderData | TableData):
        return (
            (
                "training starts from random weights. If you have few images, pretrained weights may do "
                "much better: leave out the backbone, or use pretrained=true (downloaded from the Hugging "
                "Face hub) or weights=FILE."
            ),
        )
    return ()


def shorter_ways(config: RunConfig, device: torch.device) -> str:
    """Say what would make a training shorter, for the sentence on how long it takes."""
    training = config.training
    ways = [f"fewer epochs than {training.epochs} (epochs=N)"]
    if getattr(config.method, "augment", True):
        if isinstance(config.data, FolderData | TableData):
            ways.insert(
                0, "a classifier on frozen features (leave out the backbone, or use weights=FILE)"
            )
        ways.append("a smaller image_size or backbone")
        if device.type == "cpu":
            ways.append("a GPU")
    return ", ".join(ways)
