"""SURE: both stages by hand, what the second one leaves as it is, and along which gradient SAM climbs."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from longtail.core import Batch, Position, StepOutput
from longtail.core.rng import numpy_generator
from longtail.engine import checkpoint as ckpt
from longtail.engine.step import StepFunction
from longtail.recipes import resolve
from tests import tiny

SIZE = 8
FIRST, SECOND = Position(0, 0, 3, 1, 5), Position(0, 2, 0, 0, 5)
SAM = tiny.OPTIONS.model_copy(update={"optimizer": "sam", "nesterov": False, "momentum": 0.0})


def batch():
    labels = torch.tensor([0, 1, 1, 2, 6, 4, 1, 0])
    return Batch((tiny.images(SIZE, 1), tiny.images(SIZE, 2)), labels, torch.arange(SIZE))


def logits(method, images):
    features = F.normalize(method.backbone(images), dim=1)
    return 8.0 * features @ F.normalize(method.head.weight, dim=1).T


def test_plain_and_mixed_images_count_both():
    method, one = tiny.build("sure", {"mixed": 0.5}).eval(), batch()
    generator = numpy_generator(0, "mixing", 0, 3, 1)
    generator.random()  # every batch is mixed
    lam = generator.beta(10.0, 10.0)
    order = torch.from_numpy(generator.permutation(SIZE))
    mixed = logits(method, lam * one.images + (1 - lam) * one.images[order])
    expected = F.cross_entropy(logits(method, one.images), one.labels)
    soft = lam * F.one_hot(one.labels, 7) + (1 - lam) * F.one_hot(one.labels[order], 7)
    expected = expected + 0.5 * F.cross_entropy(mixed, soft)
    torch.testing.assert_close(method.training_step([one], FIRST).loss, expected)


def weights_by_hand(method, images, temperature):
    """As the released code does: divided by their sum, times their number, at most 1."""
    sure = logits(method, images).softmax(dim=1).max(dim=1).values
    raw = torch.exp(-temperature * sure)
    return (raw / raw.sum() * len(raw)).clamp(0.0001, 1.0)


@pytest.mark.parametrize("reweighted", ["loss", "ascent"])
def test_images_that_the_first_stage_is_sure_of_weigh_less(reweighted):
    options = {"temperature": 3.0, "reweighted": reweighted}
    method, one = tiny.build("sure", options).eval(), batch()
    method.fit(None, (), "train")
    weights = weights_by_hand(method, one.views[1], 3.0)
    assert weights.min() < weights.max() == 1
    with torch.no_grad():
        method.head.weight.neg_()  # trained on: the weights stay those of the copy
    losses = F.cross_entropy(logits(method, one.images), one.labels, reduction="none")
    out = method.training_step([one], SECOND)
    weighted, plain = (weights * losses).mean(), losses.mean()
    torch.testing.assert_close(out.loss, weighted if reweighted == "loss" else plain)
    if reweighted == "ascent":
        torch.testing.assert_close(out.ascent, weighted)
    torch.testing.assert_close(out.scalars["image_weight"], weights.mean())


class Valley(nn.Module):
    """Loss (w_1^2 + 2 w_2^2) / 2 at w = (3, 2), climbed along the gradient of another one, (0, 5)."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([3.0, 2.0]))

    def training_step(self, batches, at):
        loss = (torch.tensor([1.0, 2.0]) * self.w.square()).sum() / 2
        return StepOutput(loss, ascent=5 * self.w[1])


def test_sam_climbs_along_the_other_gradient():
    method = Valley()
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
    out = StepFunction(method, SAM.model_copy(update={"rho": 0.5}), tiny.CPU)(
        [batch()], SECOND, optimizer
    )
    # uphill is (3, 2.5), where the gradient of the loss is (3, 5)
    torch.testing.assert_close(method.w.detach(), torch.tensor([3 - 0.3, 2 - 0.5]))
    torch.testing.assert_close(out.loss, torch.tensor(8.5))


def test_the_second_stage_leaves_gains_and_offsets_of_batchnorm(tmp_path):
    method = tiny.build("sure", {"second": 2, "second_rate": 0.1})
    run = tiny.train(method, tmp_path, SAM, name="sure")
    before, after = (ckpt.read_weights(run.checkpoints / f"stage-{n}-end") for n in (0, 2))
    norms = [n for n, m in method.backbone.named_modules() if isinstance(m, nn.BatchNorm2d)]
    for name in norms:
        for part in ("weight", "bias"):
            assert torch.equal(before[f"backbone.{name}.{part}"], after[f"backbone.{name}.{part}"])
        running = f"backbone.{name}.running_mean"
        assert not torch.equal(before[running], after[running])
    assert not torch.equal(
        before["backbone.network.conv1.weight"], after["backbone.network.conv1.weight"]
    )
    # the copy is the network as the first stage ended
    assert torch.equal(after["first.1.weight"], before["head.weight"])


def test_the_average_predicts_after_the_first_stage_only(tmp_path):
    config = SAM.model_copy(update={"epochs": 4, "swa": 0.5})
    method = tiny.build("sure", {"second": 2}, epochs=4)
    run = tiny.train(method, tmp_path, config, name="sure")
    rates = [line["learning_rate"] for line in run.read_metrics() if "learning_rate" in line]
    assert rates[3:] == pytest.approx([0.025, 0.005, 0.005])


def test_the_recipes_have_the_published_options():
    first, both = (resolve(f"cifar100-lt/sure{name}") for name in ("", "-reweighted"))
    assert (first.method.second, both.method.second) == (0, 50)
    assert (first.method.scale, first.method.alpha, first.method.mixed) == (8.0, 10.0, 1.0)
    assert (both.method.second_rate, both.method.reweighted) == (0.005, "ascent")
    assert both.training.averaged_from(200) == 120
    assert both.model.width == 4
