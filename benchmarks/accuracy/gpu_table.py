"""The most of fifteen minutes of one GPU: rows of the tables with the full schedule, then the GPU's speed.

    python benchmarks/accuracy/gpu_table.py --pack .gpu/cut.npz      # where CIFAR-100 is
    pip download -d .gpu --no-deps --only-binary=:all: --python-version 3.12 \\
        --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 annotated-types \\
        pydantic==2.14.4 pydantic-core==2.50.5 simplejpeg typing-inspection

cut.npz (36 MB) holds CIFAR-100-LT at ratio 100 and the test set as lossless WebP. The GPU's machine needs no
network, but this checkout with its records, `.gpu`, and Python 3.12 with all other dependencies:

    pip install --no-index --no-deps --target /tmp/site .gpu/*.whl; export PYTHONPATH=/tmp/site:src
    python3 benchmarks/accuracy/gpu_table.py --data .gpu/cut.npz --out $OUT --minutes 14 --parallel 8

1 unpack: the images become an archive in --runs; black ones stand for those that the cut leaves out, so that
  every image keeps its number. Refused unless labels, splits and pixels are those that were packed.
2 check: a step of cross-entropy in fp32 gives the CPU's losses before and after it to 0.1 %, else the end.
3 rows: those that longtail.reproduce.queue wants and that have no record, seed 0 before seed 1; without
  --parallel, as many at a time as memory holds. No run begins that would not end in time, by the pace so far.
4 last: in the last minutes (--last), the tests that need a GPU, then benchmarks/speed/training.py.

Not run on a GPU yet; all steps were tried on a CPU.

Where one command may not take all the time, repeat it: runs are continued, finished ones recorded again.
Writes to --out gpu-table.jsonl (a record as soon as a run ends; to be put into results/), speed.jsonl, and
the logs of step 4.

Time: half a minute on one core to pack; else what --minutes says.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import pickle
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

import longtail
from longtail import api
from longtail.cli.reproduce import jobs_of
from longtail.core.errors import LongtailError
from longtail.core.paths import data_root
from longtail.data.data_set import DataSet
from longtail.data.images.storage import ArrayImages
from longtail.data.source_to_batch import open_data
from longtail.data.sources.cifar import LAYOUTS, read_cifar
from longtail.engine.hardware import describe_environment, find_device
from longtail.engine.optimisation import seeded
from longtail.engine.run_folder import RunFolder
from longtail.recipes import RunConfig, resolve
from longtail.reproduce import read_table
from longtail.reproduce.queue import COSTS, PREFIX, REFERENCE, WANTED, Wanted
from longtail.reproduce.records import read_lines
from longtail.run_queue.budget import Budget, stages_of, what_is_left
from longtail.run_queue.jobs import Job, train_queue
from longtail.runs import records

RECIPE = "cifar100-lt/cross-entropy"
CPU = torch.device("cpu")
COLUMN = 200  # images one below the other in a WebP, which then costs 5 % less than single ones
BATCH, RATE, TOLERANCE = 128, 0.02, 1e-3  # of the step that is checked
ROOT = Path(__file__).parents[2]
LAST = {
    "device-tests": ["-m", "pytest", "-n0", "-q", "tests/engine/test_device.py", "-k", "for_a_gpu"],
    "speed": ["benchmarks/speed/training.py", "--device", "{device}", "--record", "{out}/speed.jsonl"],
}  # fmt: skip


def pack(file: Path) -> None:
    """Write the cut and the test set to one file."""
    data, full = open_data(resolve(RECIPE).data), read_cifar("cifar100", data_root()).manifest
    columns = [_webp(part) for part in torch.split(_pixels(data), COLUMN)]
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        file,
        webp=np.frombuffer(b"".join(columns), np.uint8),
        ends=np.cumsum([len(column) for column in columns]),
        ids=data.manifest.ids, classes=np.array(full.classes), labels=full.labels,
        train=len(full.rows("train")), checksums=np.array(_checksums(data)),
        commit=str(describe_environment(CPU)["commit"]), source=_source(),
    )  # fmt: skip
    _say(f"packed: {len(data.manifest)} images, {file.stat().st_size / 1e6:.1f} MB")


def unpack(file: Path, root: Path) -> str | None:
    """Write an archive for the recipes to `root`; return the commit that was packed if it is this code's.

    Raises:
        LongtailError: If the recipes would read other images, labels or splits than those that were packed.
    """
    with np.load(file) as packed:
        content, labels, train = packed["webp"].tobytes(), packed["labels"], int(packed["train"])
        starts = [0, *packed["ends"].tolist()]
        images = [_images(content[a:b]) for a, b in pairwise(starts)]
        pixels = np.zeros((len(labels), 3072), np.uint8)
        pixels[packed["ids"]] = np.concatenate(images)
        checksums, classes = packed["checksums"].tolist(), packed["classes"].tolist()
        commit = str(packed["commit"]) if str(packed["source"]) == _source() else None
    layout = LAYOUTS["cifar100"]
    key, folder = layout.labels.decode(), root / layout.folder
    folder.mkdir(parents=True, exist_ok=True)
    parts = {
        layout.train[0]: {"data": pixels[:train], key: labels[:train].tolist()},
        layout.test: {"data": pixels[train:], key: labels[train:].tolist()},
        layout.meta: {layout.names.decode(): classes},
    }
    for name, part in parts.items():
        (folder / name).write_bytes(pickle.dumps(part, protocol=4))
    # for the processes that are started here, too
    os.environ["LONGTAIL_DATA"] = str(root.resolve())
    data = open_data(resolve(RECIPE).data)
    if list(_checksums(data)) != checksums:
        raise LongtailError(f"{file}: what is read from {root} is not what was packed.")
    _say(f"unpacked: {len(data.manifest)} images as packed; code of commit {commit}")
    return commit


def check(device: torch.device) -> None:
    """Compare the losses of a step on the device with the CPU's.

    Raises:
        LongtailError: If they differ.
    """
    there, here = step_losses(device), step_losses(CPU)
    differences = [abs(a / b - 1) for a, b in zip(there, here, strict=True)]
    told = f"losses before and after a step are {there} on {device}, {here} on the CPU"
    if not all(difference <= TOLERANCE for difference in differences):  # NaN neither
        raise LongtailError(f"{told}: more than {TOLERANCE:g} apart. Nothing was trained.")
    _say(f"check: {told}: at most {max(differences):.1g} apart")


def step_losses(device: torch.device) -> tuple[float, float]:
    """Return the losses of cross-entropy on one batch before and after a step, in fp32."""
    config = resolve(RECIPE)
    data = open_data(config.data)
    with seeded(0):
        method = api.build(config, config.model, data.manifest.class_counts(), data.images.size)
    method.to(device, memory_format=torch.channels_last).train()
    rows = np.linspace(0, len(data.manifest.rows("train")) - 1, BATCH).astype(np.int64)
    mean, std = (torch.tensor(each)[:, None, None] for each in (data.mean, data.std))
    images = ((_pixels(data)[rows] / 255 - mean) / std).to(
        device, memory_format=torch.channels_last
    )
    labels = torch.from_numpy(data.manifest.labels[rows]).to(device)
    optimizer = torch.optim.SGD(method.parameters(), lr=RATE)
    losses = []
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for _ in range(2):
            optimizer.zero_grad()
            loss = method.loss(method.head(method.backbone(images)), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses[0], losses[1]


def queue(results: Path, folder: Path, wanted: tuple[Wanted, ...]) -> dict[Path, Job]:
    """Return the runs that have no record, the most valuable first and the first seeds before others.

    Args:
        results: Folder of the records.
        folder: For the runs.
        wanted: Rows, the most valuable first.
    """
    jobs: dict[Path, Job] = {}
    for each in wanted:
        table = read_table(each.table)
        named = {row.name: row for row in table.rows}
        rows, place = [named[name] for name in each.rows], folder / Path(each.table).stem
        jobs |= jobs_of(table, rows, "full", each.seeds, place, results)
    # the file holds one cut: in others, images would be black
    tail = resolve(RECIPE).data.long_tail
    readable = [item for item in jobs.items() if item[1].config.data.long_tail == tail]
    return dict(sorted(readable, key=lambda item: item[1].config.training.seed))


@dataclass
class WholeRuns(Budget):
    """A budget in which no run begins that would not end.

    Attributes:
        costs: Run folder -> seconds of an epoch on one CPU thread, and epochs: by the pace of the runs that
            train on the device, what a run takes there.
    """

    costs: Mapping[Path, tuple[float, int]] = field(default_factory=dict)

    def admits(self, folder: Path, config: RunConfig, after: Path | None = None) -> bool:
        """Say whether a run may begin; as long as nothing is measured, it may."""
        if not super().admits(folder, config, after):
            return False
        seconds = {
            f: [line["seconds"] for line in RunFolder(f).read_metrics() if "loss" in line]
            for f in self.costs
        }
        # a first epoch chooses kernels, and later ones know how many runs there are
        pace = [
            statistics.fmean(each[1:][-3:]) / self.costs[f][0]
            for f, each in seconds.items()
            if len(each) > 1
        ]
        cost, epochs = self.costs[folder]
        left = (epochs - len(seconds[folder])) * cost * (statistics.fmean(pace) if pace else 0.0)
        if time.monotonic() + left > self.deadline:
            self.left.add(folder)
        return folder not in self.left


def epoch_costs(jobs: Mapping[Path, Job]) -> dict[Path, tuple[float, int]]:
    """Return the measured seconds of an epoch on a CPU, cross-entropy's where none are, and the epochs."""
    lines = {line["recipe"]: line for line in read_lines(ROOT / "results" / COSTS)}
    costs = {}
    for folder, job in jobs.items():
        line = lines.get(job.config.recipe.removeprefix(PREFIX), lines[REFERENCE])
        seconds = line["training_seconds"] / sum(line["epochs"].values())
        costs[folder] = seconds, sum(stage.epochs for stage in stages_of(job.config))
    return costs


