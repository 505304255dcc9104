"""Write the figures of runs as numbers: accuracy at the end of each stage, and the method's own panels.

    python benchmarks/panels.py runs/reproduce/do-ablations/short/do/seed-*

For DO these are tables 7 and 9 and figures 1b and 4 of the paper. Appends a line per run to
results/panels.jsonl.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import torch

from longtail.engine.hardware import describe_environment
from longtail.report.view import RunView
from longtail.runs import append_record


def main() -> None:
    """Draw nothing; write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--record", type=Path, default=Path("results/panels.jsonl"))
    arguments = parser.parse_args()
    for path in arguments.runs:
        view = RunView.open(path, device="cpu")
        ends = view.stage_panel()
        shown = [*([ends] if ends else []), *view.panels()]
        line = {
            "benchmark": "panels",
            "date": f"{datetime.now():%Y-%m-%dT%H:%M:%S}",
            "command": " ".join(["python", *sys.argv]),
            **describe_environment(torch.device("cpu")),
            "row": path.parent.name,
            "seed": view.run.config.training.seed,
            "split": view.split,
            "checkpoint_sha256": view.scores["checkpoint_sha256"],
            "config": view.run.config.model_dump(mode="json"),
            "panels": [asdict(panel) for panel in shown],
        }
        append_record(arguments.record, line)
        for panel in shown:
            print(panel.title, list(panel.places))
            for name, values in panel.series.items():
                rounded = [
                    None if v is None else round(v, 4 if panel.percent else 8) for v in values
                ]
                print(f"  {name}: {rounded}")


if __name__ == "__main__":
    main()
