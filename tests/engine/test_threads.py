"""Threads belong to a run: chosen by what is free when it begins, kept when it is continued."""

import json

import pytest
import torch

from longtail import api
from longtail.engine import checkpoint as ckpt
from longtail.engine import threads
from longtail.engine.hardware import free_memory
from longtail.engine.threads import (
    Threads,
    choose_threads,
    computing_with,
    free_cores,
    kept_threads,
)


def machine(monkeypatch, *, own, count, running, wish=None, torch_takes=None):
    monkeypatch.setattr(threads, "cores", lambda: own)
    monkeypatch.setattr(threads.os, "cpu_count", lambda: count)
    monkeypatch.setattr(threads, "running", lambda: running)
    monkeypatch.setattr(torch, "get_num_threads", lambda: torch_takes or own)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if wish is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", wish)


@pytest.mark.parametrize(
    ("own", "count", "running", "runs", "number", "said"),
    [
        (2, 2, 1, 1, 2, False),  # idle: this process alone runs
        (2, 2, 2, 1, 1, True),  # one other program on two cores
        (2, 2, 9, 1, 1, True),
        (2, 2, 0, 1, 2, False),  # the system does not say
        (2, 2, 1, 2, 1, False),  # two runs of one thread
        (2, 2, 1, 5, 1, False),
        (2, 2, 2, 2, 1, False),  # one thread it would have been anyway
        (16, 16, 5, 3, 4, True),
        (8, 64, 41, 1, 8, False),  # a container of 8 cores; 24 of the host's 64 are idle
        (8, 64, 62, 1, 3, True),
    ],
)
def test_threads_are_chosen_by_what_is_free(monkeypatch, own, count, running, runs, number, said):
    machine(monkeypatch, own=own, count=count, running=running)
    chosen = choose_threads(runs)
    assert chosen.number == number
    assert ("busy with other programs" in chosen.note) is said


@pytest.mark.parametrize(
    ("wish", "number"), [("1", 1), ("3", 3), ("4", 4), ("2,1", 2), ("x", 1), ("0", 1), ("", 1)]
)
def test_a_wish_is_taken_as_it_is_and_nonsense_is_none(monkeypatch, wish, number):
    machine(monkeypatch, own=4, count=4, running=4, wish=wish)
    assert choose_threads(2).number == number


def test_a_wish_for_more_threads_than_cores_is_cut_to_the_cores_and_said(monkeypatch):
    machine(monkeypatch, own=2, count=8, running=1, wish="64")
    chosen = choose_threads()
    assert chosen.number == 2
    assert chosen.note.startswith("OMP_NUM_THREADS=64 is more than the 2 cores")
    # what was begun with more threads than there are now goes on with them
    assert kept_threads(8).number == 8


def test_what_a_program_set_itself_is_not_exceeded(monkeypatch):
    machine(monkeypatch, own=8, count=8, running=1, torch_takes=2)
    assert choose_threads().number == 2


def test_a_continued_run_keeps_its_threads_and_says_so_where_others_would_be_taken(monkeypatch):
    machine(monkeypatch, own=4, count=4, running=1)
    assert kept_threads(2) == Threads(2)
    assert "continues with 8 threads, as it started: a different" in kept_threads(8).note
    machine(monkeypatch, own=4, count=4, running=1, wish="1")
    assert (
        "continues with 2 threads, as it started, and not with OMP_NUM_THREADS=1"
        in kept_threads(2).note
    )


def test_the_quota_of_a_container_counts(monkeypatch, tmp_path):
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    for text, number in (
        ("max 100000\n", 16),
        ("250000 100000\n", 2),
        ("50000 100000\n", 1),
        ("?", 16),
    ):
        (tmp_path / "cpu.max").write_text(text)
        monkeypatch.setattr(threads, "QUOTA", tmp_path / "cpu.max")
        assert threads.cores() == number


def test_the_machine_is_read(monkeypatch):
    monkeypatch.undo()
    assert 1 <= free_cores() <= threads.cores()
    assert (free_memory(torch.device("cpu")) or 1) > 0
    assert free_memory(torch.device("meta")) is None
    before = torch.get_num_threads()
    with computing_with(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


@pytest.mark.slow
def test_a_run_is_continued_with_its_threads_bit_for_bit(longtail, tmp_path, monkeypatch):
    line = ("train", "digits-lt/balanced-softmax", "batch_size=64", "backbone=resnet20", "epochs=2", "seed=3",
            "--device", "cpu")  # fmt: skip
    monkeypatch.setattr(threads, "cores", lambda: 2)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert longtail(*line, "--out", "whole")[0] == 0
    assert longtail(*line, "--out", "part")[0] == 0
    part, whole = (api.Run.open(tmp_path / name) for name in ("part", "whole"))
    ckpt.remove_checkpoint(part.folder.checkpoints / "stage-0-end")
    assert ckpt.read_metadata(ckpt.newest(part.folder.checkpoints)).threads == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    status, _, err = longtail(*line, "--out", "part", "--resume")
    assert status == 0, err
    assert "continues with 2 threads, as it started, and not with OMP_NUM_THREADS=1" in err
    sums = [run.scores("test")["checkpoint_sha256"] for run in (part, whole)]
    assert sums[0] == sums[1]
    metadata = json.loads((part.folder.checkpoints / "stage-0-end/checkpoint.json").read_text())
    assert metadata["threads"] == 2
