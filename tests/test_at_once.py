"""Several runs at once, and what happens when memory ends."""

import json
import multiprocessing
import threading
import time

import pytest
import torch

from longtail import api
from longtail.cli import at_once
from longtail.cli.at_once import Room, train_at_once, wants_company
from longtail.core import LongtailError
from longtail.engine.hardware import is_memory_full
from longtail.engine.run_folder import RunFolder
from longtail.recipes import resolve

GIGABYTE = 10**9


def test_seeds_at_once_are_the_seeds_one_after_another(longtail, tmp_path):
    line = ("train", "digits-lt/balanced-softmax", "epochs=1", "batch_size=64", "--device", "cpu",
            "--seeds", 2)  # fmt: skip
    status, out, err = longtail(*line, "--at-once", 2, "--out", "a", "--record", "r.jsonl")
    assert status == 0, err
    assert "a/seed-1: done" in out
    lines = [json.loads(text) for text in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert sorted(line["seed"] for line in lines) == [0, 1]  # as they end
    assert "--at-once" in lines[0]["command"]
    assert longtail(*line, "--out", "b")[0] == 0
    for seed in (0, 1):
        one, other = (api.Run.open(tmp_path / folder / f"seed-{seed}") for folder in "ab")
        losses = [run.folder.read_metrics()[0]["loss"] for run in (one, other)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-3)  # thread counts may differ
    # what goes wrong in a process is said in words, and the runs are not overwritten
    status, _, err = longtail(*line, "--at-once", 2, "--out", "a")
    assert status == 2
    assert "seed-0" in err


def test_a_process_that_the_system_kills_is_explained(tmp_path):
    def kill():
        while not (children := multiprocessing.active_children()):
            time.sleep(0.05)
        for child in children:
            child.kill()

    threading.Thread(target=kill, daemon=True).start()
    configs = {tmp_path / "run": resolve("digits-lt/balanced-softmax", ["epochs=1000"])}
    with pytest.raises(LongtailError, match=r"process was killed, .* Train fewer runs at once"):
        list(train_at_once(configs, 2, resume=False, device="cpu", note=lambda text: None))


def test_on_a_cpu_runs_are_trained_together_only_on_request():
    assert [wants_company(wish, 3, "cpu") for wish in (None, 1, 2)] == [False, False, True]
    assert not wants_company(2, 1, "cpu")


def test_a_run_begins_when_those_before_have_shown_what_they_take(tmp_path, monkeypatch):
    free = [16 * GIGABYTE]
    monkeypatch.setattr(at_once, "free_memory", lambda device: free[0])
    monkeypatch.setattr(at_once.os, "cpu_count", lambda: 8)
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    old = RunFolder(one)  # is continued: its old line says nothing about memory
    old.path.mkdir()
    old.append_metrics({"epoch": 1})
    room = Room(None, "cpu")
    assert room.most == 4
    assert room.for_another([])
    room.enter(one)
    assert not room.for_another([one])
    old.append_metrics({"epoch": 2})
    free[0] = 12 * GIGABYTE  # 4 taken, and 1.5 times 4 are free
    assert room.for_another([one])
    room.enter(two)
    assert not room.for_another([one, two])
    RunFolder(two).path.mkdir()
    RunFolder(two).append_metrics({"epoch": 1})
    free[0] = 5 * GIGABYTE  # 11 taken by two, 8.25 wanted
    assert not room.for_another([one, two])
    free[0] = 7 * GIGABYTE  # 9 taken by two, 6.75 wanted
    assert room.for_another([one, two])
    room.enter(three)
    RunFolder(three).path.mkdir()
    RunFolder(three).append_metrics({"epoch": 1})
    monkeypatch.setattr(at_once.os, "cpu_count", lambda: 6)
    free[0] = 15 * GIGABYTE
    assert room.for_another([one, two, three])
    assert not Room(None, "cpu").for_another([one, two, three])  # two cores for each


def test_a_device_that_does_not_tell_its_memory_trains_one_run_after_another(tmp_path):
    room = Room(None, "cpu")
    room.enter(tmp_path)
    RunFolder(tmp_path).append_metrics({"epoch": 1})
    assert room.for_another([])
    assert not room.for_another([tmp_path])


def test_runs_are_admitted_by_memory_while_others_train(tmp_path, monkeypatch):
    monkeypatch.setattr(at_once, "free_memory", lambda device: 16 * GIGABYTE)
    monkeypatch.setattr(at_once.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(at_once, "SECONDS_BETWEEN_LOOKS", 0.05)
    configs = {
        tmp_path / f"seed-{seed}": resolve("digits-lt/balanced-softmax", [f"epochs={n}", f"seed={seed}"])
        for seed, n in ((0, 60), (1, 1))
    }  # fmt: skip
    done = train_at_once(configs, None, resume=False, device="cpu", note=lambda text: None)
    # the second run waited for an epoch of the first one, and not for its end
    assert [run.config.training.seed for run in done] == [1, 0]


def test_no_memory_left_is_told_in_words(longtail, picture_folder, tmp_path):
    """A picture of ten million pixels each way is more than any machine can address."""
    wish = ["image_size=10000000", "epochs=1", "batch_size=8", "backbone=resnet20"]
    huge = ["train", picture_folder, *wish, "--device", "cpu"]
    status, _, err = longtail(*huge, "--out", "run")
    assert status == 1, err
    assert "error: The memory is full. Use a smaller batch_size" in err
    status, _, err = longtail(*huge, "--out", "runs", "--seeds", "2", "--at-once", "2")
    assert status == 2
    assert err.count("The memory is full") == 2
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 45)
    assert is_memory_full(caught.value)
    assert not is_memory_full(RuntimeError("shapes differ"))
