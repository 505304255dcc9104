"""A run that is killed twenty times ends with the weights of one that was never disturbed."""

import multiprocessing
import os
import random
import signal
import time

import pytest
import torch

from longtail import api
from longtail.engine import checkpoint as ckpt
from tests import tiny

KILLS = 20
SOURCE = "digits-lt/balanced-softmax"
# far more epochs than twenty kills let pass, on a fast machine too
EPOCHS = 150
OVERRIDES = [f"epochs={EPOCHS}", "mixing=mixup", "ema=0.95", "largest=40"]


def train(folder):
    torch.set_num_threads(1)
    api.train(SOURCE, OVERRIDES, out=folder, resume=True)


def final_weights(folder):
    return ckpt.read_weights(ckpt.finished(folder / "checkpoints"))


@pytest.fixture(scope="module")
def server():
    # starting from a process that has imported everything makes a kill cost little
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["longtail.api", "timm", "tests.engine.test_interruption"])
    return context


@pytest.mark.slow
def test_killed_twenty_times(server, tmp_path):
    chance = random.Random(0)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    api.train(SOURCE, OVERRIDES, out=whole)
    writing = 0
    for kill in range(KILLS):
        process = server.Process(target=train, args=(broken,))
        process.start()
        seen = wait_until_it_trains(process, broken)
        if kill % 2:
            writing += wait_for_a_checkpoint_being_written(process, broken)
        else:
            time.sleep(chance.uniform(0, 0.1))
        assert process.exitcode is None, f"the run ended before kill {kill + 1}, at {seen} epochs"
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    assert writing >= KILLS // 4, "too few kills hit a checkpoint while it was written"
    process = server.Process(target=train, args=(broken,))
    process.start()
    process.join()
    assert process.exitcode == 0
    one, other = final_weights(whole), final_weights(broken)
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name
    runs = [api.Run.open(folder) for folder in (whole, broken)]
    losses = [[line["loss"] for line in run.folder.read_metrics()] for run in runs]
    assert losses[0] == losses[1]
    scores = [run.scores("test") for run in runs]
    assert scores[0] == scores[1]
    left = [p.name for p in (broken / "checkpoints").iterdir()]
    assert sorted(left) == [
        "stage-0-end", f"stage-0-epoch-{EPOCHS - 2:04d}", f"stage-0-epoch-{EPOCHS - 1:04d}",
    ]  # fmt: skip


def epochs_written(folder):
    file = folder / "metrics.jsonl"
    return file.read_text().count("\n") if file.exists() else 0


def wait_until_it_trains(process, folder):
    """Return when the process has added an epoch (or has begun, for the first one)."""
    before, deadline = epochs_written(folder), time.monotonic() + 60
    while process.exitcode is None and time.monotonic() < deadline:
        # a resume first shortens the file to what the checkpoint knows
        if epochs_written(folder) != before or not before:
            break
        time.sleep(0.002)
    return before


def wait_for_a_checkpoint_being_written(process, folder):
    deadline = time.monotonic() + 20
    while process.exitcode is None and time.monotonic() < deadline:
        if any((folder / "checkpoints").glob(".*.tmp")):
            return True
    return False


def test_a_finished_run_is_not_trained_again(tmp_path):
    train_quietly = ["epochs=2"]
    run = api.train(SOURCE, train_quietly, out=tmp_path)
    before = run.folder.metrics.read_bytes()
    api.train(SOURCE, train_quietly, out=tmp_path, resume=True)
    assert run.folder.metrics.read_bytes() == before


def test_a_checkpoint_that_is_there_is_replaced(tmp_path):
    # as by a run that was killed after its best epoch was written and before the epoch was
    method = tiny.build("single-head")
    made = tiny.trainer(method, tmp_path)
    folder = made.folder.checkpoints
    for value in (1.0, 2.0):
        weights = {"weight": torch.full((2,), value)}
        ckpt.save_checkpoint(folder, ckpt.best_name(1), made.metadata, weights, {})
        found = ckpt.read_weights(folder / ckpt.best_name(1))
        assert torch.equal(found["weight"], weights["weight"])
    assert [path.name for path in folder.iterdir()] == [ckpt.best_name(1)]
