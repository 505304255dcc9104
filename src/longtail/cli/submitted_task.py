"""What a job of `--submit` does. PyTorch is imported in the task: preemptions are answered from its start."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from submitit import JobEnvironment
from submitit.helpers import Checkpointable, TorchDistributedEnvironment


@dataclass(frozen=True)
class SubmittedTask(Checkpointable):
    """Train one run, or continue it; submitit calls it again after a preemption or at the end of its time.

    Attributes:
        config: Of the run, as JSON.
        folder: Of the run.
        device: As for `longtail.train`.
        threads: Of the run; chosen where it runs if not given.
        command: What was typed, for the run's record.
    """

    config: str
    folder: Path
    device: str | None
    threads: int | None
    command: tuple[str, ...]

    def __call__(self) -> None:
        """Train; mistakes end in one message and an exit status, as on the command line."""
        sys.argv[:] = self.command
        if JobEnvironment().num_tasks > 1:
            # the copies of one run; each finds its GPU by its local rank
            TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
        from longtail.core import distributed
        from longtail.core.errors import LongtailError
        from longtail.engine.hardware import find_device
        from longtail.engine.log import SilentLog, default_log
        from longtail.engine.terminal import Terminal
        from longtail.engine.threads import Threads
        from longtail.recipes import RunConfig
        from longtail.recipes.plugins import load_chosen
        from longtail.report.of_run import write_report
        from longtail.runs import training

        try:
            load_chosen()
            distributed.start(find_device(self.device))
            training.train(
                RunConfig.model_validate_json(self.config),
                out=self.folder,
                resume=True,
                device=self.device,
                threads=None if self.threads is None else Threads(self.threads),
                report=write_report,
                log=default_log() if distributed.is_main() else SilentLog(),
            )
        except LongtailError as error:
            Terminal(stderr=True).print(f"error: {error}")
            sys.exit(error.exit_status)
        finally:
            distributed.stop()
