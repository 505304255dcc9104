"""One batch of noise through a method from outside the package, so that mistakes are told before training."""

from __future__ import annotations

import copy
import traceback
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from longtail.core.batch import Batch, Position, StepOutput
from longtail.core.counts import ClassCounts
from longtail.core.errors import ConfigError
from longtail.core.stage import Stage
from longtail.data.sampling.samplers import class_probability
from longtail.engine.optimisation import seeded
from longtail.methods.method import Method

IMAGES = 4
HOOKS = ("stages", "training_step", "predict")


def try_once(method: Method, counts: ClassCounts, image_size: int) -> None:
    """Take a copy of a method through its stages, a step of each, and a prediction.

    Args:
        method: On its device; nothing of it changes, and no random stream moves.
        counts: Training images per class.
        image_size: Height and width of the images in pixels.

    Raises:
        ConfigError: If a hook is missing, fails, or returns something else than it should.
    """
    name = type(method).__name__
    missing = [hook for hook in HOOKS if getattr(type(method), hook) is getattr(Method, hook)]
    if missing:
        raise ConfigError(f"{name} does not define {', '.join(missing)}; see docs/extending.md.")
    num_classes = len(counts)
    with seeded(0):
        trial = copy.deepcopy(method).train()
        stages = _called(trial, "stages")
        if not isinstance(stages, Sequence) or not stages:
            raise ConfigError(
                f"{name}.stages must return a list of Stage, but returned {stages!r}."
            )
        for number, stage in enumerate(stages):
            if not isinstance(stage, Stage):
                raise ConfigError(
                    f"{name}.stages must return a list of Stage, but holds {stage!r}."
                )
            _require_parts(trial, stage)
            for sampling in stage.samplings:
                class_probability(sampling, counts)
            if stage.kind == "train" and stage.features is None:
                _step(trial, stage, number, num_classes, image_size)
        images = _noise(trial, image_size)
        with torch.no_grad():
            logits = _called(trial.eval(), "predict", images)
    wanted = (IMAGES, num_classes)
    if not isinstance(logits, Tensor) or tuple(logits.shape) != wanted:
        raise ConfigError(
            f"{name}.predict must return logits of shape [images, classes], here {list(wanted)}, but "
            f"returned {_shown(logits)}."
        )


def _require_parts(method: Method, stage: Stage) -> None:
    """Hold the parts that a stage names against those that exist."""
    known = {name for name, _ in (*method.named_modules(), *method.named_parameters())}
    named = [*stage.trainable, *stage.reset, *stage.update_norm, *stage.no_weight_decay]
    named += [part for part, _ in stage.rates]
    if unknown := [part for part in dict.fromkeys(named) if part not in known]:
        parts = ", ".join(name for name, _ in method.named_children())
        raise ConfigError(
            f"Stage {stage.name!r} of {type(method).__name__} names {', '.join(unknown)}, which is no part "
            f"of it (its parts: {parts})."
        )


def _step(method: Method, stage: Stage, number: int, num_classes: int, image_size: int) -> None:
    name = type(method).__name__
    labels = torch.arange(IMAGES, device=_device(method)) % num_classes
    batches = [
        Batch(tuple(_noise(method, image_size) for _ in stage.views), labels, labels)
        for _ in stage.samplings
    ]
    out = _called(method, "training_step", batches, Position(0, number, 0, 0, stage.epochs))
    if not isinstance(out, StepOutput):
        raise ConfigError(
            f"{name}.training_step must return StepOutput(loss), but returned {_shown(out)}."
        )
    if not isinstance(out.loss, Tensor) or out.loss.dim() != 0:
        raise ConfigError(
            f"{name}.training_step must return a loss that is one number, a tensor of shape [], but it is "
            f"{_shown(out.loss)}. Take the mean over the images."
        )
    if not out.loss.requires_grad:
        raise ConfigError(
            f"The loss of {name}.training_step does not depend on any parameter that is trained."
        )


def _called(method: Method, hook: str, *arguments: Any) -> Any:  # noqa: ANN401 - of any hook
    """Call a hook; what goes wrong in it is told with its line."""
    try:
        return getattr(method, hook)(*arguments)
    except ConfigError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if frame.filename == _file(method)]
        where = f", line {own[-1].lineno} of {own[-1].filename}" if own else ""
        raise ConfigError(
            f"{type(method).__name__}.{hook} fails on a batch of {IMAGES} images{where}: "
            f"{type(error).__name__}: {str(error) or 'no further words'}"
        ) from error


def _file(method: Method) -> str:
    return str(type(method).training_step.__code__.co_filename)


def _device(method: Method) -> torch.device:
    return next((p.device for p in method.parameters()), torch.device("cpu"))


def _noise(method: Method, image_size: int) -> Tensor:
    return torch.randn(IMAGES, 3, image_size, image_size, device=_device(method))


def _shown(value: Any) -> str:  # noqa: ANN401 - whatever a hook returned
    if isinstance(value, Tensor):
        return f"a tensor of shape {list(value.shape)}"
    return f"a {type(value).__name__}"
