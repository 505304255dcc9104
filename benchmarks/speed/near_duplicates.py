"""Time, memory and misses of the search for near-duplicates among up to 100,000 images.

    python benchmarks/speed/near_duplicates.py [--cases hashes] [--threads 2]

Hashes and features are made up: unrelated ones, of which 1 % have a copy (6 of 144 bits differ; noise of 0.3
of the deviation). `hashes` compares 100,000 hashes exactly, `features-exact` 50,000 features (1,280 numbers
each); `hashes-index` and `features-index` ask the index of usearch, which is used above 50,000 images.
Recorded: seconds, peak memory of the process so far (so measure one case at a time), and which share of the
copies was found.
Time: 50 CPU seconds for the hashes, 71 for 50,000 features, 6 minutes for 100,000 by the index.
Appends a line per case to results/near-duplicates.jsonl.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from longtail.data.images.perceptual_hash import BITS, KEPT
from longtail.data.near_duplicates import neighbours
from longtail.data.near_duplicates.found import STEP, near_by_features
from longtail.runs.records import append_measurement

COPIES = 0.01  # of the images
CASES = ("hashes", "hashes-index", "features-exact", "features-index")


def made_up_hashes(number: int) -> NDArray[np.float32]:
    """Return unit vectors of hashes [N, 144], the last 1 % copies of the first."""
    generator = np.random.default_rng(0)
    bits = generator.random((number, BITS)) < 0.5
    copies = round(COPIES * number)
    bits[-copies:] = bits[:copies]
    for row in range(number - copies, number):
        bits[row, generator.choice(BITS, 6, replace=False)] ^= True
    return (np.where(bits, 1, -1) / KEPT).astype(np.float32)


def made_up_features(number: int, width: int = 1280) -> NDArray[np.float32]:
    """Return features [N, D] around 1,000 classes, the last 1 % copies of the first."""
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((1000, width), dtype=np.float32)
    values = centres[generator.integers(0, 1000, number)]
    values += generator.standard_normal((number, width), dtype=np.float32)
    copies = round(COPIES * number)
    noise = generator.standard_normal((copies, width), dtype=np.float32)
    values[-copies:] = values[:copies] + 0.3 * noise
    return values


def found_copies(pairs: NDArray[np.int64], number: int) -> float:
    """Return the share of the copies that are among pairs."""
    copies = round(COPIES * number)
    wanted = {(row, number - copies + row) for row in range(copies)}
    return len(wanted & set(map(tuple, pairs.tolist()))) / copies


def main() -> None:
    """Measure every case and record it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--record", type=Path, default=Path("results/near-duplicates.jsonl"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    exact_up_to = neighbours.EXACT_UP_TO
    for case in arguments.cases:
        number = (
            min(arguments.images, exact_up_to) if case == "features-exact" else arguments.images
        )
        of_features = case.startswith("features")
        values = made_up_features(number) if of_features else made_up_hashes(number)
        neighbours.EXACT_UP_TO = 0 if case.endswith("index") else number
        begin, computed = time.perf_counter(), time.process_time()
        if of_features:
            pairs = near_by_features(values).pairs
        else:
            neighbours.histogram_of_distances(values, STEP)
            pairs = neighbours.pairs_within(values, 12.25 * STEP)
        line = {
            "benchmark": "near-duplicates", "case": case, "images": number, "threads": arguments.threads,
            "seconds": round(time.perf_counter() - begin, 1),
            "cpu_seconds": round(time.process_time() - computed, 1),
            "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
            "pairs": len(pairs), "copies_found": round(found_copies(pairs, number), 4),
        }  # fmt: skip
        append_measurement(arguments.record, line)
        print(line, flush=True)


if __name__ == "__main__":
    main()
