"""Measure the data path, the step and the whole loop; print a table and write a record.

    python benchmarks/speed/training.py                 # the lines that a CPU can have
    python benchmarks/speed/training.py --device cuda   # with the lines that need a GPU
    python benchmarks/speed/training.py --accuracy      # instead: 15 epochs of both loops, three seeds each
    python benchmarks/speed/training.py --compiled      # instead: the line of the compiled step alone

Each line is a ratio of medians of alternating repetitions in one run on one machine, with the
smallest and largest ratio of a pair. Needs CIFAR-100 in $LONGTAIL_DATA.

Time: with --accuracy 24 to 61 minutes a seed on one thread, by the dates of the records; of the others, not
measured. Appends to results/speed.jsonl.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
from plain_loop import BATCH, CPU, PlainLoop
from torchvision.transforms import v2

from longtail import api
from longtail.core.groups import GROUP_NAMES, ShotGroups
from longtail.core.paths import data_root
from longtail.core.rng import numpy_generator
from longtail.data.augmentation import Draws, find_policy
from longtail.data.source_to_batch import open_data
from longtail.engine.hardware import (
    autocast,
    describe_environment,
    find_device,
    resolve_precision,
)
from longtail.engine.optimisation import seeded
from longtail.evaluation import confusion_matrix, macro_accuracy
from longtail.prediction import predict_split
from longtail.recipes import resolve
from longtail.run_queue.parallel import train_parallel

RECIPE = "cifar100-lt/cross-entropy"
REPEATS = 3
IMAGES = 1024


@dataclass(frozen=True)
class Line:
    """One measured ratio.

    Attributes:
        measure: What was measured.
        against: The peer.
        ours: Median.
        theirs: Median.
        unit: Of both.
        ratio: How many times better ours is.
        spread: Smallest and largest ratio of a pair of repetitions.
        target: What the project wants to reach, or None.
    """

    measure: str
    against: str
    ours: float
    theirs: float
    unit: str
    ratio: float
    spread: tuple[float, float]
    target: float | None


def compare(
    measure: str,
    against: str,
    unit: str,
    ours: Callable[[], float],
    theirs: Callable[[], float],
    target: float | None,
    *,
    repeats: int = REPEATS,
) -> Line:
    """Alternate the two rates (larger is better) and return the ratio of their medians."""
    pairs = [(ours(), theirs()) for _ in range(repeats)]
    one, other = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratios = [a / b for a, b in pairs]
    line = Line(
        measure, against, round(one, 1), round(other, 1), unit, round(one / other, 2),
        (round(min(ratios), 2), round(max(ratios), 2)), target,
    )  # fmt: skip
    print(describe(line), flush=True)
    return line


def describe(line: Line) -> str:
    """Return one line for people."""
    goal = "" if line.target is None else f", target {line.target:g}"
    return (
        f"{line.measure}: {line.ours:,.0f} against {line.theirs:,.0f} {line.unit}, ratio "
        f"{line.ratio:.2f} ({line.spread[0]:.2f} to {line.spread[1]:.2f}{goal}) [{line.against}]"
    )


def our_epoch(device: torch.device, *overrides: str) -> float:
    """Train through the whole product; return the images per second of the last epoch."""
    epochs = 1 if device == CPU else 4  # the first epoch on a GPU chooses its kernels
    with tempfile.TemporaryDirectory() as folder:
        run = api.train(
            RECIPE, [f"epochs={epochs}", *overrides], out=Path(folder) / "run", device=str(device)
        )
        rate: float = run.folder.read_metrics()[-1]["images_per_second"]
    return rate


def bare_step(device: torch.device) -> float:
    """Run the product's step on one fixed batch that is on the device; images per second."""
    config = resolve(RECIPE)
    data = open_data(config.data)
    method = api.build(config, config.model, data.manifest.class_counts(), data.images.size)
    method.to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        method.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4, foreach=True
    )
    with seeded(0):
        images = torch.randn(BATCH, 3, 32, 32).to(device, memory_format=torch.channels_last)
        labels = torch.randint(100, (BATCH,)).to(device)
    method.train()
    steps = 84

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast(resolve_precision("auto", device), device):
            loss = method.loss(method.head(method.backbone(images)), labels)
        loss.backward()
        optimizer.step()

    for _ in range(3):
        step()
    synchronise(device)
    begin = time.perf_counter()
    for _ in range(steps):
        step()
    synchronise(device)
    return steps * BATCH / (time.perf_counter() - begin)


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def best_workers(root: Path, kind: str, device: torch.device) -> int:
    """Return the worker count with which the plain loop's data path and step are fastest."""
    counts = (0, 1, 2) if device == CPU else (2, 4, 8, 12)
    rates = {n: PlainLoop(root, kind, n, device=device).epoch(0, 1) for n in counts}
    print(f"plain loop, {kind}: " + ", ".join(f"{w} workers {r:.0f}/s" for w, r in rates.items()))
    return max(rates, key=rates.__getitem__)


