"""That all works on another device than the CPU, and that no step waits for it.

No GPU is needed: see `pretended_device`.
"""

import json
from pathlib import Path

import pytest
import torch

from longtail.data.augmentation.policies import POLICIES
from longtail.data.sampling.loader import FeatureLoader, TrainingLoader, evaluation_batches
from longtail.data.sampling.samplers import EpochSampler, Sampling
from longtail.engine.step import StepFunction
from longtail.methods.do import DO
from tests import pretended_device, tiny
from tests.contract.test_method_contract import VARIANTS, every_variant_in_time, make

pytestmark = pytest.mark.filterwarnings("ignore:.*meta parameter:UserWarning")


def waits_in(waits, *functions):
    codes = {function.__code__ for function in functions}
    return [(name, places) for name, places in waits if codes & places]


def test_the_pretended_device_is_like_a_real_one():
    here = torch.arange(6.0)
    with pretended_device.installed() as waits:
        there = here.to(pretended_device.DEVICE, non_blocking=True)
        assert there.device == pretended_device.DEVICE
        with pytest.raises(AssertionError, match="mixes devices"):
            there + here
        there += 2 * torch.tensor(1.0)
        there[1:3].zero_()
        there[there < 1] = 0.0
        assert waits == []
        for number, wait in enumerate(
            (
                lambda: here.to(pretended_device.DEVICE),
                lambda: there.copy_(here),
                lambda: there.cpu(),
                lambda: float(there[0]),
                lambda: bool(there.sum() > 3),
                lambda: there[there > 3],
                lambda: there.__setitem__(there > 3, there[4:].clone()),
                lambda: there.nonzero(),
                lambda: torch.tensor([1.0], device=pretended_device.DEVICE),
                lambda: torch.equal(there, there),
            ),
            start=1,
        ):
            wait()
            assert len(waits) == number
        assert (there.cpu() == torch.arange(6.0)).all()


# every operation passes through Python there: as few steps as two epochs can have; DO ranks its weights, too
FEW_STEPS = tiny.OPTIONS.model_copy(update={"epochs": 2, "batch_size": 32})


@pytest.mark.parametrize(
    "variant",
    [
        pytest.param(
            name,
            marks=[]
            if name.endswith(", defaults") and VARIANTS[name][0] != "do"
            else pytest.mark.slow,
        )
        for name in VARIANTS
    ],
)
def test_methods_train_there_as_here_and_no_step_waits(variant, tmp_path):
    here = make(variant, epochs=2)
    tiny.train(here, tmp_path / "here", FEW_STEPS)
    images = tiny.images(4)
    with pretended_device.installed() as waits:
        there = make(variant, epochs=2).to(pretended_device.DEVICE)
        tiny.train(there, tmp_path / "there", FEW_STEPS, device=pretended_device.DEVICE)
        logits = there.eval().predict(images.to(pretended_device.DEVICE)).cpu()
        found = {name: value.cpu() for name, value in there.state_dict().items()}
    assert torch.equal(logits, here.eval().predict(images))
    assert tiny.equal(found, here.state_dict())
    assert all(isinstance(value, pretended_device.Away) for value in there.buffers())
    in_steps = waits_in(waits, StepFunction.__call__, TrainingLoader.epoch, FeatureLoader.epoch)
    # a step that releases weights counts those that are left
    releasing = waits_in(in_steps, DO._release)
    assert in_steps == releasing


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@every_variant_in_time
def test_no_step_waits_for_a_gpu(variant, tmp_path, monkeypatch):
    step = StepFunction.__call__

    def watched(self, batches, at, optimizer):
        # the first step of a stage sets libraries up; releases are the exception named above
        strict = at.step > 0 and not isinstance(self._method, DO)
        torch.cuda.set_sync_debug_mode("error" if strict else "default")
        try:
            return step(self, batches, at, optimizer)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(StepFunction, "__call__", watched)
    cuda = torch.device("cuda")
    tiny.train(make(variant).to(cuda), tmp_path, device=cuda)


@pytest.mark.parametrize("view", POLICIES)
def test_images_are_augmented_there_as_here(view):
    data = tiny.data()
    sampler = EpochSampler(
        data.manifest.labels, tiny.COUNTS, Sampling(), batch_size=16, epochs=1, seed=0
    )
    batches = {}
    with pretended_device.installed() as waits:
        for device in (tiny.CPU, pretended_device.DEVICE):
            loader = TrainingLoader(
                data, sampler, (view,), device=device, seed=0, stage=0, workers=1
            )
            made = [batch.images for batch in loader.epoch(0)]
            made += [x for x, _ in evaluation_batches(data, device=device, view=view)]
            assert {x.device for x in made} == {device}
            batches[device] = [x.cpu() for x in made]
        assert waits_in(waits, TrainingLoader.epoch) == []
    for here, there in zip(*batches.values(), strict=True):
        torch.testing.assert_close(here, there, rtol=0, atol=0)


@pytest.mark.slow
def test_commands_work_there(longtail, image_folder):
    def call(*arguments):
        status, _, errors = longtail(*arguments)
        assert status == 0, errors

    train = (
        "train", "digits-lt/cross-entropy", "epochs=1", "validation_per_class=3", "ema=0.9",
        "precision=fp32",  # a CPU that multiplies in bf16 would do so here, and not there
    )  # fmt: skip
    call(*train, "--out", "here")
    with pretended_device.installed() as waits:
        there = ("--device", pretended_device.DEVICE.type)
        call(*train, "--out", "there", *there)
        assert waits  # the results came back
        call("train", "digits-lt/do", "epochs=1", "retraining_steps=1", "--out", "do", *there)
        call("train", image_folder, "epochs=1", "batch_size=4", "--out", "own", *there)
        for by in ("tau", "logit-adjust", "ncm", "lws", "crt", "balanced-temperature"):
            call("adjust", "there", "--by", by, "--out", by, *there, "--force")
        call("evaluate", "do", *there)
        call("ensemble", "do", *there)
        call("report", "do", *there)
        call("predict", "own", image_folder, "--out", "predictions.csv", *there)
    here, there = (
        json.loads(Path(run, "scores-test.json").read_text()) for run in ("here", "there")
    )
    assert here == there
