"""Run folders with one damaged, foreign or missing file, read by every verb that opens them.

Folders of now must be refused or give what the whole folder gives; folders of before run.json, which nothing
vouches for, must be refused in words or give something that can be read.
"""

import io
import json
import math
import os
import shutil
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from longtail import api
from longtail.engine import checkpoint as ckpt
from longtail.engine.log import SilentLog
from longtail.report.view import RunView
from tests import tiny
from tests.fuzz.harness import Outcome, longtail, run_fuzz
from tests.fuzz.mutate import csv_bytes, json_bytes, mutate_bytes, mutate_table, mutate_tree
from tests.runs.test_run_folder import make_old

LINE = [
    "epochs=2",
    "batch_size=8",
    "backbone=resnet20",
    "precision=fp32",
    "image_size=8",
    "workers=1",
]
VERBS = ("evaluate", "evaluate", "report", "predict", "export", "ensemble", "resume", "resume")
# of these nothing is read, or they are written for people
UNREAD = (".lock", "skipped-images.csv")


class Interrupting(SilentLog):
    def epoch(self, line):
        if line["epoch"] == 2:
            raise KeyboardInterrupt


@dataclass(frozen=True)
class Case:
    """One input: what is called on which folder, and what was done to it."""

    verb: str
    old: bool
    harm: str


@dataclass(frozen=True)
class Whole:
    """Whole folders, and what the verbs say of them."""

    images: Path
    runs: dict[tuple[str, bool], Path]  # by ("finished" | "other" | "half", of before)
    scores: dict
    weights: dict
    predictions: str


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("whole")
    generator = np.random.default_rng(0)
    for name, size in {"ant": 20, "bee": 12, "cow": 10}.items():
        (root / "images" / name).mkdir(parents=True)
        for number in range(size):
            pixels = generator.integers(0, 255, (8, 8, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(root / "images" / name / f"{number:02d}.png")
    runs = {}
    for name, seed in (("finished", 0), ("other", 1), ("half", 0)):
        line = [*LINE, f"seed={seed}"]
        log = Interrupting() if name == "half" else SilentLog()
        try:
            api.train(str(root / "images"), line, out=root / name, device="cpu", log=log)
        except KeyboardInterrupt:
            assert name == "half"
        runs[name, False] = root / name
        runs[name, True] = shutil.copytree(root / name, root / f"{name}-of-before")
        make_old(runs[name, True])
    run = api.Run.open(runs["finished", False])
    return Whole(
        root / "images",
        runs,
        run.scores("test"),
        ckpt.read_weights(ckpt.finished(run.folder.checkpoints)),
        longtail("predict", run.folder.path, root / "images").out,
    )


def test_run_folders(inputs, whole, tmp_path):
    def make(rng, folder):
        verb, old = rng.choice(VERBS), rng.random() < 0.4
        name = "half" if verb == "resume" else "finished"
        source = whole.runs[name, old]
        copy(source, folder / "run")
        files = sorted(p for p in source.rglob("*") if p.is_file() and p.name not in UNREAD)
        file = rng.choice(files).relative_to(source)
        harm = rng.choice(HARMS)
        harm(rng, folder / "run" / file, whole.runs["other", old] / file)
        return Case(verb, old, f"{harm.__name__} {file}")

    def act(case, folder):
        if case.verb == "resume":
            return longtail(
                "train", whole.images, *LINE, "--resume", "--out", "run", "--device", "cpu"
            )
        if case.verb == "predict":
            return longtail("predict", "run", whole.images, "--device", "cpu")
        if case.verb == "export":
            return longtail("export", "run", "--format", "safetensors")
        if case.verb == "ensemble":
            return longtail(
                "ensemble", "run", whole.runs["other", case.old], "--record", "ensemble.jsonl"
            )
        if case.verb == "evaluate":
            return longtail("evaluate", "run", "--device", "cpu")
        return read_all(Path("run"))

    def check(case, outcome: Outcome, folder):
        run = folder / "run"
        written = {"evaluate": run / "scores-test.json", "resume": run / "scores-test.json",
                   "ensemble": folder / "ensemble.jsonl"}  # fmt: skip
        if case.verb in written:
            json.loads(written[case.verb].read_text(), parse_constant=refuse)
        if case.old:
            return None
        if (
            case.verb == "evaluate"
            and json.loads((run / "scores-test.json").read_text()) != whole.scores
        ):
            return "other scores than those of the whole folder"
        if case.verb == "predict" and outcome.out != whole.predictions:
            return "other predictions than those of the whole folder"
        if case.verb == "resume":
            weights = ckpt.read_weights(ckpt.finished(run / "checkpoints"))
            if not tiny.equal(weights, whole.weights):
                return "other weights than those of a run that nothing happened to"
        return None

    run_fuzz("run-folders", make, act, tmp_path, check=check, inputs=inputs).require()


def read_all(path):
    """Read all that the page of a run shows; drawing it takes seconds."""
    view = RunView.open(path, device="cpu")
    assert math.isfinite(view.scores["accuracy"])
    with redirect_stderr(io.StringIO()):
        return (view.predictions, view.environment, view.lines, view.counts, view.groups, view.confusion,
                view.intervals, view.data, view.inspection, view.row_norms())  # fmt: skip


def refuse(name):
    raise AssertionError(f"{name} in a JSON file")


def copy(source, target):
    """Copy a run folder; large files are shared, because nobody writes into them."""
    for path in source.rglob("*"):
        place = target / path.relative_to(source)
        if path.is_dir():
            place.mkdir(parents=True, exist_ok=True)
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        large = path.suffix in (".safetensors", ".pt")
        (os.link if large else shutil.copyfile)(path, place)


# --- what happens to a file ---------------------------------------------------------------------


def replace(file, content):
    file.unlink()  # it may be shared
    file.write_bytes(content)


def bytes_are_damaged(rng, file, other):
    others = (other.read_bytes(),) if other.exists() else ()
    replace(file, mutate_bytes(rng, file.read_bytes(), others))


def one_bit_is_flipped(rng, file, other):
    content = bytearray(file.read_bytes() or b"\0")
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    replace(file, bytes(content))


def the_values_are_damaged(rng, file, other):
    text = file.read_bytes()
    if file.suffix == ".json":
        replace(file, json_bytes(mutate_tree(rng, json.loads(text))))
    elif file.suffix == ".yaml":
        tree = mutate_tree(rng, yaml.safe_load(text))
        replace(file, yaml.safe_dump(json.loads(json_bytes(tree)), sort_keys=False).encode())
    elif file.suffix == ".jsonl":
        lines = [json_bytes(mutate_tree(rng, json.loads(line))) for line in text.splitlines()]
        replace(file, b"\n".join(lines) + b"\n")
    elif file.suffix == ".csv":
        rows = [line.split(",") for line in text.decode().splitlines()]
        replace(file, csv_bytes(rng, mutate_table(rng, rows)))
    else:
        one_bit_is_flipped(rng, file, other)


def it_is_of_another_run(rng, file, other):
    if other.exists():
        replace(file, other.read_bytes())
    else:
        file.unlink()


def it_is_gone(rng, file, other):
    file.unlink()


def it_is_something_else(rng, file, other):
    file.unlink()
    kind = rng.choice(["folder", "pipe", "link", "empty"])
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "link":
        file.symlink_to("/dev/zero")
    else:
        file.touch()


HARMS = (bytes_are_damaged, bytes_are_damaged, one_bit_is_flipped, the_values_are_damaged,
         the_values_are_damaged, the_values_are_damaged, it_is_of_another_run, it_is_gone,
         it_is_something_else)  # fmt: skip
