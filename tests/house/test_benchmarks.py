"""Every benchmark still finds what it measures: none of them is run by the other tests."""

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
FILES = sorted(FOLDER.rglob("*.py"))
PARTS = {"of_runs", "plain_loop", "do_router"}  # of other benchmarks; nothing runs them


def named(file):
    return str(file.relative_to(FOLDER))


@pytest.mark.parametrize("file", FILES, ids=named)
def test_it_can_be_imported(file, monkeypatch):
    monkeypatch.syspath_prepend(str(file.parent))
    assert importlib.import_module(file.stem).__doc__


@pytest.mark.parametrize("file", [f for f in FILES if f.stem not in PARTS], ids=named)
def test_it_begins_with_its_command_its_time_and_what_it_writes(file):
    said = ast.get_docstring(ast.parse(file.read_text()))
    assert f"python benchmarks/{named(file)}" in said
    assert "Time: " in said
    assert "results/" in said


@pytest.mark.slow
def test_the_one_for_two_gpus_runs_through_on_a_cpu(tmp_path):
    """Nobody here has two GPUs: what is for them must not fail by itself."""
    command = [sys.executable, FOLDER / "speed" / "two_gpus.py", "--device", "cpu"]
    done = subprocess.run(
        [*command, "--record", tmp_path / "r.jsonl"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    line = json.loads((tmp_path / "r.jsonl").read_text())
    assert line["problems"] == []
    assert [process["device"] for process in line["processes"]] == ["cpu", "cpu"]


def test_no_two_share_a_name():
    assert len({file.stem for file in FILES}) == len(FILES)


def test_the_search_for_strong_recipes_keeps_what_is_better(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER / "accuracy"))
    strong = importlib.import_module("strong")
    asked = []

    def accuracy(setting):
        asked.append(setting)
        worth = {
            "autoaugment-cutout": 3,
            "2.0e-4": -1,
            "1.0e-3": 1,
            "5.0e-3": 1,
            "sam": 2,
            "step": -2,
        }
        return sum(worth.get(value, 0) for value in setting.values())

    best, highest = strong.search(accuracy)
    assert (list(best.values()), highest) == (["autoaugment-cutout", "1.0e-3", "sam", "cosine"], 6)
    assert len(asked) == 7
