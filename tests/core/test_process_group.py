"""How processes find each other and their GPUs; no GPU is needed to see what is asked for."""

import os
import socket
import subprocess
import sys
import time

import pytest
import torch
import torch.distributed as dist

from longtail.cli import processes
from longtail.core import distributed
from longtail.core.errors import ConfigError
from longtail.engine.hardware import find_device

NAMES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "SLURM_STEP_NUM_TASKS",
         "SLURM_STEP_NUM_NODES", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_JOB_ID")  # fmt: skip


@pytest.fixture
def environment(monkeypatch):
    """Give an environment that describes nothing, and forget what a test writes into it."""
    for name in NAMES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return lambda **values: [monkeypatch.setenv(name, value) for name, value in values.items()]


@pytest.fixture
def asked(monkeypatch):
    """Note the calls of torch in place of making them."""
    calls = []
    monkeypatch.setattr(dist, "init_process_group", lambda *a, **k: calls.append(("group", *a)))
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: calls.append(("own", device)))
    return calls


def test_a_process_owns_its_gpu_before_the_group_begins_and_objects_travel_over_gloo(
    environment, asked
):
    environment(WORLD_SIZE="2", RANK="1", LOCAL_RANK="1", MASTER_ADDR="a", MASTER_PORT="2")
    gpu = torch.device("cuda", distributed.local_rank())
    distributed.start(gpu)
    assert asked == [("own", torch.device("cuda", 1)), ("group", "cpu:gloo,cuda:nccl")]


def test_processes_on_a_cpu_need_gloo_alone(environment, asked):
    environment(WORLD_SIZE="2", RANK="1", LOCAL_RANK="1", MASTER_ADDR="a", MASTER_PORT="2")
    distributed.start(torch.device("cpu"))
    assert asked == [("group", "gloo")]


@pytest.mark.parametrize("name", [None, "cuda"])
def test_cuda_is_the_gpu_of_this_process(environment, monkeypatch, name):
    environment(WORLD_SIZE="3", LOCAL_RANK="2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match=r"Process 2 .* no GPU of its own: there are 2"):
        find_device(name)
    environment(LOCAL_RANK="1")
    found = []
    monkeypatch.setattr(torch, "empty", lambda size, device: found.append(device))
    assert find_device(name) == torch.device("cuda", 1)
    assert found == [torch.device("cuda", 1)]


def test_copies_that_srun_starts_join_one_group(environment, asked):
    environment(
        SLURM_STEP_NUM_TASKS="4", SLURM_PROCID="3", SLURM_LOCALID="3", SLURM_JOB_ID="123456"
    )
    assert distributed.local_rank() == 3
    distributed.start(torch.device("cpu"))
    assert asked == [("group", "gloo")]
    written = {name: os.environ[name] for name in NAMES[:5]}
    assert written == {
        "WORLD_SIZE": "4",
        "RANK": "3",
        "LOCAL_RANK": "3",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "23456",
    }


def test_copies_on_several_machines_need_a_place_to_meet(environment, asked):
    environment(
        SLURM_STEP_NUM_TASKS="4", SLURM_STEP_NUM_NODES="2", SLURM_PROCID="3", MASTER_PORT="9"
    )
    with pytest.raises(ConfigError, match="cannot meet without MASTER_ADDR"):
        distributed.start(torch.device("cpu"))
    environment(MASTER_ADDR="node1")
    distributed.start(torch.device("cpu"))
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("node1", "9")
    assert asked == [("group", "gloo")]


def test_one_task_of_a_job_is_one_process(environment, asked):
    environment(SLURM_STEP_NUM_TASKS="1", SLURM_PROCID="0")
    distributed.start(torch.device("cpu"))
    assert asked == []


def test_processes_start_the_same_command_under_the_launcher(environment, monkeypatch):
    started = []
    monkeypatch.setattr(os, "execv", lambda program, arguments: started.append(arguments))
    arguments = ["longtail", "train", "my images", "--processes", "2", "epochs=3", "--out", "run"]
    monkeypatch.setattr(sys, "argv", arguments)
    processes.start_processes("2", "cpu")
    (command,) = started
    assert command[1:] == [
        "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "longtail", "train", "my images", "epochs=3", "--out", "run",
    ]  # fmt: skip
    environment(WORLD_SIZE="2")
    processes.start_processes("2", "cpu")  # one of the two
    assert len(started) == 1


@pytest.mark.parametrize("number", ["1", "auto"])
def test_one_process_is_this_one(environment, monkeypatch, number):
    monkeypatch.setattr(os, "execv", lambda *arguments: pytest.fail("nothing is started"))
    processes.start_processes(number, "cpu")


@pytest.mark.parametrize("number", ["0", "-1", "two", "1.5", ""])
def test_what_is_no_number_of_processes_is_refused(environment, number):
    with pytest.raises(ConfigError, match="wants a number from 1 on, or auto"):
        processes.start_processes(number, "cpu")


@pytest.mark.slow
def test_a_process_that_dies_ends_the_others_with_one_sentence(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "longtail", "train", "digits-lt/cross-entropy", "epochs=500",
               "--device", "cpu", "--out", str(tmp_path / "run")]  # fmt: skip
    meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    both = [
        subprocess.Popen(
            command, env=os.environ | meeting | {"RANK": rank}, cwd=tmp_path, text=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )
        for rank in ("0", "1")
    ]  # fmt: skip
    try:
        lines = tmp_path / "run" / "metrics.jsonl"
        until = time.monotonic() + 120
        while not lines.exists() and time.monotonic() < until:
            time.sleep(0.2)
        both[1].kill()
        _, said = both[0].communicate(timeout=60)
    finally:
        for process in both:
            process.kill()
            process.communicate()
    assert both[0].returncode == 1
    assert said.strip().splitlines()[-1] == f"error: {distributed.LOST}"
    assert "Traceback" not in said
