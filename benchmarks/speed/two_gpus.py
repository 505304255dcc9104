"""Check and measure a training in two processes, each with a GPU of its own, against the same in one.

    python benchmarks/speed/two_gpus.py                 # needs two GPUs and CIFAR-100
    python benchmarks/speed/two_gpus.py --device cpu    # a dry run of the script, on digits

For whoever has two GPUs: this project was written without. Checked are that each process computes on its own
GPU and holds no memory on the other's, that objects travel over gloo, that every loss is that of one process,
and that the test images are predicted once each. Measured is how many images a second both train together.
Prints what is wrong, if anything is, and then ends with status 1. Appends one line to results/two-gpus.jsonl.

Time: not measured, because nobody here had two GPUs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from longtail import api
from longtail.core import distributed
from longtail.engine.hardware import find_device
from longtail.runs.records import append_measurement

# joined statistics and small steps: two processes compute the same then, up to rounding
SAME = ["precision=fp32", "joint_norm=true", "learning_rate=0.001", "warmup=0"]
RECIPES = {
    "cuda": ("cifar100-lt/cross-entropy", [*SAME, "epochs=3"]),
    "cpu": ("digits-lt/cross-entropy", [*SAME, "epochs=2", "batch_size=170"]),
}
CLOSE = 1e-3  # of losses: GPUs add up in any order
PROCESSES = 2


def train(device: str, out: Path) -> list[dict[str, Any]]:
    """Train in this process or in its group; return what each process says of its device."""
    recipe, options = RECIPES[device]
    api.train(recipe, options, out=out, device=device)
    place = find_device(device)
    own = torch.cuda.current_device() if place.type == "cuda" else None
    others = [index for index in range(torch.cuda.device_count()) if index != own]
    backend = dist.get_backend_config() if distributed.active() else ""
    return distributed.gather(
        {
            "device": str(place),
            "backends": backend,
            "bytes_on_other_gpus": sum(torch.cuda.memory_allocated(index) for index in others),
        }
    )


def one_of_several(device: str, out: Path) -> None:
    """Train as one process of the group; the first writes what all say."""
    said = train(device, out)
    if distributed.is_main():
        (out / "processes.json").write_text(json.dumps(said), encoding="utf-8")
    distributed.stop()


def problems_of(one: api.Run, two: api.Run, said: list[dict[str, Any]], device: str) -> list[str]:
    """Return what is not as it must be, in words."""
    found = []
    losses = [[line["loss"] for line in run.lines() if "loss" in line] for run in (one, two)]
    for epoch, (alone, together) in enumerate(zip(*losses, strict=True), start=1):
        if abs(alone - together) > CLOSE:
            found.append(f"epoch {epoch}: loss {together} in two processes, {alone} in one")
    if two.environment()["processes"] != PROCESSES:
        found.append(f"the run had {two.environment()['processes']} processes")
    images = [run.scores("test")["num_images"] for run in (one, two)]
    if images[0] != images[1]:
        found.append(f"{images[1]} test images were scored, not {images[0]}")
    if device == "cuda" and [process["device"] for process in said] != ["cuda:0", "cuda:1"]:
        found.append(f"the processes had {[process['device'] for process in said]}")
    for process in said:
        if "gloo" not in process["backends"]:
            found.append(f"no gloo for objects: {process['backends']}")
        if process["bytes_on_other_gpus"]:
            found.append(f"{process['device']}: memory on the other GPU: {process}")
    return found


def speed(run: api.Run) -> float:
    """Return the images a second of the last epoch."""
    return float([line for line in run.lines() if "loss" in line][-1]["images_per_second"])


def main() -> None:
    """Train in one process and in two, compare, record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=RECIPES, default="cuda")
    parser.add_argument("--record", type=Path, default=Path("results/two-gpus.jsonl"))
    parser.add_argument("--one-of-several", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one_of_several:
        one_of_several(arguments.device, arguments.one_of_several)
        return
    if arguments.device == "cuda" and torch.cuda.device_count() < PROCESSES:
        sys.exit(f"This needs two GPUs; PyTorch sees {torch.cuda.device_count()}.")
    with tempfile.TemporaryDirectory() as place:
        together = Path(place) / "two"
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone",
                    "--nproc-per-node", str(PROCESSES)]  # fmt: skip
        subprocess.run(
            [*launcher, __file__, "--device", arguments.device, "--one-of-several", str(together)],
            check=True,
        )
        said = json.loads((together / "processes.json").read_text(encoding="utf-8"))
        train(arguments.device, Path(place) / "one")
        one, two = api.Run.open(Path(place) / "one"), api.Run.open(together)
        problems = problems_of(one, two, said, arguments.device)
        line = {
            "benchmark": "two-gpus",
            "recipe": RECIPES[arguments.device],
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
            "processes": said,
            "problems": problems,
            "macro_accuracy": [run.scores("test")["macro_accuracy"] for run in (one, two)],
            "images_per_second": [round(speed(run), 1) for run in (one, two)],
            "speed_up": round(speed(two) / speed(one), 2),
        }
    append_measurement(arguments.record, line, find_device(arguments.device))
    print(json.dumps(line, indent=1))
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
