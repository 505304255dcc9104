"""One run on several machines: `torchrun --nnodes`, and the folder that all of them must see."""

import json
import os
import socket
import subprocess
import sys

import pytest

from longtail import api
from longtail.core import distributed
from longtail.core.errors import ConfigError
from longtail.engine.run_folder import RunFolder
from longtail.runs import run_folders

TRAIN = [
    "digits-lt/cross-entropy",
    "epochs=1",
    "batch_size=170",  # two steps: more would add up rounding
    "learning_rate=0.01",
    "precision=fp32",
    "joint_norm=true",
]


@pytest.fixture
def second_of_two(monkeypatch):
    """Let this be process 1; process 0 sees a run that is `main`."""
    monkeypatch.setattr(distributed, "active", lambda: True)
    monkeypatch.setattr(distributed, "broadcast", lambda own: b"main")
    monkeypatch.setattr(distributed, "gather", lambda own: [True, own])


def test_a_folder_that_only_the_first_machine_sees_is_refused(second_of_two, monkeypatch, tmp_path):
    monkeypatch.setattr(run_folders, "SECONDS_TO_APPEAR", 0.0)
    for content in (None, b"of an earlier run"):
        if content:
            (tmp_path / "run.json").write_bytes(content)
        with pytest.raises(ConfigError, match=r"Process 1 does not see .* on a shared file system"):
            run_folders.require_shared(RunFolder(tmp_path))


def test_a_file_that_a_shared_disk_shows_late_is_waited_for(second_of_two, monkeypatch, tmp_path):
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            (tmp_path / "run.json").write_bytes(b"main")

    monkeypatch.setattr(run_folders.time, "sleep", sleep)
    run_folders.require_shared(RunFolder(tmp_path))
    assert len(waits) == 3


def test_one_process_shares_with_nobody(tmp_path):
    os.mkfifo(tmp_path / "run.json")  # reading it would wait for ever
    run_folders.require_shared(RunFolder(tmp_path))


def node(number, port, folder):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", f"--node-rank={number}",
                "--nproc-per-node=1", "--master-addr=127.0.0.1", f"--master-port={port}"]  # fmt: skip
    command = [*launcher, "-m", "longtail", "train", *TRAIN, "--device", "cpu", "--out", "run"]
    return subprocess.Popen(
        command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def ended(nodes):
    try:
        return [process.communicate(timeout=1200) for process in nodes]
    finally:
        for process in nodes:
            process.kill()


@pytest.mark.slow
def test_two_nodes_train_one_run_in_a_folder_that_both_see(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = [node(number, port, tmp_path) for number in (0, 1)]
    said = ended(both)
    assert [process.returncode for process in both] == [0, 0], said
    assert json.loads((tmp_path / "run/environment.json").read_text())["processes"] == 2
    assert "run folder: " in said[0][0]
    assert said[1][0] == ""  # one process talks
    run = api.Run.open(tmp_path / "run")
    one = api.train(TRAIN[0], TRAIN[1:], out=tmp_path / "one", device="cpu")
    losses = [[line["loss"] for line in made.lines()] for made in (run, one)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert run.evaluated_splits() == ["test"]
