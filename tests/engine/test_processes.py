"""Processes end together, in words, with the right status, wherever a signal or a wrong environment hits."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from longtail.core import distributed
from longtail.core.words import folder_name

IMPORTING = """
import os, signal, sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
sys.argv = ["longtail", "report", "."]
from longtail.__main__ import main
main()
"""


def test_ctrl_c_while_pytorch_is_imported_ends_quietly():
    done = subprocess.run(
        [sys.executable, "-c", IMPORTING], capture_output=True, text=True, check=False
    )
    assert done.returncode == 130
    assert (done.stdout, done.stderr) == ("", "interrupted before anything began\n")


def test_a_misspelt_value_is_told_before_pytorch_is_imported():
    words = ["longtail", "evaluate", "no-run", "--split", "tets"]
    done = subprocess.run(
        [sys.executable, "-c", IMPORTING.replace('["longtail", "report", "."]', repr(words))],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "error: --split must be one of train, val, test, but got 'tets'.\n"


@pytest.mark.slow
def test_the_package_gives_its_names_without_importing_pytorch_first():
    program = (
        "import sys, longtail; assert 'torch' not in sys.modules; assert callable(longtail.train); "
        "assert 'torch' in sys.modules; assert sorted(longtail.__all__) == dir(longtail)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    import longtail

    with pytest.raises(AttributeError, match="has no attribute 'no_such_name'"):
        _ = longtail.no_such_name


def workers_of(pid):
    """Return the processes below `pid` that train."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
            spawned = b"spawn_main" in (status.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if spawned and int(fields[1]) == pid:
            found.append(int(status.parent.name))
    return found


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_the_process_that_started_them(tmp_path, sent):
    line = ["train", "digits-lt/cross-entropy", "epochs=100000", "batch_size=300", "--device", "cpu",
            "--seeds", "2", "--parallel", "2", "--out", "runs"]  # fmt: skip
    # with files: a pipe would be held open by what is left behind
    with (tmp_path / "out").open("wb") as out:
        parent = subprocess.Popen(
            [sys.executable, "-m", "longtail", *line], cwd=tmp_path, stdout=out, stderr=out,
            # what a shell starts in the background ignores Ctrl-C, and so would its children
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
    try:
        wait_for(
            lambda: all((tmp_path / f"runs/seed-{seed}/metrics.jsonl").exists() for seed in (0, 1))
        )
        workers = workers_of(parent.pid)
        assert len(workers) == 2
        parent.send_signal(sent)
        status = parent.wait(60)
        wait_for(lambda: not any(map(alive, workers)), 30)
    finally:
        parent.kill()
    assert status == (130 if sent == signal.SIGINT else -sent)
    said = (tmp_path / "out").read_text()
    assert "Traceback" not in said
    assert ("continue the run with: longtail train --resume" in said) == (sent == signal.SIGINT)


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"WORLD_SIZE": "abc"}, "WORLD_SIZE=abc is not a whole number"),
        (
            {"WORLD_SIZE": "2"},
            "RANK, MASTER_ADDR, MASTER_PORT. Start several processes with: longtail",
        ),
        ({"WORLD_SIZE": "2", "RANK": "x"}, "but not MASTER_ADDR, MASTER_PORT"),
        (
            {"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"},
            "are not valid together",
        ),
        (
            {"WORLD_SIZE": "2", "RANK": "1.5", "MASTER_ADDR": "a", "MASTER_PORT": "1"},
            "RANK=1.5 is not a whole",
        ),
        (
            {"WORLD_SIZE": "-1", "RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "1"},
            "are not valid together",
        ),
        (
            {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "99999"},
            "are not valid together",
        ),
    ],
)
def test_a_wrong_description_of_processes_is_told(longtail, monkeypatch, environment, words):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    status, _, err = longtail("train", "digits-lt/cross-entropy", "--device", "cpu", "--out", "run")
    assert status == 2
    assert words in err
    assert not Path("run").exists()


def test_processes_that_do_not_find_each_other_are_told(longtail, monkeypatch):
    for name, value in {
        "WORLD_SIZE": "2",
        "RANK": "1",
        "MASTER_ADDR": "here",
        "MASTER_PORT": "9",
    }.items():
        monkeypatch.setenv(name, value)

    def refuse(backend):
        raise distributed.dist.DistNetworkError("The client socket has timed out\nmore")

    monkeypatch.setattr(distributed.dist, "init_process_group", refuse)
    status, _, err = longtail("train", "digits-lt/cross-entropy", "--device", "cpu", "--out", "run")
    assert status == 1
    assert (
        "The 2 processes could not connect at here:9 (The client socket has timed out). Start"
        in err
    )


def test_one_process_needs_no_description(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    distributed.start(distributed.torch.device("cpu"))
    assert not distributed.active()


def test_the_end_of_another_process_is_known_by_its_error(monkeypatch):
    error = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1")
    assert not distributed.is_lost(error)  # there is no group
    monkeypatch.setattr(distributed, "active", lambda: True)
    assert distributed.is_lost(error)
    assert not distributed.is_lost(RuntimeError("shapes differ"))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("../../../../x", "x"), ("recipe-../../../../x", "recipe-..-..-..-..-x"), ("a/b", "a-b"),
        ("..", "run"), ("", "run"), (".hidden", "hidden"), ("a\0b\nc", "a-b-c"), ("x" * 300, "x" * 60),
        ("Käfer", "Käfer"),
        ("milestones-[0.5,0.9]", "milestones-[0.5,0.9]"), ("C:\\x", "C-x"), ("-rf", "rf"), ("~", "run"),
        ("cifar100-lt/crt", "cifar100-lt-crt"), ("a\u0308", "ä"), ("\ud800", "run"),
    ],
)  # fmt: skip
def test_any_text_becomes_the_name_of_one_folder(tmp_path, text, name):
    assert folder_name(text) == name
    (tmp_path / name).mkdir()
    assert [path.parent for path in tmp_path.iterdir()] == [tmp_path]


def test_values_of_each_stay_inside_the_run_folder_and_apart(longtail, tmp_path):
    (tmp_path / "deep/er").mkdir(parents=True)
    status, _, err = longtail(
        "train", "digits-lt/cross-entropy", "epochs=1", "backbone=resnet20", "--device", "cpu",
        "--each", "recipe=../../x,..?..?x,b", "--out", "deep/er/out",
    )  # fmt: skip
    assert status == 0, err
    runs = sorted(path.name for path in (tmp_path / "deep/er/out").iterdir() if path.is_dir())
    assert runs == ["recipe-..-..-x", "recipe-..-..-x-2", "recipe-b"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep"]


@pytest.mark.parametrize(
    "line",
    [
        ("train", "digits-lt/cross-entropy", "epochs=1", "--out", "1" * 300),
        ("evaluate", "r" * 300),
        ("predict", "r" * 300, "a.png"),
    ],
)
def test_a_name_that_no_system_takes_is_told_in_words(line, longtail):
    status, _, errors = longtail(*line)
    assert status in (1, 2)
    assert "too long" in errors
    assert "Traceback" not in errors
