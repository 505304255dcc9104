"""The benchmark for fifteen minutes of a GPU, on a CPU: nobody has time there to find out what fails."""

import importlib
import json
import pickle
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from longtail.core.errors import LongtailError
from longtail.core.manifest import Manifest
from longtail.data.source_to_batch import open_data
from longtail.engine.run_folder import RunFolder
from longtail.recipes import resolve
from longtail.reproduce.queue import Wanted

FOLDER = Path(__file__).parents[2] / "benchmarks" / "accuracy"
TABLE = """
title: two rows and one of another cut
source: nobody
best_on_test: true
rows:
  - {name: plain, recipe: cifar100-lt/cross-entropy, overrides: [epochs=1, backbone=resnet20]}
  - {name: balanced, recipe: cifar100-lt/balanced-softmax, overrides: [epochs=1, backbone=resnet20]}
  - {name: other, recipe: cifar100-lt/cross-entropy, overrides: [epochs=1, imbalance_ratio=50]}
"""


@pytest.fixture
def gpu_table(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    module = importlib.import_module("gpu_table")
    monkeypatch.setattr(module, "BATCH", 16)
    return module


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """CIFAR-100 with 5 classes of 100 noisy images, of which the cut keeps 100, 31, 10, 3 and 1."""
    folder, generator = tmp_path / "full" / "cifar-100-python", np.random.default_rng(0)
    folder.mkdir(parents=True)
    for name, size in (("train", 500), ("test", 25)):
        pixels = generator.integers(0, 256, (size, 3072), dtype=np.uint8)
        labels = generator.permutation(np.arange(size) % 5).tolist()
        content = pickle.dumps({"data": pixels, "fine_labels": labels})
        (folder / name).write_bytes(content)
    names = {"fine_label_names": list("abcde")}
    (folder / "meta").write_bytes(pickle.dumps(names))
    monkeypatch.setenv("LONGTAIL_DATA", str(folder.parent))
    return folder.parent


def read():
    """Return what a recipe trains on and is scored on."""
    data = open_data(resolve("cifar100-lt/cross-entropy").data)
    return data.manifest, data.images.pixels.clone()


def same_after_a_journey(gpu_table, tmp_path):
    manifest, pixels = read()
    gpu_table.pack(tmp_path / "cut.npz")
    gpu_table.unpack(tmp_path / "cut.npz", tmp_path / "there")
    found, found_pixels = read()
    for name in Manifest.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(found, name), getattr(manifest, name))
    assert torch.equal(found_pixels, pixels)
    return len(manifest)


def test_labels_splits_and_pixels_arrive_bit_for_bit(gpu_table, archive, tmp_path):
    assert same_after_a_journey(gpu_table, tmp_path) == 145 + 25
    # no copy of the full set: what the cut leaves out is black
    with (tmp_path / "there/cifar-100-python/train").open("rb") as stream:
        assert (pickle.load(stream)["data"].any(axis=1)).sum() == 145


@pytest.mark.slow
def test_the_real_images_arrive_bit_for_bit(gpu_table, benchmark_data, tmp_path, monkeypatch):
    monkeypatch.setenv("LONGTAIL_DATA", str(benchmark_data))
    assert same_after_a_journey(gpu_table, tmp_path) == 20_847
    assert (tmp_path / "cut.npz").stat().st_size < 40e6


def test_other_images_are_refused_and_other_code_has_no_commit(
    gpu_table, archive, tmp_path, monkeypatch
):
    gpu_table.pack(tmp_path / "cut.npz")
    with np.load(tmp_path / "cut.npz") as packed:
        content = dict(packed)
    changed = content | {"ids": content["ids"][[1, 0, *range(2, 170)]]}
    np.savez(tmp_path / "changed.npz", **changed)
    with pytest.raises(LongtailError, match="is not what was packed"):
        gpu_table.unpack(tmp_path / "changed.npz", tmp_path / "there")
    assert gpu_table.unpack(tmp_path / "cut.npz", tmp_path / "there") == content["commit"]
    monkeypatch.setattr(gpu_table, "_source", lambda: "of another commit")
    assert gpu_table.unpack(tmp_path / "cut.npz", tmp_path / "there") is None


