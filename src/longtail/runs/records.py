"""Lines of results files and summaries over seeds, made from scored runs."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from longtail.core.errors import ConfigError
from longtail.engine.checksums import json_text
from longtail.engine.hardware import describe_environment
from longtail.engine.run_folder import writing
from longtail.evaluation import summarise
from longtail.evaluation.scores import headlines
from longtail.runs.run import Run


def record(run: Run, split: str = "test") -> dict[str, Any]:
    """Return the line of a results file: everything that is needed to believe and repeat a run."""
    scores, lines, environment = run.scores(split), run.lines(), run.environment()
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
        "mixtures": scores.get("mixtures", []),
        "epochs": lines[-1]["epochs_done"],
        "final_loss": steps[-1]["loss"] if steps else None,
        "training_seconds": round(seconds, 1),
        "images_per_second": round(
            sum(line["images_per_second"] * line["seconds"] for line in steps) / stepping, 1
        )
        if steps
        else None,
        "found": [line for line in lines if "loss" not in line],
        "started_from": environment.get("started_from"),
        "weights": environment.get("weights"),
        "checkpoint_sha256": scores["checkpoint_sha256"],
        "command": environment["command"],
        "commit": environment.get("commit"),
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


def append_measurement(
    path: Path, measured: Mapping[str, Any], device: torch.device | None = None
) -> None:
    """Append what a benchmark measured, with its command, the date, commit, hardware and versions.

    Args:
        path: A results file.
        measured: Plain JSON values.
        device: Where it was computed; the CPU if not given.

    Raises:
        ConfigError: If it cannot be written.
    """
    environment = describe_environment(device or torch.device("cpu"))
    facts = {
        "command": shlex.join(["python", *sys.argv]),
        "date": f"{datetime.now():%Y-%m-%dT%H:%M:%S}",
        **{key: environment[key] for key in ("commit", "hardware", "versions")},
    }
    append_record(path, facts | dict(measured))


def append_record(path: Path, line: dict[str, Any]) -> None:
    """Append one line to a results file.

    Raises:
        ConfigError: If it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as stream:
            stream.write(json_text(line) + "\n")
    except OSError as error:
        raise ConfigError(f"The record {path} cannot be written ({error}).") from error


def write_summary(runs: Sequence[Run], folder: Path) -> dict[str, Any]:
    """Write `summary.json` over the seeds of one recipe and return its content."""
    split = runs[0].evaluated_splits()[0]
    summary = {"split": split} | summarise([run.scores(split) for run in runs])
    with writing(folder / "summary.json") as file:
        file.write_text(json_text(summary, indent=1) + "\n", encoding="utf-8")
    return summary


def round_or_none(value: float | None) -> float | None:
    """Round an accuracy to a hundredth of a percent."""
    return None if value is None else round(value, 4)
