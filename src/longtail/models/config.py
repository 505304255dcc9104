"""The `model:` part of a recipe."""

from pydantic import Field

from longtail.data.options import Options
from longtail.models.backbones import Backbone, build_backbone

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

    def build(self) -> Backbone:
        """Build the backbone; see `build_backbone`."""
        assert self.backbone is not None, "resolve the model configuration first"
        return build_backbone(self.backbone, pretrained=self.pretrained, width=self.width)