def test_the_check_tells_a_device_that_computes_otherwise(gpu_table, archive, monkeypatch, capsys):
    gpu_table.check(gpu_table.CPU)
    assert "at most 0 apart" in capsys.readouterr().out
    right = gpu_table.step_losses(gpu_table.CPU)
    assert right[1] < right[0]
    with monkeypatch.context() as broken:
        broken.setattr(torch.optim.SGD, "step", lambda optimizer: None)
        unmoved = gpu_table.step_losses(gpu_table.CPU)
    for wrong in (unmoved, (right[0], float("nan")), (right[0] * 1.002, right[1])):
        found = iter([wrong, right])
        monkeypatch.setattr(gpu_table, "step_losses", lambda device, found=found: next(found))
        with pytest.raises(LongtailError, match="Nothing was trained"):
            gpu_table.check(gpu_table.CPU)


def test_rows_without_a_record_train_in_their_order_and_are_recorded(
    gpu_table, archive, tmp_path, monkeypatch, capsys
):
    (tmp_path / "t.yaml").write_text(TABLE)
    table, out = str(tmp_path / "t.yaml"), tmp_path / "out"
    wanted = (Wanted(table, ("balanced",), 1), Wanted(table, ("plain", "other"), 1))
    monkeypatch.setattr(gpu_table, "WANTED", wanted)
    gpu_table.pack(tmp_path / "cut.npz")
    command = [
        "--data", str(tmp_path / "cut.npz"), "--out", str(out), "--device", "cpu", "--minutes", "9",
        "--parallel", "1", "--runs", str(tmp_path / "runs"), "--results", str(out),
    ]  # fmt: skip

    def titles(rows):
        return [job.title for job in gpu_table.queue(out, tmp_path / "runs", rows).values()]

    # not the row of another cut, whose images are black
    assert titles(wanted) == ["balanced, seed 0", "plain, seed 0"]
    more = tuple(replace(each, seeds=2) for each in wanted)
    assert titles(more) == [*titles(wanted), "balanced, seed 1", "plain, seed 1"]
    monkeypatch.setattr(gpu_table, "LAST", {"last": ["-c", "print('here')"]})
    gpu_table.main(command)
    lines = [json.loads(line) for line in (out / "gpu-table.jsonl").read_text().splitlines()]
    found = [(line["recipe"].partition("/")[2], line["seed"]) for line in lines]
    assert found == [("balanced-softmax", 0), ("cross-entropy", 0)]
    assert all(line["best_on_test"] for line in lines)  # which this table's full rows have
    assert (out / "last.log").read_text() == "here\n"
    said = capsys.readouterr().out
    assert "rows: 2 runs have no record" in said
    assert "nothing is left to train" in said
    assert titles(wanted) == []
    assert titles(more) == ["balanced, seed 1", "plain, seed 1"]


def test_what_would_not_end_in_time_does_not_begin(gpu_table, tmp_path):
    config = resolve("cifar100-lt/cross-entropy")
    trains, waits = tmp_path / "trains", tmp_path / "waits"
    trains.mkdir()
    costs = {trains: (10.0, 200), waits: (30.0, 5)}

    def admits(seconds):
        budget = gpu_table.WholeRuns(time.monotonic() + seconds, costs=costs)
        return budget.admits(waits, config), waits in budget.left

    assert admits(9) == (True, False)  # nothing is measured yet
    for epoch, took in enumerate((99.0, 1.0, 1.0), start=1):
        line = {"stage": "joint", "loss": 1.0, "seconds": took, "epochs_done": epoch}
        RunFolder(trains).append_metrics(line)
    # without its first epoch, the other run takes a tenth of its cost: here, 5 times 3 s
    assert admits(14) == (False, True)
    assert admits(17) == (True, False)


def test_the_last_programs_share_the_time(gpu_table, tmp_path, monkeypatch, capsys):
    sleeps = ["-c", "import time; print('begun', flush=True); time.sleep(60)"]
    monkeypatch.setattr(gpu_table, "LAST", {"long": sleeps, "short": ["-c", "print('done')"]})
    gpu_table.last(time.monotonic() + 3, gpu_table.CPU, tmp_path)
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "long: stopped: its time is up, see long.log",
        "short: exit status 0, see short.log",
    ]
    assert [(tmp_path / f"{name}.log").read_text() for name in ("long", "short")] == [
        "begun\n",
        "done\n",
    ]


def test_the_last_programs_exist(gpu_table):
    said = " ".join(part for command in gpu_table.LAST.values() for part in command)
    for file in ("tests/engine/test_device.py", "benchmarks/speed/training.py"):
        assert file in said
        assert (gpu_table.ROOT / file).is_file()
    assert "_for_a_gpu(" in (gpu_table.ROOT / "tests/engine/test_device.py").read_text()
