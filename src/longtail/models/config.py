"""The `model:` part of a recipe."""

from pydantic import Field, model_validator

from longtail.core.errors import ConfigError
from longtail.data.options import Options, Place
from longtail.models.backbones import (
    Backbone,
    Triple,
    build_backbone,
    published_normalisation,
)
from longtail.models.experts import Experts, Own, build_experts

SMALL_SIDE = 64


class ModelConfig(Options):
    """Which network sees the pictures."""

    backbone: str | None = Field(
        None, description="name; resnet32 for small pictures and resnet50 for others if not given"
    )
    pretrained: bool = Field(False, description="load timm's published weights")
    weights: Place | None = Field(
        None,
        description="file with weights of the backbone, .safetensors or .pth, in place of timm's",
    )
    enlarge_to: int | None = Field(
        None, ge=8, description="side in pixels to which pictures are enlarged before the backbone"
    )
    width: int = Field(1, ge=1, le=16, description="channel multiplier of the CIFAR ResNets")
    low_rank: int | None = Field(
        None, ge=1,
        description="rank of additions to the linear layers of a pretrained transformer, trained in place of "
        "its weights (LoRA)",
    )  # fmt: skip

    @model_validator(mode="after")
    def _one_source(self) -> "ModelConfig":
        if self.weights is not None and self.pretrained:
            raise ValueError("weights of a file or published ones: leave out weights or pretrained")
        if self.weights is not None and self.backbone is None:
            raise ValueError("weights need backbone=NAME, the network that they are of")
        if self.low_rank is not None and not self.begins_trained:
            raise ValueError(
                "low_rank keeps the weights of the backbone, so it needs pretrained=true or weights=FILE"
            )
        return self

    @property
    def begins_trained(self) -> bool:
        """Whether the backbone has learnt something before its training here begins."""
        return self.pretrained or self.weights is not None

    def untrained(self) -> "ModelConfig":
        """Return the same network with fresh weights, for a checkpoint to be loaded into."""
        return self.model_copy(update={"pretrained": False, "weights": None})

    def resolved(self, image_size: int) -> "ModelConfig":
        """Return the configuration with a backbone chosen for pictures of `image_size` pixels."""
        if self.backbone is not None:
            return self
        name = "resnet32" if image_size <= SMALL_SIDE and not self.pretrained else "resnet50"
        return self.model_copy(update={"backbone": name})

    def normalisation(self) -> tuple[Triple, Triple] | None:
        """Return mean and standard deviation that published weights expect; None without such.

        Weights of a file are taken to expect what the published ones of their network do.
        """
        if not self.begins_trained or self.backbone is None:
            return None
        return published_normalisation(self.backbone)

    def build(self, image_size: int | None = None) -> Backbone:
        """Build the backbone for pictures of `image_size` pixels; see `build_backbone`."""
        assert self.backbone is not None, "resolve the model configuration first"
        if self.enlarge_to is not None and self.enlarge_to < (image_size or 0):
            raise ConfigError(
                f"model.enlarge_to={self.enlarge_to} is less than the {image_size} pixels of the pictures."
            )
        return build_backbone(
            self.backbone,
            pretrained=self.pretrained,
            width=self.width,
            weights=self.weights,
            image_size=image_size,
            enlarge_to=self.enlarge_to,
            low_rank=self.low_rank,
        )

    def build_experts(self, count: int, *, narrow: bool = True, own: Own = "groups") -> Experts:
        """Build `count` experts on a shared trunk; see `longtail.models.experts.build_experts`.

        Raises:
            ConfigError: If there are none of this backbone, or narrow ones are to be pretrained.
        """
        assert self.backbone is not None, "resolve the model configuration first"
        if self.enlarge_to is not None:
            raise ConfigError("Experts take pictures as they are; leave model.enlarge_to out.")
        if self.low_rank is not None:
            raise ConfigError("Experts are residual networks; leave model.low_rank out.")
        return build_experts(
            self.backbone,
            count,
            width=self.width,
            narrow=narrow,
            own=own,
            pretrained=self.pretrained,
            weights=self.weights,
        )