def rows(jobs: Mapping[Path, Job], budget: WholeRuns, asked: argparse.Namespace) -> str | None:
    """Train and record until the time is up; return what went wrong, in words."""
    _say(f"rows: {len(jobs)} runs have no record")
    problem = None
    try:
        for run in train_queue(
            jobs, asked.parallel, asked.device, budget, note=_say, progress=False
        ):
            line = records.record(run)
            line["commit"] = line["commit"] or asked.commit
            records.append_record(asked.out / "gpu-table.jsonl", line)
            _say(f"recorded: {line['recipe']}, seed {line['seed']}: {100 * line['accuracy']:.2f} %")
    except LongtailError as error:
        problem = str(error)
        _say(f"rows: some failed: {problem}")
    left = {folder: jobs[folder].config for folder in jobs if folder in budget.left}
    _say(f"rows: {what_is_left(left, asked.parallel or 1)}")
    return problem


def last(deadline: float, device: torch.device, out: Path) -> None:
    """Run the programs of the last minutes, each with a log and an equal share of the time that is left."""
    for programs, (name, command) in zip(range(len(LAST), 0, -1), LAST.items(), strict=True):
        with (out / f"{name}.log").open("w", encoding="utf-8") as log:
            filled = [part.format(device=device, out=out.resolve()) for part in command]
            try:
                done = subprocess.run(
                    [sys.executable, *filled], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT,
                    timeout=max(0.0, deadline - time.monotonic()) / programs, check=False,
                )  # fmt: skip
                ended = f"exit status {done.returncode}"
            except subprocess.TimeoutExpired:
                ended = "stopped: its time is up"
        _say(f"{name}: {ended}, see {name}.log")


