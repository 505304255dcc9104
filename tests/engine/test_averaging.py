"""Averages of the weights: what they are, when, and that nothing depends on an interruption."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.optim.swa_utils import SWALR, AveragedModel, update_bn

from longtail.core import Stage
from longtail.data.sampling.loader import TrainingLoader
from longtail.data.sampling.samplers import EpochSampler, Sampling
from longtail.engine import TrainingConfig
from longtail.engine import checkpoint as ckpt
from longtail.engine.averaging import Averaging
from longtail.engine.schedule import rate_in_stage
from longtail.methods import METHODS
from tests import tiny
from tests.contract.test_method_contract import SHORT


def options(**changes):
    return TrainingConfig.model_validate(tiny.OPTIONS.model_dump() | changes)


def test_moving_average_of_the_weights(tmp_path):
    plain, averaged = tiny.build("single-head"), tiny.build("single-head")
    tiny.train(plain, tmp_path / "plain")
    run = tiny.train(averaged, tmp_path / "ema", options(ema=0.9))
    assert not torch.equal(plain.head.weight, averaged.head.weight)
    # the end of the stage is the average; the training itself was not touched by it
    losses = [
        [line["loss"] for line in tiny.RunFolder(tmp_path / n).read_metrics()]
        for n in ("plain", "ema")
    ]
    assert losses[0] == losses[1]
    end = ckpt.read_weights(run.checkpoints / "stage-0-end")
    assert torch.equal(end["head.weight"], averaged.head.weight)
    (run.checkpoints / "stage-0-end").rename(tmp_path / "gone")
    resumed = tiny.build("single-head")
    tiny.train(resumed, tmp_path / "ema", options(ema=0.9), resume=True)
    assert tiny.equal(tiny.weights(resumed), tiny.weights(averaged))


class Network(nn.Module):
    def __init__(self, method):
        super().__init__()
        self.method = method

    def forward(self, images):
        return self.method.predict(images)


def averaged_by_pytorch(method, config, way):
    """Train with PyTorch's own schedulers, average and statistics, as its documentation does."""
    network, data = Network(copy.deepcopy(method)), tiny.data()
    sampler = EpochSampler(
        data.manifest.labels, tiny.COUNTS, Sampling(), batch_size=config.batch_size,
        epochs=config.epochs, seed=config.seed,
    )  # fmt: skip
    loader = TrainingLoader(data, sampler, ("default",), device=tiny.CPU, seed=config.seed)
    optimizer = torch.optim.SGD(
        network.parameters(), config.learning_rate, config.momentum,
        weight_decay=config.weight_decay, nesterov=config.nesterov,
    )  # fmt: skip
    cosine = CosineAnnealingLR(optimizer, T_max=config.epochs)
    average = AveragedModel(network)
    constant = SWALR(optimizer, swa_lr=config.swa_factor * config.learning_rate, anneal_epochs=way)
    for epoch in range(config.epochs):
        network.train()
        for batch in loader.epoch(epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(batch.images), batch.labels).backward()
            optimizer.step()
        if epoch >= config.swa:
            average.update_parameters(network)
            constant.step()
        else:
            cosine.step()
    update_bn((batch.images for batch in loader.epoch(config.epochs - 1)), average)
    return average.module.method


def test_swa_is_that_of_pytorch(tmp_path):
    config = options(epochs=40, schedule="cosine", swa=35, swa_factor=0.5)
    theirs = averaged_by_pytorch(tiny.build("single-head", epochs=40), config, way=2)
    ours = tiny.build("single-head", epochs=40)
    tiny.train(ours, tmp_path, config)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, msg=name)


def test_the_rate_is_that_of_pytorch():
    """Of SURE: a cosine of 200 epochs, and after the 120th in ten epochs to half the peak."""
    config = TrainingConfig(schedule="cosine", warmup=0, swa=0.6, swa_factor=0.5)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    cosine = CosineAnnealingLR(optimizer, T_max=200)
    constant = SWALR(optimizer, swa_lr=0.05)
    expected = []
    for epoch in range(1, 201):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        (constant if epoch > 120 else cosine).step()
    stage = Stage(name="joint", epochs=200)
    found = [rate_in_stage(config, stage, epoch) for epoch in range(200)]
    assert found == pytest.approx(expected, abs=1e-9)
    assert found[131:] == [pytest.approx(0.05)] * 69


