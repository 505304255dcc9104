"""Learning rate of every epoch, as the released codes compute it."""

import math
from collections.abc import Sequence

from longtail.core.stage import Stage, epochs_of
from longtail.engine.options import TrainingConfig

TO_CONSTANT = (
    1 / 20
)  # of a stage, on the way to the rate of SWA: 10 of 200 epochs, PyTorch's default


def rate_in_stage(config: TrainingConfig, stage: Stage, epoch: int) -> float:
    """Return the learning rate of `epoch` (from 0) of a stage, with what the stage has of its own.

    With stochastic weight averaging from epoch S on, the rate goes from that of epoch S to the constant
    c = `swa_factor` times the peak, as torch.optim.swa_utils.SWALR does:

        (1 - u) rate(S) + u c,   u = (1 - cos(pi min(1, (epoch - S) / W))) / 2, W a twentieth of the stage
    """

    def scheduled(epoch: int) -> float:
        return learning_rate(
            config,
            epoch + stage.ahead,
            stage.epochs,
            peak=stage.learning_rate,
            schedule=stage.schedule,
            warmup=stage.warmup,
            warmup_start=stage.warmup_start,
            milestones=stage.milestones,
        )

    start = config.averaged_from(stage.epochs) if stage.averaged else None
    if start is None or epoch <= start:
        return scheduled(epoch)
    way = max(1, round(TO_CONSTANT * stage.epochs))
    share = 0.5 * (1 - math.cos(math.pi * min(1.0, (epoch - start) / way)))
    peak = config.learning_rate if stage.learning_rate is None else stage.learning_rate
    return (1 - share) * scheduled(start) + share * config.swa_factor * peak


def learning_rate(
    config: TrainingConfig,
    epoch: int,
    epochs: int,
    *,
    peak: float | None = None,
    schedule: str | None = None,
    warmup: float | None = None,
    warmup_start: float | None = None,
    milestones: Sequence[float] | None = None,
) -> float:
    """Return the learning rate of `epoch` (from 0) of a stage of `epochs`.

    Warm-up over W epochs: peak (s (1 - u) + t u), u = (epoch + 1) / W, with s = `warmup_start` and
    t = `warmup_end`. ResLT starts at one third (.0467, .06, .0733, .0867, .1), LDAM at zero (.02, .04,
    ... .1); PaCo's CIFAR code overshoots (.005, .01, ... .05, .055, then .05).

    After it: `step` multiplies with `decay_factor` from every milestone on; `cosine` is
    peak / 2 (1 + cos(pi e / T)) with e and T counted from the last warm-up epoch, where the peak
    is reached (without warm-up the formula of Decoupling); `constant` stays at the peak.

    Args:
        config: Warm-up, milestones and factor.
        epoch: Inside the stage, from 0.
        epochs: Of the stage.
        peak: Replaces `config.learning_rate`.
        schedule: Replaces `config.schedule`.
        warmup: Replaces `config.warmup`.
        warmup_start: Replaces `config.warmup_start`.
        milestones: Replaces `config.milestones`.
    """
    top = config.learning_rate if peak is None else peak
    warm = epochs_of(config.warmup if warmup is None else warmup, epochs)
    if epoch < warm:
        share = (epoch + 1) / warm
        start = config.warmup_start if warmup_start is None else warmup_start
        return top * (start * (1 - share) + config.warmup_end * share)
    kind = schedule or config.schedule
    if kind == "constant":
        return top
    if kind == "step":
        lowered = config.milestones if milestones is None else milestones
        passed = sum(epoch >= epochs_of(milestone, epochs) for milestone in lowered)
        return float(top * config.decay_factor**passed)
    begin = max(warm - 1, 0)
    return 0.5 * top * (1 + math.cos(math.pi * (epoch - begin) / (epochs - begin)))
