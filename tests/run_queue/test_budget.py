"""`longtail reproduce --budget`: runs stop at a checkpoint in time, and what is left is told."""

import json
import time

import pytest

from longtail import runs
from longtail.core.errors import ConfigError
from longtail.engine import checkpoint as ckpt
from longtail.engine import loop
from longtail.engine.run_folder import RunFolder
from longtail.recipes import resolve
from longtail.run_queue import budget as budgets
from longtail.run_queue.budget import Budget, seconds_of, stages_of, what_is_left
from longtail.run_queue.parallel import train_parallel

TABLE = """
title: digits
source: nobody
rows:
  - {name: plain, recipe: digits-lt/cross-entropy, overrides: ["training.batch_size=64"],
     short: ["training.epochs=4"]}
  - {name: crt, recipe: digits-lt/crt, overrides: ["training.batch_size=64", "method.classifier.epochs=3"],
     from: plain, short: ["training.epochs=4"]}
"""


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("150m", 9000),
        ("2h", 7200),
        ("1.5h", 5400),
        ("2h30m", 9000),
        (" 1H1m1s ", 3661),
    ],
)
def test_durations(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "150", "m", "-5m", "5x", "0s", "30m2h", "1e3s", "nan", "infs", "٣m", "9" * 400 + "h"],
)
def test_what_is_no_duration_is_told(text):
    said = "must be above 0" if text in ("0s", "0m") else "needs a time with a unit"
    with pytest.raises(ConfigError, match=said):
        seconds_of(text)


def test_a_mistake_is_told_before_anything_begins(longtail, tmp_path):
    status, _, err = longtail("reproduce", "do-table-1", "--budget", "150")
    assert status == 2
    assert "for example 90s, 150m or 2h30m, not '150'" in err
    assert not list(tmp_path.iterdir())


@pytest.fixture
def hours(monkeypatch):
    """Let every epoch take an hour."""

    class Clock:
        perf_counter = staticmethod(time.perf_counter)
        now = time.monotonic()

        def monotonic(self):
            return self.now

    clock, write = Clock(), RunFolder.append_metrics

    def append(folder, line):
        clock.now += 3600
        write(folder, line | {"seconds": 3600.0})

    monkeypatch.setattr(RunFolder, "append_metrics", append)
    monkeypatch.setattr(loop, "time", clock)
    monkeypatch.setattr(budgets, "time", clock)
    monkeypatch.setattr("longtail.cli.reproduce.time", clock)
    return clock


def test_a_queue_stops_in_time_and_goes_on_to_the_same_result(longtail, tmp_path, hours):
    (tmp_path / "t.yaml").write_text(TABLE)
    line = ("reproduce", "t.yaml", "--profile", "short", "--seeds", 1, "--device", "cpu")
    queue = (*line, "--out", "a", "--results", "a")
    plain = tmp_path / "a/t/short/plain/seed-0"
    # after two epochs of an hour half an hour is left: a third one would end too late
    status, out, err = longtail(*queue, "--budget", "150m")
    assert status == 0, err
    assert "plain/seed-0: stopped in time, after epoch 2" in out
    assert ckpt.newest(plain / "checkpoints").name == "stage-0-epoch-0002"
    assert not (tmp_path / "a/t/short/crt").exists()  # it waits for the first stage
    assert "Left: 2 rows (2 runs), 5 epochs." in out  # 2 of plain, 3 of crt
    assert (
        "this is about 2 hours of training, plus the time for scoring. 1 run has no measured" in out
    )
    assert "3 epochs are not in that time. Repeat the same command to continue." in out
    # no epoch of an hour begins in half an hour
    assert "Left: 2 rows (2 runs), 5 epochs." in longtail(*queue, "--budget", "30m")[1]
    assert ckpt.newest(plain / "checkpoints").name == "stage-0-epoch-0002"
    # the time ends with the first run: the next one, which no epoch is known of, does not begin
    status, out, _ = longtail(*queue, "--budget", "2h")
    assert (status, ckpt.read_metadata(ckpt.newest(plain / "checkpoints")).finished) == (0, True)
    assert "Left: 1 row (1 run), 3 epochs. 1 run has no measured epoch yet. Repeat the same" in out
    status, out, _ = longtail(*queue, "--budget", "1h30m")
    assert "crt/seed-0: stopped in time, after epoch 5" in out
    status, out, _ = longtail(*queue, "--budget", "9h")
    assert "The budget was sufficient: nothing is left to train." in out
    # bit for bit what was never stopped
    assert longtail(*line, "--out", "b", "--results", "b")[0] == 0
    texts = [(tmp_path / folder / "reproduce-t.jsonl").read_text() for folder in "ab"]
    sums = [
        [json.loads(record)["checkpoint_sha256"] for record in text.splitlines()] for text in texts
    ]
    assert len(sums[0]) == 2
    assert sums[0] == sums[1]