@pytest.mark.parametrize(
    ("epochs", "swa", "first"),
    [(200, 0.6, 120), (40, 0.6, 24), (8, 6, 6), (1, 0.75, 0), (50, 120, 49)],
)
def test_the_first_epoch_that_is_averaged(epochs, swa, first):
    assert TrainingConfig(swa=swa).averaged_from(epochs) == first


def scored(config, folder, **more):
    """Train with a score of val after every epoch, of the logits of a few images."""
    method = tiny.build("single-head", epochs=config.epochs)
    images = tiny.images(5)

    def validate(network, part):
        network.eval()
        with torch.no_grad():
            return {"accuracy": 0.0, "macro_accuracy": float(network.predict(images).mean())}

    run = tiny.train(method, folder, config, validate=validate, **more)
    return method, run


@pytest.mark.parametrize("average", [{"swa": 2}, {"ema": 0.9}])
@pytest.mark.parametrize("kept", [3, 4])  # the two that a run keeps
def test_resumed_in_the_middle_of_averaging_it_is_the_same(tmp_path, average, kept):
    config = options(epochs=5, **average)
    whole, run = scored(config, tmp_path / "whole")
    _, broken = scored(config, tmp_path / "broken")
    for epoch in range(kept + 1, 6):
        name = "stage-0-end" if epoch == 5 else f"stage-0-epoch-{epoch:04d}"
        (broken.checkpoints / name).rename(tmp_path / name)
    resumed, broken = scored(config, tmp_path / "broken", resume=True)
    assert tiny.equal(tiny.weights(resumed), tiny.weights(whole))
    scores = [[line["val_macro_accuracy"] for line in r.read_metrics()] for r in (run, broken)]
    assert scores[0] == scores[1]


def test_before_the_first_averaged_epoch_the_weights_themselves_predict(tmp_path):
    _, plain = scored(options(epochs=5, schedule="constant"), tmp_path / "plain")
    config = options(epochs=5, schedule="constant", swa=3, swa_factor=1)
    _, averaged = scored(config, tmp_path / "swa")
    losses, scores = (
        [[line[key] for line in run.read_metrics()] for run in (plain, averaged)]
        for key in ("loss", "val_macro_accuracy")
    )
    assert losses[0] == losses[1]  # the training itself is not touched
    assert scores[0][:3] == scores[1][:3]
    assert not set(scores[0][3:]) & set(scores[1][3:])


def test_ema_and_swa_exclude_each_other():
    with pytest.raises(ValueError, match="choose one of them"):
        options(ema=0.9, swa=0.5)


def test_a_stage_may_refuse_an_average():
    stage = Stage(name="second", epochs=4, averaged=False)
    for config in (options(swa=0, schedule="constant"), options(ema=0.9)):
        method = tiny.build("single-head")
        average = Averaging(method, stage, config, 0)
        average.after_step()
        average.after_epoch(3)
        assert average.predictor(3) is method
        assert average.state() == {}
        assert rate_in_stage(config, stage, 3) == rate_in_stage(
            options(schedule=config.schedule), stage, 3
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_be_averaged(tmp_path, name):
    method = tiny.build(name, SHORT.get(name, {}))
    tiny.train(method, tmp_path, options(swa=0.5), name=name)
    logits = method.eval().predict(tiny.images(4))
    assert bool(logits.isfinite().all())


@pytest.mark.slow
def test_two_processes_average_as_one(tmp_path):
    arguments = [
        "train", "digits-lt/cross-entropy", "epochs=2", "batch_size=170", "learning_rate=0.01", "swa=0",
        "joint_norm=true", "precision=fp32", "--device", "cpu",
    ]  # fmt: skip
    found = []
    for count in ("1", "2"):
        command = [
            sys.executable,
            "-m",
            "longtail",
            *arguments,
            "--processes",
            count,
            "--out",
            count,
        ]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found.append(ckpt.read_weights(ckpt.finished(tmp_path / count / "checkpoints")))
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-2, atol=1e-3, msg=name)
