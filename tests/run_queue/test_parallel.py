"""Parallel runs, and what happens when memory ends."""

import json
import multiprocessing
import threading
import time

import pytest
import torch

from longtail import api
from longtail.core import LongtailError
from longtail.engine.hardware import is_memory_full
from longtail.engine.run_folder import RunFolder
from longtail.engine.threads import Threads, cores
from longtail.recipes import resolve
from longtail.run_queue import parallel
from longtail.run_queue.parallel import Room, train_parallel, wants_company

GIGABYTE = 10**9
ONE = Threads(1)


@pytest.mark.slow
def test_parallel_seeds_are_the_seeds_one_after_another(longtail, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    line = ("train", "digits-lt/balanced-softmax", "epochs=1", "batch_size=64", "--device", "cpu",
            "--seeds", 2)  # fmt: skip
    status, out, err = longtail(*line, "--parallel", 2, "--out", "a", "--record", "r.jsonl")
    assert status == 0, err
    assert "a/seed-1: done" in out
    lines = [json.loads(text) for text in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert sorted(line["seed"] for line in lines) == [0, 1]  # as they end
    assert "--parallel" in lines[0]["command"]
    assert longtail(*line, "--out", "b")[0] == 0
    for seed in (0, 1):
        one, other = (api.Run.open(tmp_path / folder / f"seed-{seed}") for folder in "ab")
        assert one.scores("test")["checkpoint_sha256"] == other.scores("test")["checkpoint_sha256"]
        number = min(2, cores())
        assert [run.environment()["hardware"]["threads"] for run in (one, other)] == [number] * 2
    assert torch.get_num_threads() == 1  # of this process, as before
    # what goes wrong in a process is said in words, and the runs are not overwritten
    status, _, err = longtail(*line, "--parallel", 2, "--out", "a")
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
    with pytest.raises(LongtailError, match=r"process was killed, .* Train fewer runs in parallel"):
        list(train_parallel(configs, 2, resume=False, device="cpu", note=lambda text: None))


def test_on_busy_cores_runs_are_trained_together_only_on_request():
    assert [wants_company(wish, 3, "cpu", ONE) for wish in (None, 1, 2)] == [False, False, True]
    assert not wants_company(2, 1, "cpu", ONE)


@pytest.mark.parametrize(("threads", "together"), [(1, True), (4, True), (5, False), (8, False)])
def test_on_a_cpu_with_free_cores_for_a_second_run_they_are(monkeypatch, threads, together):
    monkeypatch.setattr(parallel, "free_cores", lambda: 8)
    assert wants_company(None, 3, "cpu", Threads(threads)) is together
    assert Room(None, "cpu", Threads(threads)).most == 8 // threads
    assert not wants_company(None, 1, "cpu", Threads(threads))


def test_a_run_begins_when_those_before_have_shown_what_they_take(tmp_path, monkeypatch):
    free = [16 * GIGABYTE]
    monkeypatch.setattr(parallel, "free_memory", lambda device: free[0])
    monkeypatch.setattr(parallel, "free_cores", lambda: 4)
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    old = RunFolder(one)  # is continued: its old line says nothing about memory
    old.path.mkdir()
    old.append_metrics({"epoch": 1})
    room = Room(None, "cpu", ONE)
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
    monkeypatch.setattr(parallel, "free_cores", lambda: 3)
    free[0] = 15 * GIGABYTE
    assert room.for_another([one, two, three])
    assert not Room(None, "cpu", ONE).for_another([one, two, three])  # a core for each


def test_a_device_that_does_not_tell_its_memory_trains_one_run_after_another(tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "free_memory", lambda device: None)
    monkeypatch.setattr(parallel, "free_cores", lambda: 8)
    room = Room(None, "cpu", ONE)
    room.enter(tmp_path)
    RunFolder(tmp_path).append_metrics({"epoch": 1})
    assert room.for_another([])
    assert not room.for_another([tmp_path])


@pytest.mark.slow
def test_runs_are_admitted_by_memory_while_others_train(tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "free_memory", lambda device: 16 * GIGABYTE)
    monkeypatch.setattr(parallel, "free_cores", lambda: 2)
    monkeypatch.setattr(parallel, "SECONDS_BETWEEN_LOOKS", 0.05)
    configs = {
        tmp_path / f"seed-{seed}": resolve("digits-lt/balanced-softmax", [f"epochs={n}", f"seed={seed}"])
        for seed, n in ((0, 60), (1, 1))
    }  # fmt: skip
    done = train_parallel(configs, None, resume=False, device="cpu", note=lambda text: None)
    # the second run waited for an epoch of the first one, and not for its end
    assert [run.config.training.seed for run in done] == [1, 0]


@pytest.mark.slow
def test_no_memory_left_is_told_in_words(longtail, image_folder, tmp_path):
    """An image of ten million pixels each way is more than any machine can address."""
    wish = ["image_size=10000000", "epochs=1", "batch_size=8", "backbone=resnet20"]
    huge = ["train", image_folder, *wish, "--device", "cpu"]
    status, _, err = longtail(*huge, "--out", "run")
    assert status == 1, err
    assert "error: Out of memory. Use a smaller batch_size" in err
    status, _, err = longtail(*huge, "--out", "runs", "--seeds", "2", "--parallel", "2")
    assert status == 2
    assert err.count("Out of memory") == 2
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 45)
    assert is_memory_full(caught.value)
    assert not is_memory_full(RuntimeError("shapes differ"))