@pytest.mark.slow
def test_parallel_runs_stop_too_and_what_waits_for_them_is_left(tmp_path):
    first, second = tmp_path / "a/seed-0", tmp_path / "b/seed-0"
    configs = dict.fromkeys((first, second), resolve("digits-lt/cross-entropy", ["epochs=500"]))
    budget, said = Budget(time.monotonic() + 1.0), []  # a process needs longer to begin
    runs = train_parallel(
        configs, 2, after={second: first}, resume=True, device="cpu", budget=budget, note=said.append
    )  # fmt: skip
    assert list(runs) == []
    assert budget.left == {first, second}
    assert said == [f"{first}: stopped in time, after epoch 1"]
    assert ckpt.newest(first / "checkpoints").name == "stage-0-epoch-0001"
    assert not second.exists()


def test_what_is_left_counts_stages_and_takes_times_of_the_same_row(tmp_path):
    config = resolve("digits-lt/crt", ["epochs=10", "method.classifier.epochs=5"])
    assert [stage.epochs for stage in stages_of(config)] == [10, 5]
    shared = config.model_copy(update={"start": "x"})
    assert [stage.epochs for stage in stages_of(shared)] == [5]
    names = [stage.name for stage in stages_of(config)]
    other = tmp_path / "row/seed-0"
    other.mkdir(parents=True)
    lines = [{"stage": names[0], "epochs_done": n, "seconds": 100 + 200 * (n % 2), "loss": 1.0}
             for n in range(1, 11)]  # fmt: skip
    lines += [{"stage": names[1], "epochs_done": 11, "seconds": 24, "loss": 1.0}]
    (other / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    left = {tmp_path / f"row/seed-{seed}": config for seed in (1, 2)}
    # 2 (10 x 200 + 5 x 24) = 4240 seconds, of two in parallel 2120
    assert (
        "Left: 1 row (2 runs), 30 epochs. At the measured epoch times, this is about 71 minutes of"
        in (what_is_left(left, 1))
    )
    assert "about 35 minutes of training, 2 parallel runs, plus" in what_is_left(left, 2)
    assert "no measured epoch" not in what_is_left(left, 2)


def test_a_run_without_epochs_of_its_own_is_not_said_to_lack_a_measured_one(tmp_path):
    config = resolve("digits-lt/tau-normalisation", ["epochs=10"]).model_copy(update={"start": "x"})
    said = what_is_left({tmp_path / "tau/seed-0": config}, 1, "method")
    assert said == "Left: 1 method (1 run), 0 epochs. Repeat the same command to continue."


def test_a_deadline_that_is_over_leaves_one_checkpoint(tmp_path):
    line = ("digits-lt/cross-entropy", ["epochs=3", "batch_size=64"])
    with pytest.raises(loop.OutOfTimeError, match="after epoch 1"):
        runs.train(*line, out=tmp_path / "run", device="cpu", deadline=time.monotonic())
    assert ckpt.newest(tmp_path / "run/checkpoints").name == "stage-0-epoch-0001"
