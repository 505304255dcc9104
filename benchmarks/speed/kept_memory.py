"""Time that a CPU saves when freed memory is kept for the next step, and the memory that this costs.

    python benchmarks/speed/kept_memory.py

Each way runs in a process of its own, in turns with the other; ratios are medians over the pairs. Times are
CPU seconds of the process, those of the system included, so that other programs disturb them less. Appends a
record to results/kept-memory.jsonl.

Time: about eight minutes of a core.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from network_cost import CPU, build, ratio_of, runners

from longtail.core import Batch
from longtail.core.host_memory import keeping_freed_memory
from longtail.models import build_backbone
from longtail.runs import append_measurement

# row: images in a batch, their side, steps
ROWS = {
    "training ResNet-32, 32 pixels": (128, 32, 12),
    "fine-tuning EfficientNet-Lite0, 128 pixels": (64, 128, 4),
    # as many images as are evaluated together
    "features of EfficientNet-Lite0, 224 pixels": (4, 224, 60),
}


def measured(row: str, *, kept: bool) -> dict[str, float]:
    """Return CPU seconds and page faults of a step, and the most memory in MB, of this process."""
    batch_size, side, steps = ROWS[row]
    torch.set_num_threads(1)
    images = torch.randn(batch_size, 3, side, side).contiguous(memory_format=torch.channels_last)
    if row.startswith("training"):
        batch = Batch((images,), torch.randint(100, (batch_size,)), torch.arange(batch_size))
        step = runners(build("single-head", {}), batch)["training"]
    else:
        network = build_backbone("tf_efficientnet_lite0", image_size=side)
        network.to(memory_format=torch.channels_last)

        def step() -> None:
            if row.startswith("features"):
                with torch.inference_mode():
                    network.eval()(images)
            else:
                network.zero_grad()
                network.train()(images).mean().backward()

    with keeping_freed_memory(CPU) if kept else nullcontext():
        for _ in range(2):
            step()
        faults, begin = page_faults(), time.process_time()
        for _ in range(steps):
            step()
        spent = (time.process_time() - begin) / steps
        found = (page_faults() - faults) / steps
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (peak,) = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
    return {"seconds": spent, "faults": found, "most_memory_mb": int(peak) / 1024}


def page_faults() -> int:
    """Return the pages that this process got from the system so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def in_its_own_process(row: str, *, kept: bool) -> dict[str, float]:
    """Return what `measured` says in a process of its own."""
    command = [sys.executable, __file__, "--row", row, *(["--kept"] if kept else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--row", choices=ROWS, help="measure this one in this process")
    parser.add_argument("--kept", action="store_true", help="with --row: keep freed memory")
    parser.add_argument("--record", type=Path, default=Path("results/kept-memory.jsonl"))
    args = parser.parse_args()
    if args.row:
        print(json.dumps(measured(args.row, kept=args.kept)))
        return
    lines = []
    for row in ROWS:
        ways: dict[bool, list[dict[str, float]]] = {True: [], False: []}
        for number in range(args.pairs):
            for kept in (True, False) if number % 2 else (False, True):
                ways[kept].append(in_its_own_process(row, kept=kept))
        seconds = {kept: [one["seconds"] for one in found] for kept, found in ways.items()}
        ratio, spread = ratio_of(seconds[False], seconds[True])
        line: dict[str, Any] = {"row": row, "faster": ratio, "spread": spread}
        for kept, found in ways.items():
            line["kept" if kept else "returned"] = {
                key: statistics.median(one[key] for one in found) for key in found[0]
            }
        lines.append(line)
        print(line, flush=True)
    append_measurement(args.record, {"pairs": args.pairs, "threads": 1, "lines": lines})


if __name__ == "__main__":
    main()
