"""The loop: what the engine promises to every method, on a tiny task."""

import json
import multiprocessing
import resource
from typing import Literal

import numpy as np
import pytest
import torch
from torch import nn

from longtail.config import Options
from longtail.core import (
    CheckpointError,
    Protocol,
    ProtocolError,
    Sampling,
    Stage,
    StepOutput,
    TrainingError,
)
from longtail.engine import checkpoint as ckpt
from longtail.engine.log import SilentLog
from longtail.engine.run_folder import temporary_of
from longtail.methods import METHODS, Method
from tests import tiny


class TwoStageOptions(Options):
    name: Literal["two-stage"] = "two-stage"


class TwoStage(Method):
    """Uses everything that a stage can ask for: two streams and views, freezing, reset, fit."""

    Config = TwoStageOptions
    summary = citation = "a test"

    def __init__(self, config, setting):
        super().__init__()
        self.backbone = setting.build_backbone()
        self.neck = nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16))
        self.head = nn.Linear(16, len(setting.class_counts))
        self.register_buffer("means", torch.zeros(len(setting.class_counts), 16))
        self.register_buffer("steps_seen", torch.zeros((), dtype=torch.int64))
        self.seen = []

    def stages(self):
        return [
            Stage(
                name="representation",
                epochs=2,
                samplings=(Sampling(), Sampling(name="reversed", form="multinomial")),
                views=("crop", "none"),
            ),
            Stage(
                name="classifier",
                epochs=2,
                samplings=(Sampling(name="class-balanced"),),
                trainable=("head",),
                reset=("head",),
                update_norm=("neck",),
                learning_rate=0.5,
                schedule="cosine",
            ),
            Stage(name="means", epochs=0, kind="fit"),
        ]

    def training_step(self, batches, at):
        self.seen.append((at.stage, at.epoch, at.step, len(batches), len(batches[0].views)))
        loss = sum(
            nn.functional.cross_entropy(self.logits(view), batch.labels)
            for batch in batches
            for view in batch.views
        )
        return StepOutput(loss, {"double": 2 * loss}, {"amount": torch.ones((), dtype=torch.int64)})

    def after_step(self, out, at):
        self.steps_seen += out.carry["amount"]

    def fit(self, stage, batches, split):
        labels, features = [], []
        for images, known in batches:
            labels.append(known)
            features.append(self.neck(self.backbone(images)))
        labels, features = torch.cat(labels), torch.cat(features)
        for label in range(len(self.means)):
            self.means[label] = features[labels == label].mean(0)
        return {"fitted on": split}

    def logits(self, images):
        return self.head(self.neck(self.backbone(images)))

    def predict(self, images):
        return self.logits(images)


@pytest.fixture
def two_stage(monkeypatch):
    monkeypatch.setitem(METHODS, "two-stage", TwoStage)
    return lambda: tiny.build("two-stage")


def test_stages_streams_views_carry_and_fit(two_stage, tmp_path):
    method = two_stage()
    run = tiny.train(method, tmp_path, name="two-stage")
    steps = 77 // 16
    assert method.seen[0] == (0, 0, 0, 2, 2)
    assert method.seen[-1] == (1, 1, steps - 1, 1, 1)
    assert int(method.steps_seen) == len(method.seen) == 4 * steps
    assert method.means.abs().sum() > 0
    lines = run.read_metrics()
    stages = ["representation"] * 2 + ["classifier"] * 2
    assert [line["stage"] for line in lines[:4]] == stages
    assert [line["learning_rate"] for line in lines[2:4]] == [0.5, 0.25]
    assert lines[4]["fitted on"] == "train"  # what `fit` found out is written down
    assert lines[0]["double"] == pytest.approx(2 * lines[0]["loss"], rel=1e-5)
    first = ckpt.read_weights(run.checkpoints / "stage-0-end")
    second = ckpt.read_weights(run.checkpoints / "stage-1-end")
    for name, value in first.items():
        same = torch.equal(value, second[name])
        if name.startswith("backbone.") or name in ("neck.0.weight", "neck.1.weight"):
            assert same, name  # frozen: weights and statistics
        if name.startswith("head.") or name == "neck.1.running_mean":
            assert not same, name  # trained, or followed on purpose


@pytest.mark.parametrize(
    "kept", ["stage-0-epoch-0001", "stage-0-end", "stage-1-epoch-0001", "stage-1-end"]
)
def test_resume_from_every_place_equals_no_break(two_stage, tmp_path, kept):
    whole = two_stage()
    tiny.train(whole, tmp_path / "whole", name="two-stage")
    run = tiny.train(two_stage(), tmp_path / "broken", name="two-stage")
    ordered = [
        "stage-0-epoch-0001",
        "stage-0-end",
        "stage-1-epoch-0001",
        "stage-1-end",
        "stage-2-end",
    ]
    for later in ordered[ordered.index(kept) + 1 :]:
        (run.checkpoints / later).rename(tmp_path / later)
    resumed = two_stage()
    tiny.train(resumed, tmp_path / "broken", name="two-stage", resume=True)
    assert tiny.equal(tiny.weights(whole), tiny.weights(resumed))
    assert [line["epochs_done"] for line in run.read_metrics()] == [1, 2, 3, 4, 4]


