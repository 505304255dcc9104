"""Runs a method, stage by stage and epoch by epoch, and writes its checkpoints; knows no method by name.

Names are imported when they are first asked for: `engine.terminal` needs no PyTorch.
"""

from typing import TYPE_CHECKING

from longtail.core.lazy import names_from

if TYPE_CHECKING:
    from longtail.engine.loop import Trainer
    from longtail.engine.options import TrainingConfig
    from longtail.engine.run_folder import RunFolder

__all__ = ["RunFolder", "Trainer", "TrainingConfig"]

__getattr__, __dir__ = names_from(
    __name__,
    {"loop": "Trainer", "options": "TrainingConfig", "run_folder": "RunFolder"},
)
