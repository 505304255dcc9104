"""The `model:` part of a recipe."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from longtail.config import Options, Place
from longtail.core.errors import ConfigError
from longtail.models.backbones import (
    Backbone,
    Triple,
    build_backbone,
    preferred_side,
    published_normalisation,
)
from longtail.models.embedded import BACKBONE as EMBEDDED_BACKBONE
from longtail.models.embedded import embedded_file
from longtail.models.experts import Experts, Own, build_experts
from longtail.models.light import SIZES, WITHOUT_SIZE, Kind
from longtail.models.published import weights_name

SMALL_SIDE = 64


class ModelConfig(Options):
    """Which network sees the images."""

    backbone: str | None = Field(
        None,
        description="name of the network; if not given, resnet32 for small images and resnet50 for others",
    )
    pretrained: bool = Field(
        False,
        description="whether to load published weights; a backbone without a tag means weights trained only "
        "on ImageNet-1k",
    )
    weights: Literal["auto", "embedded"] | Place | None = Field(
        None,
        description="file with weights of the backbone (.safetensors or .pth), instead of timm's; embedded: "
        "those of EfficientNet-Lite0, installed with longtail; auto: the best weights available "
        "locally",
    )
    enlarge_to: Annotated[int, Field(ge=8)] | Literal["auto"] | None = Field(
        None,
        description="side in pixels to which images are enlarged before the backbone; auto enlarges small "
        "images if the backbone is pretrained",
    )
    width: int = Field(1, ge=1, le=16, description="width multiplier of the CIFAR ResNets")
    low_rank: int | None = Field(
        None, ge=1,
        description="rank of additions to the linear layers of a pretrained transformer, which are trained "
        "instead of its weights (LoRA)",
    )  # fmt: skip

    adapter: Kind | None = Field(
        None, description="light fine-tuning in place of the weights of a pretrained backbone"
    )
    adapter_size: int | None = Field(
        None, ge=1,
        description="width of adaptformer's bottleneck, 64 if not given; tokens of vpt, 10 if not given",
    )  # fmt: skip
    adapter_weights: Place | None = Field(
        None,
        description="what low_rank or adapter begins with: a file of longtail export --format adapter, or a "
        "folder of peft's",
    )
    projection: bool = Field(
        False, description="keep the last layer of CLIP, into the space that it shares with texts"
    )

    @model_validator(mode="after")
    def _one_source(self) -> "ModelConfig":
        if self.weights is not None and self.pretrained:
            raise ValueError(
                "weights from a file or published ones, not both: leave out weights or pretrained"
            )
        if self.weights == "auto" and self.backbone is not None:
            raise ValueError(
                "weights=auto also chooses the backbone: leave out backbone, or set pretrained=true"
            )
        if self.weights == "embedded" and self.backbone not in (None, EMBEDDED_BACKBONE):
            raise ValueError(
                f"weights=embedded are the weights of {EMBEDDED_BACKBONE}: leave out backbone, or name a file"
            )
        if isinstance(self.weights, Path) and self.backbone is None:
            raise ValueError("weights need backbone=NAME, the network that they belong to")
        if self.low_rank is not None and not self.begins_trained:
            raise ValueError(
                "low_rank freezes the weights of the backbone, so it needs pretrained=true or weights=FILE"
            )
        if self.adapter is not None and not self.begins_trained:
            raise ValueError(
                "adapter keeps the weights of the backbone, so it needs pretrained=true or weights=FILE"
            )
        if self.adapter is not None and self.low_rank is not None:
            raise ValueError("low_rank and adapter are two ways to the same end: leave one out")
        if self.adapter_size is not None and self.adapter in (None, *WITHOUT_SIZE):
            raise ValueError(f"adapter_size is of {', '.join(SIZES)}; leave it out")
        if self.adapter_weights is not None and self.adapter is None and self.low_rank is None:
            raise ValueError(
                "adapter_weights need the same low_rank or adapter as they were trained with"
            )
        return self

    @property
    def begins_trained(self) -> bool:
        """Whether the backbone has learnt something before its training here begins."""
        return self.pretrained or self.weights is not None

    def weights_file(self) -> Path | None:
        """Return the file that the weights are read from; None where they are timm's or random."""
        if self.weights == "embedded":
            return embedded_file()
        return self.weights if isinstance(self.weights, Path) else None

    def untrained(self) -> "ModelConfig":
        """Return the same network with fresh weights, for a checkpoint to be loaded into."""
        return self.model_copy(
            update={"pretrained": False, "weights": None, "adapter_weights": None}
        )

    def resolved(self, image_size: int) -> "ModelConfig":
        """Return the configuration with a backbone for images of `image_size` pixels, weights by full name.

        Raises:
            ConfigError: If there is no such network, or nothing was published of it.
        """
        assert self.weights != "auto", "choose the weights first"
        name = EMBEDDED_BACKBONE if self.weights == "embedded" else self.backbone
        if name is None:
            name = "resnet32" if image_size <= SMALL_SIDE and not self.pretrained else "resnet50"
        full = weights_name(name) if self.pretrained else name
        enlarge_to = self.enlarge_to
        if enlarge_to == "auto":
            side = preferred_side(full) if self.begins_trained else image_size
            enlarge_to = side if image_size < side else None
        return self.model_copy(update={"backbone": full, "enlarge_to": enlarge_to})

    def means(self, full: str | None) -> bool:
        """Say whether the backbone is the short form of the full name that `resolved` gives."""
        return self.pretrained and self.backbone is not None and weights_name(self.backbone) == full

    def normalisation(self) -> tuple[Triple, Triple] | None:
        """Return mean and standard deviation that published weights expect; None without such.

        Weights of a file are taken to expect what the published ones of their network do.
        """
        if not self.begins_trained or self.backbone is None:
            return None
        return published_normalisation(self.backbone)

    def build(self, image_size: int | None = None) -> Backbone:
        """Build the backbone for images of `image_size` pixels; see `build_backbone`."""
        assert self.backbone is not None, "resolve the model configuration first"
        assert self.weights != "auto", "resolve the model configuration first"
        side = self._side()
        if side is not None and side < (image_size or 0):
            raise ConfigError(
                f"model.enlarge_to={side} is less than the {image_size} pixels of the images."
            )
        return build_backbone(
            self.backbone,
            pretrained=self.pretrained,
            width=self.width,
            weights=self.weights,
            image_size=image_size,
            enlarge_to=side,
            low_rank=self.low_rank,
            adapter=self.adapter,
            adapter_size=self.adapter_size,
            projection=self.projection,
            adapter_weights=self.adapter_weights,
        )

    def _side(self) -> int | None:
        assert self.enlarge_to != "auto", "resolve the model configuration first"
        return self.enlarge_to

    def build_experts(self, count: int, *, narrow: bool = True, own: Own = "groups") -> Experts:
        """Build `count` experts on a shared trunk; see `longtail.models.experts.build_experts`.

        Raises:
            ConfigError: If there are none of this backbone, or narrow ones are to be pretrained.
        """
        assert self.backbone is not None, "resolve the model configuration first"
        if not isinstance(self.weights, Path | None):
            raise ConfigError(
                f"Experts are residual networks, but model.weights={self.weights} belong to another network."
            )
        if self.enlarge_to is not None:
            raise ConfigError("Experts use images at their own size; leave out model.enlarge_to.")
        if self.low_rank is not None:
            raise ConfigError("Experts are residual networks; leave model.low_rank out.")
        if self.adapter is not None:
            raise ConfigError("Experts are residual networks; leave model.adapter out.")
        return build_experts(
            self.backbone,
            count,
            width=self.width,
            narrow=narrow,
            own=own,
            pretrained=self.pretrained,
            weights=self.weights,
        )
