"""The `training:` part of a recipe."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from longtail.core.protocol import Selection
from longtail.data.options import Options


class TrainingConfig(Options):
    """How a method is trained.

    Durations (`warmup`, `milestones`, `start`) below 1 are shares of the stage's epochs, others
    count epochs: `milestones: [0.8, 0.9]` means epochs 160 and 180 of 200, and 32 and 36 of 40.
    """

    epochs: int = Field(200, ge=1, description="passes of floor(N / batch) steps")
    batch_size: int = Field(128, ge=1, description="pictures of one optimiser step, all processes")
    accumulate: int = Field(
        1, ge=1, description="parts that a batch is computed in, to save memory"
    )

    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = Field(0.1, gt=0, description="peak")
    momentum: float = Field(0.9, ge=0, lt=1, description="of SGD")
    nesterov: bool = Field(True, description="form of SGD's momentum")
    weight_decay: float = Field(5e-4, ge=0)
    decay_norm_and_bias: bool = Field(
        True, description="decay one-dimensional parameters too, as the published codes do"
    )
    clip_norm: float | None = Field(None, gt=0, description="largest norm of the whole gradient")

    schedule: Literal["step", "cosine", "constant"] = "step"
    warmup: float = Field(0.025, ge=0, description="linear warm-up, duration")
    warmup_start: float = Field(
        1 / 3, ge=0, le=1, description="lr share that the warm-up starts from: 1/3 ResLT, 0 LDAM"
    )
    warmup_end: float = Field(
        1.0, gt=0, description="lr share that the warm-up ends at; 1.1 in PaCo's CIFAR code"
    )
    milestones: tuple[float, ...] = Field((0.8, 0.9), description="where `step` lowers the lr")
    decay_factor: float = Field(0.1, gt=0, le=1, description="what it multiplies the lr with")

    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto is bf16 where the hardware computes in it"
    )
    channels_last: bool = True
    compile: bool = Field(
        False,
        description="torch.compile the networks, as CUDA graphs on a GPU (none was at hand); on a CPU "
        "long runs gain in fp32 and none in bf16; needs a C++ compiler",
    )
    ema: float | None = Field(
        None, gt=0, lt=1, description="decay of a moving average of the weights, used to predict"
    )

    select: Selection = Field("last", description="which epoch counts; best-validation needs val")
    early_stopping: int | None = Field(
        None, ge=1, description="epochs without a better macro accuracy on val before stopping"
    )
    watch_test: bool = Field(
        False,
        description="score test after every epoch too, as papers do that report their best epoch on it; "
        "nothing follows from it",
    )
    checkpoint_every: int = Field(1, ge=1, description="epochs between checkpoints")
    workers: int = Field(4, ge=1, description="threads that decode pictures")
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> TrainingConfig:
        if self.early_stopping is not None and self.select != "best-validation":
            raise ValueError("early_stopping needs select=best-validation")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size ({self.batch_size}) must be divisible by accumulate ({self.accumulate})"
            )
        if self.nesterov and self.optimizer == "sgd" and self.momentum == 0:
            raise ValueError("nesterov=true needs a momentum above 0")
        if sorted(self.milestones) != list(self.milestones):
            raise ValueError("milestones must ascend")
        return self
