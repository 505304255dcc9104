"""Every benchmark still finds what it measures: none of them is run by the other tests."""

import ast
import importlib
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


def test_no_two_share_a_name():
    assert len({file.stem for file in FILES}) == len(FILES)
