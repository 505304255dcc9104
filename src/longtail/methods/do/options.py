"""The options of DO, in the order of the paper: where it varies something itself, is silent or ambiguous."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from longtail.config import Options
from longtail.data.augmentation import POLICIES
from longtail.losses import Reading
from longtail.models.importance import Criterion

RELEASES = {"many-few": 1, "four": 3}  # stages but the last; two otherwise


class DOOptions(Options):
    """What can be chosen."""

    name: Literal["do"] = "do"
    sequence: Literal["many-medium-few", "many-few-medium", "many-few", "four"] = Field(
        "many-medium-few",
        description="order of the class groups Y_t that the stages prefer (tables 6 and 7); `four` splits "
        "medium at 50 images",
    )
    # CPO
    rho: float = Field(
        0.7,
        gt=0,
        lt=1,
        description="preference for medium-shot classes, eq. 1: 0.7 on CIFAR, 0.8 elsewhere; 0.5 is "
        "class-balanced",
    )
    rare_sampling: Literal["reversed", "class-balanced", "instance"] = Field(
        "reversed",
        description="sampling p_t of the few-shot stage: 1 / n per class, 1 / n per image, or each "
        "image once",
    )
    compensation: Reading = Field("vector", description="how alpha_t enters the loss, eq. 2 and 3")
    later_epochs: float = Field(
        0.5,
        gt=0,
        description="epochs of each of the stages 2 to T; below 1, a fraction of the epochs of stage 1",
    )
    later_rate: float = Field(
        0.1,
        gt=0,
        description="constant learning rate of the stages 2 to T and of TPD, as a fraction of stage 1's",
    )
    # TPD
    partition: Literal["everything", "per-stage"] = Field(
        "everything",
        description="what is divided among the stages: all parameters, as printed; or only "
        "convolutions, with a classifier and normalisation per stage",
    )
    importance: Criterion = Field(
        "taylor", description="importance measure that decides which weights are kept (figure 4)"
    )
    release: tuple[float, ...] | Literal["search"] = Field(
        (0.5, 0.8, 0.6),
        description="gamma_t, the share of its weights that a stage releases to the next one: .5, .8; .5, .6 "
        "on CIFAR-100-LT at ratio 50 and on iNaturalist; the third value, for four stages, is "
        "ours",
    )
    search_rule: Literal["highest-variation", "before-variation", "tolerance"] = Field(
        "highest-variation",
        description="release up to the end of the largest drop in accuracy, as printed; up to its beginning; "
        "or as much as costs at most 1.5 points (ours)",
    )
    retraining_steps: int = Field(
        10,
        ge=1,
        description="Delta t of eq. 4: iterations of retraining after each tenth is released; the "
        "paper tried 10 to 100",
    )
    retraining: Literal["stage", "uniform"] = Field(
        "stage",
        description="sampler and loss of this retraining: the stage's own, or class-balanced sampling with "
        "cross-entropy",
    )
    # inference
    mixture: Literal["instance", "average"] = Field(
        "instance",
        description="weights lambda of the sub-models: per image (eq. 5), or 1 / T (the paper's `w/o TTL`)",
    )
    test_views: str = Field("sade", description="augmentation policy for the two views of eq. 5")

    @model_validator(mode="after")
    def _releases_fit_the_stages(self) -> DOOptions:
        if self.release == "search":
            return self
        needed = RELEASES.get(self.sequence, 2)
        if len(self.release) < needed or not all(0 < share < 1 for share in self.release):
            raise ValueError(f"release needs {needed} shares between 0 and 1, or `search`")
        return self

    @model_validator(mode="after")
    def _views_exist(self) -> DOOptions:
        if self.test_views not in POLICIES:
            raise ValueError(
                f"test_views: there is no policy {self.test_views!r}; choose from "
                f"{', '.join(sorted(POLICIES))}"
            )
        return self