def main(arguments: list[str] | None = None) -> None:
    """Pack, or do the steps of the GPU machine."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pack", type=Path, metavar="FILE", help="write the images to it and end")
    parser.add_argument("--data", type=Path, metavar="FILE", help="that --pack wrote")
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--minutes", type=float, default=14, help="of the whole command")
    parser.add_argument("--last", type=float, default=4, help="minutes of step 4, 0 for none")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--parallel", type=int, help="runs at the same time; else by memory")
    parser.add_argument("--runs", type=Path, default=Path("runs/gpu-table"))
    parser.add_argument("--results", type=Path, default=Path("results"), help="records so far")
    asked, begun = parser.parse_args(arguments), time.monotonic()
    if asked.pack:
        pack(asked.pack)
        return
    if asked.data is None:
        parser.error("give --pack FILE or --data FILE")
    device = find_device(asked.device)
    asked.out.mkdir(parents=True, exist_ok=True)
    asked.commit = unpack(asked.data, asked.runs / "data")
    check(device)
    jobs = queue(asked.results, asked.runs, WANTED)
    deadline = begun + 60 * asked.minutes
    budget = WholeRuns(deadline - 60 * asked.last, costs=epoch_costs(jobs))
    problem = rows(jobs, budget, asked)
    if asked.last:
        last(deadline, device, asked.out)
    if problem:
        sys.exit(problem)


def _say(text: str) -> None:
    print(text, flush=True)


def _pixels(data: DataSet) -> torch.Tensor:
    assert isinstance(data.images, ArrayImages), "CIFAR is one array"
    return data.images.pixels


def _webp(images: torch.Tensor) -> bytes:
    """Return images [N, 3, 32, 32] as one column, without loss."""
    stream = io.BytesIO()
    column = images.permute(0, 2, 3, 1).reshape(-1, 32, 3).contiguous()
    Image.fromarray(column.numpy()).save(stream, "WEBP", lossless=True)
    return stream.getvalue()


def _images(content: bytes) -> NDArray[np.uint8]:
    """Return the images of a column, [N, 3072]."""
    column = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    return column.reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2).reshape(-1, 3072)


def _checksums(data: DataSet) -> tuple[str, str]:
    return data.manifest.checksum(), data.content()


def _source() -> str:
    """Return a SHA-256 of the package's files, which says where git is not whether they are a commit's."""
    package, digest = Path(longtail.__file__).parent, hashlib.sha256()
    for file in sorted(package.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            digest.update(f"{file.relative_to(package)}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()


if __name__ == "__main__":
    main()
