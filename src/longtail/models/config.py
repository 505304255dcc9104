"""The `model:` part of a recipe."""

from pydantic import Field

from longtail.core.errors import ConfigError
from longtail.data.options import Options
from longtail.models.backbones import (
    Backbone,
    Triple,
    build_backbone,
    published_normalisation,
)
from longtail.models.experts import Experts, build_experts

SMALL_SIDE = 64


class ModelConfig(Options):
    """Which network sees the pictures."""

    backbone: str | None = Field(
        None, description="name; resnet32 for small pictures and resnet50 for others if not given"
    )
    pretrained: bool = Field(False, description="load timm's published weights")
    width: int = Field(1, ge=1, le=16, description="channel multiplier of the CIFAR ResNets")

    def resolved(self, image_size: int) -> "ModelConfig":
        """Return the configuration with a backbone chosen for pictures of `image_size` pixels."""
        if self.backbone is not None:
            return self
        name = "resnet32" if image_size <= SMALL_SIDE and not self.pretrained else "resnet50"
        return self.model_copy(update={"backbone": name})

    def normalisation(self) -> tuple[Triple, Triple] | None:
        """Return mean and standard deviation that published weights expect; None without such."""
        if not self.pretrained or self.backbone is None:
            return None
        return published_normalisation(self.backbone)

    def build(self) -> Backbone:
        """Build the backbone; see `build_backbone`."""
        assert self.backbone is not None, "resolve the model configuration first"
        return build_backbone(self.backbone, pretrained=self.pretrained, width=self.width)

    def build_experts(self, count: int) -> Experts:
        """Build `count` experts on a shared trunk; see `longtail.models.experts.build_experts`.

        Raises:
            ConfigError: If there are none of this backbone, or it is to be pretrained.
        """
        assert self.backbone is not None, "resolve the model configuration first"
        if self.pretrained:
            raise ConfigError(
                "Experts are narrower than the published weights; set model.pretrained=false."
            )
        return build_experts(self.backbone, count, width=self.width)
