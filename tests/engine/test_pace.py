"""How long it will take is said before the first epoch, and steps taken to know it are undone."""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch

from longtail.core import Position
from longtail.engine import trial
from longtail.engine.log import SilentLog
from longtail.engine.options import TrainingConfig
from longtail.engine.pace import Pace, told_at_times
from longtail.engine.step import StepFunction
from longtail.engine.streams import build_loaders
from longtail.prediction import predict_split
from tests import tiny

CPU = torch.device("cpu")


class Told(SilentLog):
    """Keeps what a training tells, in order."""

    def __init__(self):
        self.lines = []

    def note(self, text):
        self.lines.append(text)

    def stage(self, name, epochs, first, steps):
        self.lines.append(f"stage {name}")

    def epoch(self, line):
        self.lines.append(f"epoch {line['epoch']}")


def told_by(tmp_path, epochs, validate=None, watch=None):
    log = Told()
    made = tiny.trainer(
        tiny.build("single-head", epochs=epochs), tmp_path,
        tiny.OPTIONS.model_copy(update={"epochs": epochs}), log=log, validate=validate,
    )  # fmt: skip
    made.pace = Pace(log.note, "fewer epochs", tiny.OPTIONS.batch_size)
    made.watch = watch
    made.run()
    return log.lines


def test_the_time_is_told_before_the_first_epoch_of_a_long_training(tmp_path, monkeypatch):
    epochs = 4
    steps = epochs * (77 // tiny.OPTIONS.batch_size)  # all are still to come
    monkeypatch.setattr(trial, "WORTH_IT", steps)
    lines = told_by(tmp_path, epochs)
    (told,) = [number for number, line in enumerate(lines) if "to the end" in line]
    assert told < lines.index("stage joint") < lines.index("epoch 1")
    assert lines[told].startswith(f"{steps} steps of {tiny.OPTIONS.batch_size} images left")


def test_what_the_time_leaves_out_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(trial, "WORTH_IT", 1)

    def told(folder, **more):
        return next(line for line in told_by(tmp_path / folder, 4, **more) if "to the end" in line)

    def measure(model, features):
        return {"accuracy": 0.5, "macro_accuracy": 0.5}

    assert told("nothing").endswith("to the end.")
    val = told("val", validate=measure)
    assert val.endswith("to the end, plus scoring val after each epoch.")
    both = told("both", validate=measure, watch=measure)
    assert "plus scoring val and test after each epoch" in both


def test_a_short_training_takes_no_step_in_vain(tmp_path, monkeypatch):
    monkeypatch.setattr(trial, "seconds_per_step", None)  # calling it would fail
    lines = told_by(tmp_path, 3)
    assert lines.index("stage joint") < next(n for n, line in enumerate(lines) if "left" in line)


def test_the_steps_are_undone():
    method = tiny.build("single-head")
    (stage,) = method.stages()
    config = TrainingConfig(epochs=3, batch_size=16, learning_rate=0.5)
    loaders = build_loaders(tiny.data(), config, 0, stage, method, CPU, lambda text: None)
    step, before = StepFunction(method, config, CPU), tiny.weights(method)
    state = torch.get_rng_state()
    seconds = trial.seconds_per_step(method, stage, loaders, step, config, Position(0, 0, 0, 0, 3))
    assert seconds is not None
    assert seconds > 0
    assert tiny.equal(before, tiny.weights(method))
    assert all(parameter.grad is None for parameter in method.parameters())
    assert torch.equal(state, torch.get_rng_state())
    # the same step, not undone, would have moved them
    optimizer = torch.optim.SGD(method.parameters(), lr=0.5)
    step(tuple(next(loader.epoch(0)) for loader in loaders), Position(0, 0, 0, 0, 3), optimizer)
    assert not tiny.equal(before, tiny.weights(method))


@pytest.mark.parametrize(
    ("first", "later", "most", "taken", "measured"),
    [
        (9.0, 3.0, 2.0, 1, 9.0),  # more than four times what matters: no second one is needed
        (7.0, 3.0, 2.0, 2, 3.0),  # the first one may have waited for much
        (7.0, 3.0, math.inf, 2, 3.0),  # enough seconds
        (0.5, 0.25, 0.125, 6, 0.25),  # fast steps cost nothing, and the first says little
    ],
)
def test_a_step_that_takes_too_long_is_not_measured_again(
    first, later, most, taken, measured, monkeypatch
):
    method = tiny.build("single-head")
    (stage,) = method.stages()
    config = TrainingConfig(epochs=3, batch_size=8, learning_rate=0.5)
    loaders = build_loaders(tiny.data(), config, 0, stage, method, CPU, lambda text: None)
    step, steps = StepFunction(method, config, CPU), []

    def counted(*given):
        steps.append(given)
        return step(*given)

    ticks = iter([0.0, *itertools.accumulate([first, *[later] * 20])])
    monkeypatch.setattr(trial, "time", SimpleNamespace(perf_counter=ticks.__next__))
    at = Position(0, 0, 0, 0, 3)
    assert trial.seconds_per_step(method, stage, loaders, counted, config, at, most) == measured
    assert len(steps) == taken


def test_a_pass_over_images_is_told_soon_and_then_every_half_minute():
    told = []
    passed = told_at_times(told.append, "scoring test", on_cpu=True)
    for second in range(1, 101):
        passed(50 * second, 5000, float(second))
    assert [text.split(",")[0] for text in told] == [
        "scoring test: 100 of 5",
        "scoring test: 1",
        "scoring test: 3",
        "scoring test: 4",
    ]
    assert told[1] == "scoring test: 1,600 of 5,000 images, 50 a second, about 68 s left"


def test_a_pass_that_is_over_in_a_moment_tells_nothing():
    told = []
    passed = told_at_times(told.append, "scoring test", on_cpu=True)
    for second in range(1, 6):
        passed(20 * second, 100, float(second))
    assert told == []


def test_a_pass_of_hours_is_told_loudly_on_a_cpu_only():
    told = []
    for on_cpu in (True, False):
        told_at_times(told.append, "computing features", on_cpu=on_cpu)(10, 100_000, 3.0)
    assert told[0].startswith(
        "THIS WILL TAKE LONG on a CPU. computing features: 10 of 100,000 images"
    )
    assert told[1].startswith("computing features: 10 of 100,000 images, 3 a second")


def test_predicting_a_split_says_how_far_it_is():
    told = []
    data = tiny.data()
    predict_split(
        tiny.build("single-head"), data, "train", device=CPU, workers=1,
        passed=lambda done, size, seconds: told.append((done, size)),
    )  # fmt: skip
    assert told[-1] == (len(data.manifest), len(data.manifest))
    assert [done for done, _ in told] == sorted({done for done, _ in told})
