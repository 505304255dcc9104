"""MLflow, with its own settings: MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from longtail.engine.tracking.tracked import TrackedRun

KEY = "longtail.run"  # the tag that a resumed run is found by
MOST_AT_ONCE = 100  # parameters, which is what a server accepts


class OnMlflow:
    """A run of MLflow."""

    def __init__(self, run: TrackedRun, project: str) -> None:
        self._client = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", project)
        experiment = self._client.get_experiment_by_name(name)
        place = experiment.experiment_id if experiment else self._client.create_experiment(name)
        begun = self._client.search_runs([place], f"tags.`{KEY}` = '{run.key}'")
        if begun:
            self._run = begun[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
            return
        made = self._client.create_run(place, run_name=run.name, tags={KEY: run.key})
        self._run = made.info.run_id
        options = [Param(key, str(value)) for key, value in run.options.items()]
        for first in range(0, len(options), MOST_AT_ONCE):
            self._client.log_batch(self._run, params=options[first : first + MOST_AT_ONCE])

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """Log metrics in one request."""
        now = round(1000 * time.time())
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._run, metrics)

    def file(self, path: Path) -> None:
        """Log an artifact."""
        self._client.log_artifact(self._run, str(path))

    def close(self, *, finished: bool) -> None:
        """Say how it ended."""
        self._client.set_terminated(self._run, "FINISHED" if finished else "FAILED")


def begin(run: TrackedRun, project: str) -> OnMlflow:
    """Begin or continue."""
    return OnMlflow(run, project)
