"""What the benchmarks that look at finished runs have in common."""

from __future__ import annotations

import argparse
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from longtail.engine.hardware import describe_environment
from longtail.runs import Run


def parser(description: str, record: str) -> argparse.ArgumentParser:
    """Return a parser of run folders and of the results file that lines are appended to."""
    made = argparse.ArgumentParser(description=description.splitlines()[0])
    made.add_argument("runs", nargs="+", type=Path)
    made.add_argument("--record", type=Path, default=Path("results") / record)
    return made


def facts(benchmark: str, run: Run, checkpoint: str) -> dict[str, Any]:
    """Return what every line says about its run and about how it was made."""
    return {
        "benchmark": benchmark,
        "date": f"{datetime.now():%Y-%m-%dT%H:%M:%S}",
        "command": " ".join(["python", *sys.argv]),
        **describe_environment(torch.device("cpu")),
        "recipe": run.config.recipe,
        "seed": run.config.training.seed,
        "checkpoint_sha256": checkpoint,
        "config": run.config.model_dump(mode="json"),
    }