def augmentation(
    policy: str, reference: v2.Compose
) -> tuple[Callable[[], float], Callable[[], float]]:
    """Return the rates of a policy and of torchvision, one image at a time."""
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, 3, 32, 32), dtype=np.uint8)
    images = torch.from_numpy(pixels)
    ours = find_policy(policy)

    def batched() -> float:
        begin, rounds = time.perf_counter(), 20
        for number in range(rounds):
            ours(images.clone(), Draws(numpy_generator(number, "speed"), IMAGES))
        return rounds * IMAGES / (time.perf_counter() - begin)

    def single() -> float:
        begin = time.perf_counter()
        for image in images:
            reference(image)
        return IMAGES / (time.perf_counter() - begin)

    batched(), single()
    return batched, single


def evaluation_rates(
    loop: PlainLoop, device: torch.device
) -> tuple[Callable[[], float], Callable[[], float]]:
    """Return images per second of our evaluation and of the plain one."""
    config = resolve(RECIPE)
    data = open_data(config.data)
    method = api.build(config, config.model, data.manifest.class_counts(), data.images.size)
    method.to(device, memory_format=torch.channels_last)
    part, precision = data.split("test"), resolve_precision("auto", device)

    def ours() -> float:
        begin = time.perf_counter()
        predict_split(method, part, "test", device=device, precision=precision)
        return 10_000 / (time.perf_counter() - begin)

    return ours, lambda: 10_000 / loop.evaluate()[2]


def compiled(device: torch.device) -> Line:
    """Train with the step compiled and without."""
    on_gpu = device.type == "cuda"
    later = () if on_gpu else ("epochs=2",)  # the first epoch compiles
    return compare(
        "compiled, as CUDA graphs" if on_gpu else "compiled, second epoch", "the default", "images/s",
        lambda: our_epoch(device, "compile=true", *later), lambda: our_epoch(device, *later), None,
    )  # fmt: skip


def whole_run(device: torch.device, epochs: int = 200, limit: float = 45.0) -> Line:
    """Train the reference recipe from the start to its scores; an absolute time."""
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        api.train(RECIPE, [f"epochs={epochs}"], out=Path(folder) / "run", device=str(device))
        seconds = time.perf_counter() - begin
    ratio = round(limit / seconds, 2)
    line = Line(
        f"{epochs} epochs, start to scores", "the limit", round(seconds, 1), limit, "s", ratio,
        (ratio, ratio), 1.0,
    )  # fmt: skip
    print(describe(line), flush=True)
    return line


