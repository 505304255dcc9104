"""The fuzz harness finds what it is for, and draws the same inputs from the same seed."""

import os
import random
import time
import warnings

import pytest

from longtail.core.errors import DataError
from tests.fuzz import harness, mutate
from tests.fuzz.harness import Outcome, longtail, run_fuzz

TREE = {"a": [1, {"b": "text"}], "c": None}
TABLE = [["path", "label"], ["a.png", "fox"], ["b.png", "lynx"]]


@pytest.fixture(autouse=True)
def _no_hand(monkeypatch):
    for name in ("LONGTAIL_FUZZ", "LONGTAIL_FUZZ_ONLY"):
        monkeypatch.delenv(name, raising=False)


def fuzz(tmp_path, act, **more):
    return run_fuzz("it", lambda rng, folder: rng.randrange(10), act, tmp_path, inputs=20, **more)


def draw(seed):
    rng = random.Random(seed)
    data = mutate.mutate_bytes(rng, b"epochs: 40\nloss: ldam\n" * 3, (b"other: 1",))
    return (
        data,
        repr(mutate.mutate_tree(rng, TREE)),
        mutate.csv_bytes(rng, mutate.mutate_table(rng, TABLE)),
    )


def test_the_same_seed_draws_the_same_damage_and_the_original_stays():
    drawn = [draw(seed) for seed in range(300)]
    assert drawn == [draw(seed) for seed in range(300)]
    assert len({data for data, _, _ in drawn}) > 250
    assert TREE == {"a": [1, {"b": "text"}], "c": None}
    assert TABLE == [["path", "label"], ["a.png", "fox"], ["b.png", "lynx"]]


def test_what_ends_well_is_counted(tmp_path):
    def act(given, folder):
        if given % 2:
            raise DataError("It is odd.")

    report = fuzz(tmp_path, act)
    report.require()
    assert (report.done, report.accepted + report.refused) == (20, 20)
    assert min(report.accepted, report.refused) > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("act", "cause"),
    [
        (lambda given, folder: 1 / (given - given), "ZeroDivisionError at test_harness.py"),
        (
            lambda given, folder: warnings.warn("odd", UserWarning, stacklevel=1),
            "a warning reaches the user",
        ),
        (lambda given, folder: Outcome(1, "", "Aborted!\n"), "says nothing"),
        (lambda given, folder: Outcome(2, "", "error: \x1b[31m"), "control characters"),
        (lambda given, folder: Outcome(2, "", "error: " + "a" * 20_000), "longer than"),
        (lambda given, folder: Outcome(134, "", "Aborted"), "exit status 134"),
        (lambda given, folder: Outcome(1, "", "Traceback (most recent call last):"), "a traceback"),
        (lambda given, folder: bytearray(8 * 1024**3), "MemoryError"),
    ],
)
def test_what_ends_badly_fails_with_its_cause_and_the_number_of_the_first_input(
    tmp_path, act, cause
):
    report = fuzz(tmp_path, act)
    assert list(report.failures.values()) == [list(range(20))]
    with pytest.raises(AssertionError, match="LONGTAIL_FUZZ_ONLY=0"):
        report.require()
    assert cause in str(report)


def test_a_hang_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "HANG_SECONDS", 0.05)
    os.mkfifo(tmp_path / "pipe")

    def act(given, folder):
        try:
            (tmp_path / "pipe").open() if given % 2 else time.sleep(60)
        except Exception:
            pytest.fail("swallowed")

    report = fuzz(tmp_path, act)
    assert sum(map(len, report.failures.values())) == report.done
    assert "Hang at" in str(report)


@pytest.mark.slow
def test_status_0_is_judged_by_the_check(tmp_path):
    def check(given, outcome, folder):
        return None if "longtail 0" in outcome.out else "no version"

    report = fuzz(tmp_path, lambda given, folder: longtail("--version"), check=check)
    assert (report.accepted, report.refused) == (20, 0)
    report = fuzz(tmp_path, lambda given, folder: longtail("recipes", "digits"), check=check)
    assert list(report.failures) == ["no version"]


def test_the_command_line_ends_as_in_a_shell():
    assert longtail("methods", "no-such-method").status == 2
    assert "There is no method 'no-such-method'" in longtail("methods", "no-such-method").err


def test_the_budget_of_time_ends_it_without_a_failure(tmp_path):
    report = fuzz(tmp_path, lambda given, folder: time.sleep(0.02), seconds=0.05)
    assert 0 < report.done < 20
    report.require()


def test_one_input_is_tried_again_by_its_number(tmp_path, monkeypatch):
    seen = []
    fuzz(tmp_path, lambda given, folder: seen.append(given))
    monkeypatch.setenv("LONGTAIL_FUZZ_ONLY", "7")
    fuzz(tmp_path, lambda given, folder: seen.append(given))
    assert seen[-1] == seen[7]
    assert len(seen) == 21
