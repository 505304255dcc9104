"""The `training:` part of a recipe."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from longtail.config import Options
from longtail.core.protocol import Selection
from longtail.core.stage import epochs_of


class TrainingConfig(Options):
    """How a method is trained.

    Durations (`warmup`, `milestones`, `swa`, `start`) below 1 are shares of the stage's epochs, others
    count epochs: `milestones: [0.8, 0.9]` means epochs 160 and 180 of 200, and 32 and 36 of 40.
    """

    epochs: int = Field(200, ge=1, description="number of epochs, of floor(N / batch) steps each")
    images_seen: int | None = Field(
        None,
        ge=1,
        description="number of images seen in a training, counting repetitions: fewer epochs for large data "
        "sets, and no batch larger than the data set",
    )
    batch_size: int = Field(128, ge=1, description="images per optimiser step, over all processes")
    accumulate: int = Field(
        1, ge=1, description="number of parts that a batch is computed in, to save memory"
    )

    optimizer: Literal["sgd", "adamw", "sam"] = Field(
        "sgd",
        description="sam is SGD with the gradient computed a little uphill, for flat minima; two "
        "passes per step",
    )
    rho: float = Field(
        0.05,
        ge=0,
        description="for sam: distance uphill (the length of the step over all weights); 0 is SGD",
    )
    learning_rate: float = Field(0.1, gt=0, description="peak")
    momentum: float = Field(0.9, ge=0, lt=1, description="of SGD and SAM")
    nesterov: bool = Field(True, description="form of the momentum")
    weight_decay: float = Field(5e-4, ge=0, description="L2 penalty; with AdamW, decoupled")
    decay_norm_and_bias: bool = Field(
        True,
        description="whether weight decay also applies to one-dimensional parameters, as in released code",
    )
    clip_norm: float | None = Field(None, gt=0, description="largest norm of the gradient")

    schedule: Literal["step", "cosine", "constant"] = Field(
        "step", description="how the learning rate falls after the warm-up"
    )
    warmup: float = Field(0.025, ge=0, description="linear warm-up, duration")
    warmup_start: float = Field(
        1 / 3,
        ge=0,
        le=1,
        description="fraction of the learning rate at which the warm-up starts: 1/3 in ResLT, 0 in LDAM",
    )
    warmup_end: float = Field(
        1.0,
        gt=0,
        description="fraction of the learning rate at which the warm-up ends; 1.1 in PaCo's CIFAR code",
    )
    milestones: tuple[float, ...] = Field(
        (0.8, 0.9),
        description="where `step` lowers the learning rate, as fractions of the training",
    )
    decay_factor: float = Field(
        0.1, gt=0, le=1, description="factor by which `step` multiplies the learning rate"
    )

    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto uses bf16 if the hardware supports it"
    )
    channels_last: bool = Field(
        True,
        description="whether images are stored in memory with the channels last, which is faster",
    )
    joint_norm: bool = Field(
        False,
        description="with several processes: compute BatchNorm statistics over the whole batch, as one "
        "process does, instead of over each process's part",
    )
    compile: bool = Field(
        False,
        description="torch.compile the networks, with CUDA graphs on a GPU (not measured); on a CPU, long "
        "runs gain in fp32 but not in bf16; needs a C++ compiler",
    )
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="decay of a moving average of the weights, which is then used to predict",
    )
    swa: float | None = Field(
        None,
        ge=0,
        description="first epoch of stochastic weight averaging (a duration; at the latest the last "
        "epoch): the weights at the end of each epoch are averaged with equal weight, and "
        "the average predicts, with BatchNorm statistics computed anew; 0.75 in the paper",
    )
    swa_factor: float = Field(
        0.5,
        gt=0,
        le=1,
        description="for swa: learning rate from then on, as a fraction of the peak, reached within a "
        "twentieth of the training; 0.5 in SURE",
    )

    select: Selection | Literal["auto"] = Field(
        "last",
        description="which epoch is used: last, or best-validation, which needs a val split; auto is "
        "best-validation if there is one",
    )
    early_stopping: int | None = Field(
        None, ge=1, description="stop after this many epochs without a better macro accuracy on val"
    )
    watch_test: bool = Field(
        False,
        description="also score test after every epoch, like papers that report their best epoch on test; "
        "nothing is selected by it",
    )
    checkpoint_every: int = Field(1, ge=1, description="epochs between checkpoints")
    workers: int = Field(4, ge=1, le=1024, description="number of threads that decode images")
    tracker: Literal["none", "tensorboard", "wandb", "mlflow", "trackio"] = Field(
        "none",
        description="which tracker also gets the options, each epoch's numbers, scores by shot group and the "
        "report; its own environment variables say where they go, for example WANDB_MODE=offline",
    )
    seed: int = Field(0, ge=0, description="seed of everything random in the run")

    @model_validator(mode="after")
    def _consistent(self) -> TrainingConfig:
        if self.early_stopping is not None and self.select == "last":
            raise ValueError("early_stopping needs select=best-validation or select=auto")
        if self.ema is not None and self.swa is not None:
            raise ValueError("ema and swa are two averages of the weights: choose one of them")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size ({self.batch_size}) must be divisible by accumulate ({self.accumulate})"
            )
        if self.nesterov and self.optimizer != "adamw" and self.momentum == 0:
            raise ValueError("nesterov=true needs a momentum above 0")
        if sorted(self.milestones) != list(self.milestones):
            raise ValueError("milestones must ascend")
        return self

    def selection(self, has_val: bool) -> Selection:
        """Return which epoch counts, given whether there is a val split."""
        if self.select == "auto":
            return "best-validation" if has_val else "last"
        return self.select

    def averaged_from(self, epochs: int) -> int | None:
        """Return the first epoch, from 0, of a stage of `epochs` that SWA averages; None without SWA."""
        return None if self.swa is None else min(epochs_of(self.swa, epochs), epochs - 1)

    def fitted_to(self, images: int) -> TrainingConfig:
        """Return the same training with epochs and batch size for so many images, see `images_seen`."""
        if self.images_seen is None:
            return self
        chosen = {
            "epochs": min(self.epochs, max(1, round(self.images_seen / images))),
            "batch_size": min(self.batch_size, max(1, images)),
            "images_seen": None,
        }
        return self.model_copy(update=chosen)
