"""What the releases of DO go by: the importance of live weights for the classes of a stage."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor

from longtail.core.errors import ConfigError
from longtail.losses import cross_entropy
from longtail.methods.do_options import DOOptions
from longtail.models.allotment import Allotment, flatten
from longtail.models.importance import importance

Loss = Callable[[Tensor, Tensor], Tensor]  # logits [B, C] and labels [B] to losses [B]


def importance_of(
    allotment: Allotment,
    stage: int,
    images: Tensor,
    labels: Tensor,
    options: DOOptions,
    stage_loss: Loss,
) -> Tensor:
    """Return the importance of all allotted weights on one batch, in order, float32 [P].

    In eval mode: batches of one group of classes have statistics of their own.

    Args:
        allotment: Its live weights are measured.
        stage: 1..T, as they are seen.
        images: [B, 3, H, W].
        labels: int64 [B].
        options: Criterion, gradients and loss of the importance.
        stage_loss: What the stage trains with.
    """
    losses: dict[str, Loss] = {
        "cross-entropy": lambda z, y: cross_entropy(z, y, reduction="none"),
        "stage": stage_loss,
        "probability": lambda z, y: -z.softmax(dim=1).gather(1, y[:, None])[:, 0],
    }
    modes = [(module, module.training) for module in allotment.network.modules()]
    allotment.network.eval()
    found = importance(
        allotment.live_weights(stage), allotment.answer, losses[options.importance_loss], images, labels,
        criterion=options.importance, gradients=options.gradients,
    )  # fmt: skip
    for module, mode in modes:
        module.training = mode
    return flatten(found)


def mean_importance(
    measure: Callable[[Tensor, Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    classes: Tensor,
) -> Tensor:
    """Return the importance over all pictures of some classes, float32 [P].

    The mean over batches, each by its number of such pictures.

    Args:
        measure: Returns the importance on a batch, [P].
        batches: Pictures and labels of any class.
        classes: Whose pictures count, bool [C].

    Raises:
        ConfigError: If no picture is of these classes.
    """
    total, pictures = None, 0
    for images, labels in batches:
        own = classes.to(labels.device)[labels]
        count = int(own.sum())
        if count:
            found = measure(images[own], labels[own]) * count
            total = found if total is None else total + found
            pictures += count
    if total is None:
        raise ConfigError(
            "No training picture is of the classes whose importance is measured; use importance_classes=all."
        )
    return total / pictures
