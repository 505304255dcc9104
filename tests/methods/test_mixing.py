"""When images are mixed, and with which: CMO against entry 23 of the specification of the baselines."""

import numpy as np
import pytest
import torch

from longtail.core import Batch, Position
from longtail.data.sampling.samplers import EpochSampler
from longtail.methods.ingredients import MixingOptions, mixed_batch, mixing_streams
from longtail.recipes import resolve
from tests import tiny

CMO = MixingOptions(name="cutmix", partners="class-balanced", start=0.02, rest=0.015)


def batches(count):
    labels = torch.arange(12) % 7
    return [Batch((tiny.images(12, n),), labels, torch.arange(12)) for n in range(count)]


def at(epoch, epochs=200):
    return Position(0, 0, epoch, 0, epochs)


def test_epochs_that_mix():
    # the released code: 3 < epoch < epochs - 3
    mixing = [epoch for epoch in range(200) if CMO.mixes(at(epoch))]
    assert mixing == list(range(4, 197))
    strong = CMO.model_copy(update={"start": 4.0, "rest": 3.0})
    assert [epoch for epoch in range(400) if strong.mixes(at(epoch, 400))] == list(range(4, 397))
    assert all(MixingOptions().mixes(at(epoch, 3)) for epoch in range(3))


def test_outside_these_epochs_the_loss_is_that_without_mixing():
    options = {"loss": "balanced-softmax", "mixing": CMO.model_dump()}
    plain = tiny.build("single-head", {"loss": "balanced-softmax"})
    mixed = tiny.build("single-head", options)
    (one, other) = batches(2)
    for epoch, alike in ((0, True), (100, False), (199, True)):
        expected = plain.training_step([one], at(epoch)).loss
        found = mixed.training_step([one, other], at(epoch)).loss
        assert torch.equal(found, expected) == alike


def test_partners_come_from_the_second_stream():
    one, other = batches(2)
    mixed = mixed_batch(CMO, [one, other], at(100))
    assert torch.equal(mixed.labels, one.labels)
    assert torch.equal(mixed.partners, other.labels)
    taken = (mixed.images == other.images).all(dim=1)  # [B, H, W]
    kept = (mixed.images == one.images).all(dim=1)
    assert (taken | kept).all()
    assert float(taken[0].float().mean()) == pytest.approx(1 - float(mixed.share))


@pytest.mark.parametrize("method", ["single-head", "reslt", "experts", "mislas", "gcl"])
def test_the_second_stream_shows_all_classes_equally_often(method):
    first = tiny.build(method, {"mixing": CMO.model_dump()}).stages()[0]
    plain, partners = first.samplings
    assert plain.name == "instance"
    labels = np.repeat(np.arange(7), tiny.COUNTS.values)
    sampler = EpochSampler(
        labels, tiny.COUNTS, partners, batch_size=11, epochs=400, seed=0, stage=1
    )
    drawn = np.concatenate([labels[sampler.batches(epoch)].ravel() for epoch in range(400)])
    shares = np.bincount(drawn, minlength=7) / len(drawn)
    assert shares == pytest.approx(1 / 7, abs=0.01)
    assert len(tiny.build(method).stages()[0].samplings) == 1
    assert (
        "mixing with class-balanced partners"
        in tiny.build(method, {"mixing": CMO.model_dump()}).corrections()
    )


def test_without_partners_there_is_one_stream():
    assert mixing_streams(None) == mixing_streams(MixingOptions()) == ()


def test_the_recipe_has_the_published_options():
    method = resolve("cifar100-lt/cmo").method
    assert (method.loss.name, method.mixing.probability) == ("balanced-softmax", 0.5)
    assert (method.mixing.name, method.mixing.partners) == ("cutmix", "class-balanced")
    large = resolve("imagenet-lt/cmo", ["root=x"])
    assert (large.method.mixing.start, large.training.epochs) == (4, 100)
