"""What can be chosen of the representation and of each classifier; `method.py` has the symbols."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from longtail.config import ByName, Options
from longtail.methods.ingredients import MixingOptions, SamplingOptions

BALANCED = SamplingOptions(name="class-balanced")


class RepresentationOptions(Options):
    """Stage 1: the network with its first classifier."""

    sampling: Annotated[SamplingOptions, ByName] = SamplingOptions()
    mixing: Annotated[MixingOptions | None, ByName] = None
    train: Literal["all", "last-block"] = Field(
        "all",
        description="what is trained; last-block keeps the other layers as pretrained (Places-LT)",
    )
    backbone_rate: float = Field(
        1.0, gt=0, description="factor for the backbone's learning rate (0.1 on Places-LT)"
    )
    frozen_bn: Literal["train", "eval"] = Field(
        "train",
        description="with last-block: whether the BatchNorm statistics of the other layers are updated "
        "(as in the released code)",
    )


class JointOptions(Options):
    """No second stage."""

    name: Literal["joint"] = "joint"


class Stage2Options(Options):
    """What cRT, LWS, LOS and H2T share."""

    epochs: int = Field(10, ge=1, description="epochs of stage 2")
    learning_rate: float | None = Field(
        None, gt=0, description="learning rate, with a cosine to zero; 0.2 B / 512 if not given"
    )
    sampling: Annotated[SamplingOptions, ByName] = BALANCED
    stage2_bn: Literal["train", "eval"] = Field(
        "train",
        description="train: update the BatchNorm statistics of the frozen backbone, as in the released code",
    )
    augment: bool = Field(
        True,
        description="whether images are augmented; false (needs stage2_bn=eval) computes the features once",
    )

    @property
    def features_stay(self) -> bool:
        """Whether an image has the same features in every epoch."""
        return self.stage2_bn == "eval" and not self.augment


class RetrainingOptions(Stage2Options):
    """cRT, and the rows of table 1 that train more than the classifier."""

    name: Literal["crt"] = "crt"
    train: Literal["classifier", "last-block", "all"] = Field(
        "classifier", description="what is retrained: C, LB+C and B+C in table 1 of the paper"
    )
    rate: float = Field(1.0, gt=0, description="factor for the learning rate; 0.1 in table 1")
    rate_of: Literal["everything", "backbone"] = Field(
        "everything", description="what the factor `rate` applies to"
    )

    @model_validator(mode="after")
    def _cached_features_stay(self) -> RetrainingOptions:
        if self.train != "classifier" and not self.augment:
            raise ValueError(
                "augment=false caches the features, so only the classifier can be trained"
            )
        return self


class ScalingOptions(Stage2Options):
    """LWS."""

    name: Literal["lws"] = "lws"
    epochs: int = Field(5, ge=1, description="epochs of stage 2")


class OverSmoothedOptions(Stage2Options):
    """LOS: the classifier goes on with labels that are hardly more than even."""

    name: Literal["los"] = "los"
    epochs: int = Field(20, ge=1, description="epochs of stage 2")
    learning_rate: float | None = Field(0.0005, gt=0, description="with a cosine to zero")
    sampling: Annotated[SamplingOptions, ByName] = SamplingOptions()
    label_smoothing: float = Field(
        0.98,
        ge=0,
        lt=1,
        description="share of the label spread over all classes; .98 as in its README",
    )
    weight_decay: float = Field(0.0, ge=0, description="weight decay of stage 2")


class FusedOptions(Stage2Options):
    """H2T: features of class-balanced images with some from images drawn as they are."""

    name: Literal["h2t"] = "h2t"
    learning_rate: float | None = Field(0.02, gt=0, description="with a cosine to zero")
    sampling: Annotated[SamplingOptions, ByName] = SamplingOptions(
        name="class-balanced", form="multinomial"
    )
    fused: float = Field(
        0.25, ge=0, le=1, description="share of the features that are of images drawn as they are"
    )
    weight_decay: float = Field(0.0005, ge=0, description="weight decay of stage 2")


class TauOptions(Options):
    """tau-normalisation."""

    name: Literal["tau"] = "tau"
    tau: float | None = Field(
        None,
        ge=0,
        le=2,
        description="exponent tau; if not given, chosen on val, or on train if there is no val split",
    )


class MeansOptions(Options):
    """Nearest class mean."""

    name: Literal["ncm"] = "ncm"
    centred: bool = Field(
        True, description="whether the mean of all training features is subtracted"
    )
    unit_means: bool = Field(False, description="whether class means are scaled to unit length")
    metric: Literal["euclidean", "cosine"] = Field(
        "euclidean", description="distance to the class means, or cosine with them"
    )


ClassifierOptions = Annotated[
    Annotated[
        JointOptions
        | RetrainingOptions
        | ScalingOptions
        | OverSmoothedOptions
        | FusedOptions
        | TauOptions
        | MeansOptions,
        Field(discriminator="name"),
    ],
    ByName,
]


class DecouplingOptions(Options):
    """What can be chosen."""

    name: Literal["decoupling"] = "decoupling"
    representation: RepresentationOptions = RepresentationOptions()
    classifier: ClassifierOptions = Field(
        RetrainingOptions(),
        description="what becomes of the classifier in stage 2; joint leaves it as it is",
    )
