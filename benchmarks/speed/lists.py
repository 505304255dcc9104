"""Seconds and memory to open lists of the size of ImageNet-LT and iNaturalist 2018.

    python benchmarks/speed/lists.py [--cases imagenet-lt] [--first 10000]

Writes lists in the published formats with as many classes and training images (and one image a class in val
and test), in folders like the real ones, and opens them in a process of its own. `again` opens all of them
with a remembered check: the files are links to one JPEG, and what is remembered of each (digests, hashes) is
made up. `first` checks a list with the first so many training images, each a JPEG of 8 x 8 random pixels.
Recorded: seconds, the memory of the process once everything is imported, and its peak.
Goal of `again`: 10 seconds, and 400 MB more than what the imports take.
Appends a line per case to results/lists.jsonl.
Time: 27 minutes, on a core that other programs used too; again: 3 and 11 CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg

from longtail.data.images import file_checks
from longtail.data.images.file_checks import Checked
from longtail.data.source_to_batch import open_data
from longtail.data.sources.benchmark_lists import LIST_FILES, find_lists, read_lists
from longtail.recipes import resolve
from longtail.runs.records import append_measurement

# classes, training images, folder of a class
CASES = {
    "imagenet-lt": (1000, 115_846, "{split}/n{label:08d}"),
    "inaturalist2018": (8142, 437_513, "train_val2018/Plantae/{label}"),
}
GOAL = {"seconds": 10, "mb_beyond_imports": 400}
MOST_LINKS = 60_000  # of one file; ext4 takes 65,000


def write_set(name: str, images: int, root: Path, put: Callable[[Path], None]) -> int:
    """Write the lists of a case with so many training images below `root`; return the number of lines."""
    classes, _, folder = CASES[name]
    share = np.exp(-5 * np.arange(classes) / classes)
    train = 1 + np.random.default_rng(0).multinomial(images - classes, share / share.sum())
    lines = 0
    for split, file in LIST_FILES[name].items():
        rows = []
        for label, count in enumerate((train if split == "train" else train.clip(max=1)).tolist()):
            below = folder.format(split=split, label=label)
            (root / below).mkdir(parents=True, exist_ok=True)
            rows += [f"{below}/{split}_{number:08d}.jpg {label}" for number in range(count)]
        for row in rows:
            put(root / row.rpartition(" ")[0])
        (root / file).write_text("\n".join(rows) + "\n", encoding="utf-8")
        lines += len(rows)
    return lines


class Linked:
    """Puts links to one image."""

    def __init__(self) -> None:
        self._number, self._last = 0, Path()

    def __call__(self, path: Path) -> None:
        """Put an image there."""
        if self._number % MOST_LINKS == 0:
            path.write_bytes(simplejpeg.encode_jpeg(np.zeros((8, 8, 3), np.uint8)))
            self._last = path
        else:
            os.link(self._last, path)
        self._number += 1


class Random:
    """Puts random images."""

    def __init__(self) -> None:
        self._generator = np.random.default_rng(0)

    def __call__(self, path: Path) -> None:
        """Put an image there."""
        pixels = self._generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        path.write_bytes(simplejpeg.encode_jpeg(pixels))


def remember(name: str, root: Path) -> None:
    """Put made-up results of a check into the memory of checks."""
    generator = np.random.default_rng(0)
    files = read_lists(name, root, find_lists(name, root)).files()
    found = (
        Checked(
            "", 500, 375, generator.bytes(32).hex(),
            pixels=generator.bytes(32).hex(), hash=generator.bytes(18).hex(),
        )
        for _ in files
    )  # fmt: skip
    file_checks._Memory(None).remember(list(zip(files, found, strict=True)))


def open_set(name: str, root: Path) -> dict[str, Any]:
    """Open the set of a case below `root` in this process and return what it takes."""
    config = resolve(f"{name}/cross-entropy", [f"data.root={root}"]).data
    imported = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    begin, computed = time.perf_counter(), time.process_time()
    data = open_data(config, workers=2)
    return {
        "images": len(data.manifest),
        "seconds": round(time.perf_counter() - begin, 1),
        "cpu_seconds": round(time.process_time() - computed, 1),
        "imports_mb": round(imported / 2**20),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10),
    }


def in_own_process(step: str, name: str, root: Path) -> str:
    """Run `remember` or `open` in a process of its own, with a memory of checks of its own."""
    command = [sys.executable, __file__, "--cases", name, f"--{step}", root]
    environment = os.environ | {"LONGTAIL_CACHE": str(root / "cache")}
    return subprocess.check_output(command, env=environment, text=True)


def main() -> None:
    """Measure every case and record it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--first", type=int, default=10_000, help="images that are checked")
    parser.add_argument("--remember", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--record", type=Path, default=Path("results/lists.jsonl"))
    arguments = parser.parse_args()
    if arguments.remember:
        remember(arguments.cases[0], arguments.remember)
        return
    if arguments.open:
        print(json.dumps(open_set(arguments.cases[0], arguments.open)))
        return
    for name in arguments.cases:
        measured = {}
        with tempfile.TemporaryDirectory() as place:
            if arguments.first:
                root = Path(place) / "first"
                write_set(name, arguments.first, root, Random())
                measured["first"] = json.loads(in_own_process("open", name, root))
            root = Path(place) / "again"
            write_set(name, CASES[name][1], root, Linked())
            in_own_process("remember", name, root)
            measured["again"] = json.loads(in_own_process("open", name, root))
        line = {
            "benchmark": "lists",
            "case": name,
            "classes": CASES[name][0],
            **measured,
            "goal": GOAL,
        }
        append_measurement(arguments.record, line)
        print(line, flush=True)


if __name__ == "__main__":
    main()