def test_every_name_of_a_stage_must_match(two_stage, tmp_path, monkeypatch):
    monkeypatch.setattr(TwoStage, "stages", lambda self: [Stage(name="x", epochs=1, reset=("no",))])
    with pytest.raises(ValueError, match="reset of stage 'x' contains no"):
        tiny.train(two_stage(), tmp_path, name="two-stage")


def options(**changes):
    return tiny.OPTIONS.model_copy(update=changes)


def test_accumulated_gradients_equal_the_whole_batch(tmp_path):
    # without batch statistics the parts of a batch add up to the batch
    results = []
    for parts in (1, 4):
        method = tiny.build("single-head")
        without_norm(method)
        run = tiny.train(method, tmp_path / str(parts), options(accumulate=parts, nesterov=False))
        results.append((tiny.weights(method), [line["loss"] for line in run.read_metrics()]))
    assert results[0][1] == pytest.approx(results[1][1], abs=1e-5)
    for name, value in results[0][0].items():
        torch.testing.assert_close(value, results[1][0][name], atol=1e-4, rtol=1e-4)


def without_norm(method):
    """Replace batch statistics by nothing: the tiny network without normalisation."""
    for module in list(method.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # torch's compiler asks
def test_compiled_parts_learn_as_others_and_say_what_compiling_took(two_stage, tmp_path):
    runs = []
    for compiled in (False, True):  # the second stage freezes the backbone, the last one fits
        method = tiny.build("two-stage")
        how = options(compile=compiled)
        runs.append(tiny.train(method, tmp_path / str(compiled), how, name="two-stage"))
    plain, compiled = (run.read_metrics() for run in runs)
    losses = [line["loss"] for line in plain if "loss" in line]
    assert [line["loss"] for line in compiled if "loss" in line] == pytest.approx(losses, rel=1e-2)
    assert [line.get("compile_seconds", 0) > 0 for line in compiled] == [
        line.get("epoch") == 1 for line in compiled
    ]
    assert not any("compile_seconds" in line for line in plain)


def test_gradients_are_clipped(tmp_path):
    moved = []
    for norm in (None, 1e-4):
        method = tiny.build("single-head")
        before = tiny.weights(method)
        tiny.train(
            method, tmp_path / str(norm), options(clip_norm=norm, epochs=1, weight_decay=0.0)
        )
        moved.append(max((p - before[n]).abs().max().item() for n, p in method.named_parameters()))
    assert moved[1] < 1e-3 < moved[0]


def scripted(values):
    """A validation that says given macro accuracies, epoch after epoch."""
    left = iter(values)
    return lambda method, part: {"accuracy": 0.0, "macro_accuracy": next(left)}


class Heard(SilentLog):
    """Keeps what is noted."""

    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def test_early_stopping_keeps_the_best_epoch(tmp_path):
    chosen = options(select="best-validation", early_stopping=2, epochs=9)
    protocol = Protocol(has_val=True, selection="best-validation")
    validate = scripted([0.1, 0.3, 0.3, 0.2, 0.9])
    method = tiny.build("single-head", epochs=9)
    log = Heard()
    run = tiny.train(method, tmp_path, chosen, protocol=protocol, validate=validate, log=log)
    said = "stopped after epoch 4 of 9, because val did not improve for 2 epochs"
    assert sum(said in note for note in log.notes) == 1
    lines = run.read_metrics()
    assert len(lines) == 4  # the earliest epoch wins the tie; two epochs without a better one
    best, last = ckpt.best(run.checkpoints), ckpt.finished(run.checkpoints)
    assert best.name == "best-epoch-00002"
    assert ckpt.read_metadata(last).selected_epoch == 2
    # the run ends with the weights of its best epoch
    assert tiny.equal(ckpt.read_weights(last), ckpt.read_weights(best))
    assert lines[1]["val_macro_accuracy"] == 0.3


def test_selection_without_validation_is_refused(tmp_path):
    protocol = Protocol(has_val=True, selection="best-validation")
    with pytest.raises(ProtocolError):
        tiny.train(tiny.build("single-head"), tmp_path, options(), protocol=protocol)


def test_a_loss_that_is_not_finite_stops_with_the_images(tmp_path, monkeypatch):
    method = tiny.build("single-head")
    honest = method.training_step

    def poisoned(batches, at):
        out = honest(batches, at)
        bad = float("nan") if (at.epoch, at.step) == (1, 2) else 1.0
        return StepOutput(out.loss * bad)

    monkeypatch.setattr(method, "training_step", poisoned)
    with pytest.raises(TrainingError, match=r"step 3 of epoch 2 .*learning_rate") as caught:
        tiny.train(method, tmp_path)
    assert caught.value.exit_status == 1
    told = json.loads((tmp_path / "non-finite-batch.json").read_text())
    assert (told["epoch"], told["step"], len(told["image_ids"])) == (2, 3, 16)
    assert set(told["image_ids"]) <= set(tiny.data().manifest.ids.tolist())
    kept = ckpt.newest(tmp_path / "checkpoints")
    assert kept.name == "stage-0-epoch-0001"
    assert all(torch.isfinite(value).all() for value in ckpt.read_weights(kept).values())


def test_a_checkpoint_of_another_method_is_refused(two_stage, tmp_path):
    run = tiny.train(two_stage(), tmp_path, name="two-stage")
    with pytest.raises(CheckpointError, match="was trained with method two-stage"):
        tiny.train(tiny.build("single-head"), tmp_path, resume=True)
    weights = ckpt.read_weights(ckpt.newest(run.checkpoints))
    with pytest.raises(CheckpointError, match="belongs to another model"):
        ckpt.load_weights(tiny.build("single-head"), weights, "x")


def fill_the_disk(folder):
    """Train on where files may not grow beyond 20 kB, as on a full disk."""
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try:
        tiny.train(tiny.build("single-head"), folder, resume=True)
    except CheckpointError as error:
        (folder / "message.txt").write_text(str(error))


@pytest.mark.slow
def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path):
    whole = tiny.build("single-head")
    tiny.train(whole, tmp_path / "whole")
    run = tiny.train(tiny.build("single-head"), tmp_path / "run")
    (run.checkpoints / "stage-0-end").rename(tmp_path / "gone")
    before = ckpt.read_weights(run.checkpoints / "stage-0-epoch-0002")
    process = multiprocessing.get_context("spawn").Process(target=fill_the_disk, args=(run.path,))
    process.start()
    process.join()
    message = (run.path / "message.txt").read_text()
    assert "cannot be written" in message
    assert "--resume" in message
    assert [p.name for p in run.checkpoints.glob(".*")] == []
    assert tiny.equal(ckpt.read_weights(ckpt.newest(run.checkpoints)), before)
    resumed = tiny.build("single-head")
    tiny.train(resumed, run.path, resume=True)
    assert tiny.equal(tiny.weights(resumed), tiny.weights(whole))


