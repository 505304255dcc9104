"""The options of DO: each is a place where the paper is silent or ambiguous, see `longtail.methods.do`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from longtail.data.options import Options
from longtail.data.samplers import Preference
from longtail.losses import Reading
from longtail.models.importance import Criterion, Gradients


class DOOptions(Options):
    """What can be chosen."""

    name: Literal["do"] = "do"
    sequence: Literal["many-medium-few", "many-few-medium", "many-few", "four"] = Field(
        "many-medium-few", description="groups of the stages; `four` halves medium at 50 pictures"
    )
    first_schedule: Literal["step", "cosine"] = Field(
        "step",
        description="of stage 1: training.milestones, which served best on left-out pictures; or the "
        "paper's, which its recipes have",
    )
    second: float = Field(
        0.5, gt=0, description="epochs of later stages; below 1 a share of the first stage's"
    )
    second_rate: float = Field(0.1, gt=0, description="their learning rate, a share of the first")
    second_schedule: Literal["constant", "cosine"] = "constant"
    rho: float = Field(
        0.7, gt=0, lt=1, description="preference of medium stages: .7 on CIFAR, .8 elsewhere"
    )
    sampling: Preference | Literal["uniform", "natural"] = Field(
        "class-ratio",
        description="of medium stages: what rho is a share of; or classes alike; or as is",
    )
    rare_sampling: Literal["reversed", "class-balanced", "instance"] = Field(
        "reversed", description="of the stage of the rare classes: 1 / n per class, or per picture"
    )
    compensation: Reading = Field("vector", description="how log a_t enters the loss")
    reverse: Literal["rank", "index"] = Field(
        "rank", description="R of stage 3: by rank of the count, or by class number"
    )
    release: tuple[float, ...] | Literal["search"] = Field(
        (0.5, 0.8, 0.6),
        description="gamma after each stage but the last: .5, .8; .5, .6 on CIFAR-100-LT at ratio 50 and "
        "iNaturalist; the third, of four stages, is ours",
    )
    release_of: Literal["free", "total"] = Field(
        "free", description="gamma is a share of the stage's weights, or leaves 1 - gamma of all"
    )
    steps_per_tenth: int = Field(
        10, ge=1, description="Delta t of eq. 4; the paper tried 10 to 100"
    )
    retraining: Literal["stage", "without-margin", "uniform"] = Field(
        "stage",
        description="while weights are released after a later stage: as the stage trains; without its "
        "margin; or classes alike, without it",
    )
    search_rule: Literal["tolerance", "at-drop", "before-drop"] = Field(
        "tolerance",
        description="largest gamma that costs at most 1.5 points; or at the largest drop",
    )
    search_metric: Literal["all", "group"] = Field(
        "all", description="accuracy of all classes or of the stage's"
    )
    importance: Criterion = Field("taylor", description="by which weights are kept")
    gradients: Gradients = Field("batch", description="whose gradient the importance is made of")
    importance_classes: Literal["group", "all"] = Field(
        "group", description="whose pictures measure it"
    )
    importance_loss: Literal["cross-entropy", "stage", "probability"] = Field(
        "cross-entropy",
        description="of the importance; or the stage's own, or the label's probability",
    )
    importance_refresh: Literal["step", "tenth", "once"] = Field(
        "step",
        description="when the ranking follows what is measured: at every step of the release, with every "
        "tenth, or never, after a pass over train before it",
    )
    scope: Literal["global", "layer"] = Field("global", description="rank all weights together")
    restart: Literal["fresh", "zero", "rewind", "keep"] = Field(
        "fresh",
        description="values of released weights: drawn anew (pretrained ones as they came), 0, the first "
        "ones, as they are",
    )
    norm: Literal["per-stage", "frozen", "shared"] = Field(
        "per-stage",
        description="normalisation: a copy per stage, stage 1's, the last one's (ruinous)",
    )
    recalibrate: bool = Field(
        False,
        description="take the statistics of the normalisation anew when a release has ended, in an epoch "
        "that learns nothing",
    )
    classifier: Literal["per-stage", "allotted", "frozen"] = Field(
        "per-stage", description="its weights: a copy per stage, part of the groups, stage 1's"
    )
    reuse: bool = Field(True, description="sub-model t holds groups 1..t, or t alone (a control)")
    networks: Literal["allotted", "separate"] = Field(
        "allotted", description="one network, or a whole one per stage (a control)"
    )
    mixture: Literal["average", "average-logits", "without-margins", "instance", "stacking"] = (
        Field(
            "average",
            description="of the sub-models; without-margins takes log a_t off their logits first, stacking "
            "(ours) has weights per group that are fitted on val",
        )
    )
    objective: Literal["cosine", "dot"] = Field("cosine", description="of the instance mixture")

    @model_validator(mode="after")
    def _statistics_may_follow(self) -> DOOptions:
        if self.recalibrate and self.norm == "frozen":
            raise ValueError("norm=frozen keeps the statistics that recalibrate takes anew")
        return self

    @model_validator(mode="after")
    def _releases_fit_the_stages(self) -> DOOptions:
        if self.release == "search":
            return self
        needed = {"many-few": 1, "four": 3}.get(self.sequence, 2)
        if len(self.release) < needed or not all(0 < share < 1 for share in self.release):
            raise ValueError(f"release needs {needed} shares between 0 and 1, or `search`")
        return self
