"""What the classifier begins with, where it is not drawn at random (LIFT: semantic-aware initialisation).

    class-means   w_c = mean of the features of class c, one pass over the training images
    probe         the classifier that frozen features give: trained alone for some epochs, then with the rest
    vectors       w_c = the vector of class c in a file, as a text tower gives

A linear head takes the class means divided by their mean length, and b = 0: the class with the largest logit
is the one whose mean has the largest product with the features. A cosine head takes their directions.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from longtail.config import ByName, Options, Place
from longtail.core.errors import ConfigError
from longtail.core.stage import Sampling, Stage
from longtail.models.class_vectors import read_class_vectors
from longtail.models.heads import CosineHead, LinearHead
from longtail.models.weights import checksum


class ClassMeansOptions(Options):
    """Class means of the frozen features."""

    name: Literal["class-means"] = "class-means"


class ProbeOptions(Options):
    """The head alone is trained first, on frozen features (linear probe)."""

    name: Literal["probe"] = "probe"
    epochs: int = Field(10, ge=1, description="over features that are computed once")
    learning_rate: float | None = Field(
        None, gt=0, description="that of the training if not given; a cosine to zero"
    )


class VectorsOptions(Options):
    """Vectors of the classes from a file, see `longtail text-head`."""

    name: Literal["vectors"] = "vectors"
    file: Place | None = Field(None, description=".safetensors or .npz: a class name to its vector")


HeadStartOptions = Annotated[
    Annotated[ClassMeansOptions | ProbeOptions | VectorsOptions, Field(discriminator="name")],
    ByName,
]


def start_stage(options: Options, sampling: Sampling, exempt: tuple[str, ...] = ()) -> Stage:
    """Return the stage before all others; it sees features of the part `backbone` and changes `head`.

    Args:
        options: One of `HeadStartOptions`.
        sampling: Of a probe.
        exempt: Names of parameters that are exempt from weight decay.
    """
    shared: dict[str, Any] = {
        "name": options.name,  # type: ignore[attr-defined]
        "views": ("none",), "features": "backbone", "trainable": ("head",),
    }  # fmt: skip
    if isinstance(options, ProbeOptions):
        return Stage(
            **shared, epochs=options.epochs, samplings=(sampling,), schedule="cosine", warmup=0,
            learning_rate=options.learning_rate, no_weight_decay=exempt, whole=True,
        )  # fmt: skip
    return Stage(**shared, epochs=0, kind="fit")


def start_head(
    head: CosineHead | LinearHead,
    options: Options,
    batches: Any,  # noqa: ANN401 - of features [B, D] and labels [B]
    classes: tuple[str, ...],
) -> dict[str, Any]:
    """Give the head its first rows, and return what should be written down about it.

    Args:
        head: In place.
        options: `ClassMeansOptions` or `VectorsOptions`.
        batches: Features and labels of the training images; not touched for vectors.
        classes: Names, in the order of the labels.

    Raises:
        ConfigError: If the vectors do not fit the classes or the backbone.
    """
    width = head.weight.shape[1]
    if isinstance(options, VectorsOptions):
        if options.file is None:
            raise ConfigError(
                "head_start=vectors needs head_start.file=FILE, see longtail text-head."
            )
        vectors = read_class_vectors(options.file)
        head.begin_with(vectors.for_features(classes, width))
        unused = vectors.unused(classes)
        return {"vectors_sha256": checksum(options.file), "unused_vectors": len(unused)}
    means = class_means(batches, len(classes))
    head.begin_with(means / means.norm(dim=1).mean())
    return {}


def class_means(batches: Any, num_classes: int) -> Tensor:  # noqa: ANN401 - as above
    """Return the mean feature of each class, float64 [C, D], on the CPU, because Metal has no float64.

    Sums are in float64, so order changes little.

    Args:
        batches: Features [B, D] and labels [B].
        num_classes: C; each has at least one image.
    """
    sums: Tensor | None = None
    counts: Tensor | None = None
    for features, labels in batches:
        wide, rows = features.cpu().double(), labels.cpu()
        if sums is None or counts is None:
            sums, counts = wide.new_zeros(num_classes, wide.shape[1]), wide.new_zeros(num_classes)
        sums.index_add_(0, rows, wide)
        counts += torch.bincount(rows, minlength=num_classes)
    assert sums is not None
    assert counts is not None
    return sums / counts[:, None]
