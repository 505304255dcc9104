"""Training stops at the first loss that is not finite, and says which images it was of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from longtail.core import distributed
from longtail.core.errors import TrainingError
from longtail.data.sampling.loader import Loader
from longtail.engine.run_folder import RunFolder


def require_finite_losses(
    losses: Tensor, loaders: Sequence[Loader], folder: RunFolder, stage: int, epoch: int
) -> None:
    """Refuse losses of which one is not finite in any process, and name the images of its step.

    Args:
        losses: [steps], of this process, from the first step of the epoch on.
        loaders: The epoch's streams of images.
        folder: Gets `non-finite-batch.json`.
        stage: Its number, from 0.
        epoch: Inside the stage, from 0.

    Raises:
        TrainingError: If one is not finite.
    """
    finite = torch.isfinite(distributed.mean(losses)).tolist()
    if all(finite):
        return
    step = finite.index(False)
    ids = sorted({i for loader in loaders for i in loader.ids_of(epoch, step)})
    if distributed.is_main():
        folder.write_json(
            folder.path / "non-finite-batch.json",
            {"stage": stage, "epoch": epoch + 1, "step": step + 1, "image_ids": ids},
        )
    raise TrainingError(
        f"The loss is not finite at step {step + 1} of epoch {epoch + 1} (images "
        f"{', '.join(map(str, ids[:8]))}, ...; non-finite-batch.json lists all). The previous "
        "checkpoint is intact. Try a lower training.learning_rate, training.clip_norm=1 or "
        "training.precision=fp32, then --resume."
    )