def test_a_read_only_folder_is_named(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    blocker = temporary_of(tmp_path / "checkpoints" / "stage-0-epoch-0001")
    blocker.symlink_to("/proc/1/nowhere")  # nothing can be made here, not even by root
    with pytest.raises(CheckpointError, match=r"stage-0-epoch-0001 cannot be written"):
        tiny.train(tiny.build("single-head"), tmp_path)


def test_dropout_is_seeded_and_the_global_generator_untouched(tmp_path, monkeypatch):
    def with_dropout():
        method = tiny.build("single-head")
        method.backbone.network.layer3.append(nn.Dropout(0.5))
        return method

    results = []
    for number in range(2):
        torch.manual_seed(number)  # must not matter
        state = torch.random.get_rng_state()
        method = with_dropout()
        tiny.train(method, tmp_path / str(number))
        assert torch.equal(torch.random.get_rng_state(), state)
        results.append(tiny.weights(method))
    assert tiny.equal(*results)


def test_the_step_reads_nothing_back(tmp_path, monkeypatch):
    """No `.item()` and no conversion to a number inside the steps of an epoch."""
    reads = []
    inside = []
    for name in ("item", "tolist", "__float__", "__bool__", "__int__"):
        original = getattr(torch.Tensor, name)

        def counting(self, *arguments, _original=original, _name=name):
            if inside:
                reads.append(_name)
            return _original(self, *arguments)

        monkeypatch.setattr(torch.Tensor, name, counting)
    method = tiny.build("single-head", {"loss": "balanced-softmax", "class_weights": {}})
    honest = method.after_step
    real = method.training_step

    def entering(batches, at):
        inside.append(at)
        return real(batches, at)

    def leaving(out, at):
        honest(out, at)
        inside.clear()

    monkeypatch.setattr(method, "training_step", entering)
    monkeypatch.setattr(method, "after_step", leaving)
    tiny.train(method, tmp_path, options(epochs=1))
    assert reads == []


def test_learning_happens(tmp_path):
    method = tiny.build("single-head", epochs=15)
    run = tiny.train(method, tmp_path, options(epochs=15, milestones=(12,)))
    losses = [line["loss"] for line in run.read_metrics()]
    assert losses[-1] < 0.6 * losses[0]
    assert np.isfinite(losses).all()
