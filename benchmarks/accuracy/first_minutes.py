"""The first minutes of a newcomer: from a folder of images to the finished report, with no options.

    LONGTAIL_DATA=... python benchmarks/accuracy/first_minutes.py [--draws 0 1] [--no-report] [--options ...]

Each draw writes 600 real images of 12 classes of CIFAR-100's train split, 150 to 4 a class, as PNG files into
one folder per class, and runs `longtail train FOLDER` and `longtail report RUN` as a user would.
Wall and CPU seconds are from the command to the finished page, the start of Python included; a machine that
does other things meanwhile shows it in the wall seconds alone.

The draws of `--held-out` are of classes that the others do not take, scored on val: for choosing what the
default is, with `--options`. own_images_head.py chooses on the same classes without starting a command.
Time: about a minute of CPU a draw.
`--no-report` trains and scores alone.
Appends a line per draw to results/first-minutes.jsonl.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from longtail import api
from longtail.core.paths import data_root
from longtail.data.data_set import DataSet
from longtail.data.images.storage import ArrayImages
from longtail.data.sources.cifar import read_cifar
from longtail.runs.records import append_record

COUNTS = (150, 125, 95, 70, 50, 36, 25, 18, 13, 8, 6, 4)  # 600 together
DRAWS = 5  # that are measured; what chooses takes other classes


def measured_classes(draw: int) -> list[int]:
    """Return the classes of one of the draws that are measured, the most frequent first."""
    generator = np.random.default_rng([2026, draw])
    return generator.permutation(100)[: len(COUNTS)].tolist()


def held_out_classes(draw: int) -> list[int]:
    """Return classes that none of the measured draws takes, for choosing what the default is."""
    taken = {label for number in range(DRAWS) for label in measured_classes(number)}
    left = [label for label in range(100) if label not in taken]
    generator = np.random.default_rng([2027, draw])
    return generator.permutation(left)[: len(COUNTS)].tolist()


def write_images(data: DataSet, folder: Path, draw: int, classes: list[int]) -> None:
    """Write the images of one draw as files."""
    generator = np.random.default_rng([2028, draw])
    manifest, images = data.manifest, data.images
    assert isinstance(images, ArrayImages)
    in_train = manifest.splits == 0
    for label, count in zip(classes, COUNTS, strict=True):
        rows = np.flatnonzero((manifest.labels == label) & in_train)
        place = folder / manifest.classes[label]
        place.mkdir(parents=True)
        for row in generator.permutation(rows)[:count]:
            Image.fromarray(images.pixels[row].permute(1, 2, 0).numpy()).save(place / f"{row}.png")


def timed(*line: str) -> dict[str, float]:
    """Run a command of longtail and return its wall and CPU seconds."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "longtail", *line], check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return {"wall": round(wall, 1), "cpu": round(cpu, 1)}


def main() -> None:
    """Train and report each draw, and record what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, nargs="*", default=list(range(DRAWS)))
    parser.add_argument("--no-report", action="store_true")
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("--options", nargs="*", default=[])
    parser.add_argument("--record", type=Path, default=Path("results/first-minutes.jsonl"))
    arguments = parser.parse_args()
    data = read_cifar("cifar100", data_root(), download=False)
    classes_of = held_out_classes if arguments.held_out else measured_classes
    for draw in arguments.draws:
        with tempfile.TemporaryDirectory() as scratch:
            folder, run = Path(scratch, "images"), Path(scratch, "run")
            write_images(data, folder, draw, classes_of(draw))
            # nothing is known of the files beforehand, as on a user's first day
            os.environ["XDG_CACHE_HOME"] = scratch
            load = os.getloadavg()[0]
            seconds = {"train": timed("train", str(folder), *arguments.options, "--out", str(run))}
            page = run / "report.html"
            if not arguments.no_report:
                seconds["report"] = timed("report", str(run))
            split = "val" if arguments.held_out else "test"
            opened = api.Run.open(run)
            if arguments.held_out:
                api.evaluate(opened, split)
            facts = {
                "benchmark": "first-minutes",
                "draw": draw,
                "held_out": arguments.held_out,
                "options": arguments.options,
                "seconds": seconds,
                "load_before": round(load, 1),
                "page_bytes": None if arguments.no_report else page.stat().st_size,
            }
            line = facts | api.record(opened, split)
            append_record(arguments.record, line)
            total = {k: sum(part[k] for part in seconds.values()) for k in ("wall", "cpu")}
            print(
                f"draw {draw}: {split} macro {100 * line['macro_accuracy']:.1f} %, "
                f"{total['wall']:.0f} s wall, {total['cpu']:.0f} s CPU (load {load:.1f})",
                flush=True,
            )
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