def parallel_seeds(device: torch.device, epochs: int = 20) -> Line:
    """Train three seeds in parallel and one after another, each in processes of their own."""

    def rate(parallel: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            runs = {
                Path(folder) / str(seed): resolve(RECIPE, [f"epochs={epochs}", f"seed={seed}"])
                for seed in range(3)
            }
            begin = time.perf_counter()
            everything = train_parallel(
                runs, parallel, resume=False, device=str(device), note=lambda _: None
            )
            assert len(list(everything)) == len(runs)
            return 3 * 3600 / (time.perf_counter() - begin)

    return compare(
        f"three parallel seeds, {epochs} epochs", "one after another", "runs/h",
        lambda: rate(3), lambda: rate(1), 2.0, repeats=1,
    )  # fmt: skip


def peak_memory() -> float:
    """Return the peak of a run's host memory in GB, measured in a process of its own."""
    # VmHWM belongs to the process's own memory; ru_maxrss is inherited from whoever started it
    code = (
        "from longtail import api; import tempfile, pathlib;"
        f"api.train('{RECIPE}', ['epochs=1'], out=pathlib.Path(tempfile.mkdtemp()) / 'run', "
        "device='cpu'); print(open('/proc/self/status').read())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024 / 1e9


def accuracies(root: Path, seed: int, epochs: int = 15) -> dict[str, dict[str, float]]:
    """Train both loops with one seed; return the accuracy by group of each."""
    with tempfile.TemporaryDirectory() as folder:
        run = api.train(
            RECIPE, [f"epochs={epochs}", f"seed={seed}"], out=Path(folder) / "run", device="cpu"
        )
        scores = run.scores("test")
    ours = {"all": scores["macro_accuracy"]}
    ours |= {name: scores["groups"][name]["accuracy"] for name in GROUP_NAMES}
    loop = PlainLoop(root, "standard", 0, seed)
    for epoch in range(epochs):
        loop.epoch(epoch, epochs)
    labels, predicted, _ = loop.evaluate()
    confusion = confusion_matrix(labels, predicted, 100)
    groups = ShotGroups.from_counts(open_data(resolve(RECIPE).data).manifest.class_counts())
    theirs = {"all": macro_accuracy(confusion)}
    theirs |= {name: macro_accuracy(confusion, groups.mask(name).numpy()) for name in GROUP_NAMES}
    print(f"seed {seed}: {ours} | {theirs}", flush=True)
    return {"longtail": ours, "plain loop": theirs}


def main() -> None:
    """Measure everything and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", type=Path, default=Path("results/speed.jsonl"))
    parser.add_argument("--accuracy", action="store_true", help="train both loops for 15 epochs")
    parser.add_argument("--compiled", action="store_true", help="measure the compiled step alone")
    parser.add_argument("--device", type=find_device, default=CPU, help="of the speed")
    arguments = parser.parse_args()
    root = data_root()
    if arguments.compiled:
        device = arguments.device
        found = {
            "precision": resolve_precision("auto", device),
            "lines": [asdict(compiled(device))],
        }
        write(arguments.record, {"benchmark": "compiled step", **found}, device)
        return
    if not arguments.accuracy:
        found = {"benchmark": "speed", **speeds(root, arguments.device)}
        write(arguments.record, found, arguments.device)
        return
    for seed in range(3):
        found = {"benchmark": "accuracy of both loops", "seed": seed, **accuracies(root, seed)}
        write(arguments.record, found, CPU)


def write(path: Path, found: dict[str, object], device: torch.device) -> None:
    """Append a record of what was found here."""
    record = {
        **found,
        "date": f"{datetime.now():%Y-%m-%dT%H:%M:%S}",
        "command": " ".join(["python", *sys.argv]),
        **describe_environment(device),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(record) + "\n")
    print(f"written to {path}", flush=True)


def speeds(root: Path, device: torch.device) -> dict[str, object]:
    """Measure every line of the table that the device can have."""
    lines = []
    workers = {}
    on_gpu = device.type == "cuda"
    for kind, overrides, target in (
        ("standard", (), 10 if on_gpu else 1.8),
        ("autoaugment-cutout", ("augmentation=autoaugment-cutout",), 15 if on_gpu else 2.2),
    ):
        workers[kind] = best_workers(root, kind, device)
        loop = PlainLoop(root, kind, workers[kind], device=device)
        lines.append(
            compare(
                f"training, ResNet-32, batch 128, {kind}",
                f"plain loop, {workers[kind]} workers",
                "images/s",
                lambda overrides=overrides: our_epoch(device, *overrides),
                lambda loop=loop: loop.epoch(0, 1),
                target,
            )
        )
    lines.append(
        compare(
            "whole loop",
            "the same step on one fixed batch",
            "images/s",
            lambda: our_epoch(device),
            lambda: bare_step(device),
            0.95,
        )
    )
    if on_gpu:
        lines += [whole_run(device), parallel_seeds(device)]
    lines.append(compiled(device))  # compiles for minutes
    crop = [v2.RandomCrop(32, 4), v2.RandomHorizontalFlip()]
    sim = [
        v2.RandomResizedCrop(32, (0.2, 1.0)), v2.RandomHorizontalFlip(),
        v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8), v2.RandomGrayscale(0.2),
        v2.RandomApply([v2.GaussianBlur(13, (0.1, 2.0))], 0.5),
    ]  # fmt: skip
    erase = v2.RandomErasing(1.0, (0.25, 0.25), (1.0, 1.0))
    for name, steps, target in (
        ("crop-flip", crop, 20),
        ("autoaugment-cutout", [*crop, v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10), erase], 5),
        ("sim-cifar", sim, 5),
    ):
        ours, theirs = augmentation(name, v2.Compose(steps))
        lines.append(
            compare(
                f"augmentation alone, {name}",
                "torchvision v2, one image at a time",
                "images/s",
                ours,
                theirs,
                target,
                repeats=7,
            )
        )
    loop = PlainLoop(root, "standard", workers["standard"], device=device)
    ours, theirs = evaluation_rates(loop, device)
    target = None if on_gpu else 2
    lines.append(
        compare("evaluation of 10,000 images", "plain loop", "images/s", ours, theirs, target)
    )
    memory = peak_memory()
    print(f"peak host memory of a run: {memory:.2f} GB (target at most 1.5)")
    return {
        "repeats": REPEATS,
        "precision": resolve_precision("auto", device),
        "lines": [asdict(line) for line in lines],
        "peak_memory_gb": round(memory, 2),
        "not_measured": "nothing" if on_gpu else "lines that need a GPU: none was at hand",
    }


if __name__ == "__main__":
    main()
