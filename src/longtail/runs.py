"""Run folders that were trained, and the lines of results files that are made from them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from longtail.core.errors import ConfigError, DataError
from longtail.data.config import Progress, open_data
from longtail.data.kept_split import read_split
from longtail.data.pictures import DataSet
from longtail.engine.run_folder import RunFolder, writing
from longtail.evaluation import summarise
from longtail.evaluation.scores import headlines
from longtail.recipes import RunConfig, validate_stored


@dataclass(frozen=True)
class Run:
    """A run folder that was trained.

    Attributes:
        folder: Where everything is.
        config: Fully resolved.
    """

    folder: RunFolder
    config: RunConfig

    @classmethod
    def open(cls, path: Path) -> Run:
        """Open a run folder.

        Raises:
            ConfigError: If it is none.
        """
        folder = RunFolder(path)
        folder.require()
        try:
            raw = yaml.safe_load(folder.config.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise ConfigError(f"{folder.config} cannot be read ({error}).") from error
        return cls(folder, validate_stored(raw, str(folder.config)))

    def open_data(self, progress: Progress = lambda done, size: None) -> DataSet:
        """Open the run's pictures, split as they were when its training began.

        Args:
            progress: Called while files are checked.

        Raises:
            DataError: In words, if anything about the data is wrong.
        """
        workers, kept = self.config.training.workers, self.kept_split()
        return open_data(self.config.data, workers=workers, progress=progress, kept=kept)

    def kept_split(self) -> pd.DataFrame | None:
        """Return the split that was drawn for this run, None where there was nothing to draw."""
        begun = self.folder.config.exists()
        return read_split(self.folder.split) if begun and self.folder.split.exists() else None

    def scores(self, split: str) -> dict[str, Any]:
        """Return the scores on `split`.

        Raises:
            DataError: If the split was not evaluated yet.
        """
        path = self.folder.scores(split)
        if not path.exists():
            raise DataError(f"{path} does not exist: run longtail evaluate {self.folder.path}.")
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return content

    def evaluated_splits(self) -> list[str]:
        """Return the splits that have scores, test first."""
        return [split for split in ("test", "val") if self.folder.scores(split).exists()]


def record(run: Run, split: str = "test") -> dict[str, Any]:
    """Return the line of a results file: everything that is needed to believe and repeat a run."""
    scores = run.scores(split)
    lines = run.folder.read_metrics()
    environment = json.loads(run.folder.environment.read_text(encoding="utf-8"))
    seconds = sum(line["seconds"] for line in lines)
    steps = [line for line in lines if "loss" in line]
    stepping = sum(line["seconds"] for line in steps)
    return {
        "recipe": run.config.recipe,
        "seed": run.config.training.seed,
        "split": split,
        "selection": scores["selection"],
        **{name: round_or_none(value) for name, value in headlines(scores).items()},
        "groups": scores["groups"],
        "calibration_error": scores["calibration_error"]["overall"],
        "best_on_test": _best_on_test(steps),
        "epochs": lines[-1]["epochs_done"],
        "final_loss": steps[-1]["loss"] if steps else None,
        "training_seconds": round(seconds, 1),
        "pictures_per_second": round(
            sum(line["pictures_per_second"] * line["seconds"] for line in steps) / stepping, 1
        )
        if steps
        else None,
        "found": [line for line in lines if "loss" not in line],
        "started_from": environment.get("started_from"),
        "weights": environment.get("weights"),
        "checkpoint_sha256": scores["checkpoint_sha256"],
        "command": environment["command"],
        "commit": environment["commit"],
        "hardware": environment["hardware"],
        "versions": environment["versions"],
        "date": environment["started"],
        "config": run.config.model_dump(mode="json"),
    }


def _best_on_test(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return what a paper would report that takes its best epoch on test; None if not watched."""
    watched = [line for line in lines if "test_accuracy" in line]
    if not watched:
        return None
    best = max(watched, key=lambda line: float(line["test_accuracy"]))  # the earliest wins ties
    return {"epoch": best["epochs_done"], "accuracy": round_or_none(best["test_accuracy"])}


def append_record(path: Path, line: dict[str, Any]) -> None:
    """Append one line to a results file.

    Raises:
        ConfigError: If it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
    except OSError as error:
        raise ConfigError(f"The record {path} cannot be written ({error}).") from error


def write_summary(runs: Sequence[Run], folder: Path) -> dict[str, Any]:
    """Write `summary.json` over the seeds of one recipe and return its content."""
    split = runs[0].evaluated_splits()[0]
    summary = {"split": split} | summarise([run.scores(split) for run in runs])
    with writing(folder / "summary.json") as file:
        file.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return summary


def round_or_none(value: float | None) -> float | None:
    """Round an accuracy to a hundredth of a percent."""
    return None if value is None else round(value, 4)
