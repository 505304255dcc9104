"""Sharpness-aware minimisation against steps worked out by hand, and its rest against plain SGD."""

import pytest
import torch
from torch import nn

from longtail.core import Batch, ClassCounts, Position, StepOutput
from longtail.core.errors import ConfigError
from longtail.engine import checkpoint as ckpt
from longtail.engine.sharpness import climb, go_back
from longtail.engine.step import StepFunction
from longtail.losses import cross_entropy
from longtail.methods import METHODS
from longtail.methods.ingredients.sharpness import FocalSAMOptions, ImbSAMOptions
from longtail.recipes import resolve
from tests import tiny

SAM = tiny.OPTIONS.model_copy(update={"optimizer": "sam", "nesterov": False, "momentum": 0.0})
AT = Position(0, 0, 0, 0, 1)
NOWHERE = Batch((torch.zeros(2, 1),), torch.zeros(2, dtype=torch.int64), torch.arange(2))


class Bowl(nn.Module):
    """S = (w_1^2 + 2 w_2^2) / 2 from w = (3, 2), where its gradient is (3, 4), of length 5."""

    def __init__(self, rest=None):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([3.0, 2.0]))
        self.unused = nn.Parameter(torch.ones(2))
        self.rest = rest

    def training_step(self, batches, at):
        bowl = (torch.tensor([1.0, 2.0]) * self.w.square()).sum() / 2
        if self.rest is None:
            return StepOutput(bowl)
        return StepOutput(bowl + (self.rest * self.w).sum(), sharp=bowl)


def one_step(method, batches, **options):
    config = SAM.model_copy(update=options)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
    out = StepFunction(method, config, tiny.CPU)(batches, AT, optimizer)
    return out, [p.detach().clone() for p in method.parameters()]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_by_hand(accumulate):
    # e = .5 (3, 4) / 5 = (.3, .4); gradient at (3.3, 2.4) is (3.3, 4.8); rate .1
    out, (w, unused) = one_step(Bowl(), [NOWHERE], rho=0.5, accumulate=accumulate)
    torch.testing.assert_close(w, torch.tensor([3 - 0.33, 2 - 0.48]))
    assert torch.equal(unused, torch.ones(2))
    torch.testing.assert_close(out.loss, torch.tensor(8.5))  # where the weights were: 4.5 + 4


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_rest_of_a_loss_keeps_its_gradient(accumulate):
    method = Bowl(rest=torch.tensor([10.0, -10.0]))
    # the climb is that of the bowl alone: gradient (3.3, 4.8) + (10, -10)
    _, (w, _) = one_step(method, [NOWHERE], rho=0.5, accumulate=accumulate)
    torch.testing.assert_close(w, torch.tensor([3 - 1.33, 2 + 0.52]))


def test_the_climb_is_as_long_as_asked_and_is_taken_back():
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(shape, generator=generator) for shape in ((4, 3), (7,))]
    gradients = [torch.randn(w.shape, generator=generator) for w in weights]
    before = [w.clone() for w in weights]
    kept = climb(weights, gradients, 0.3)
    moved = torch.cat([(w - b).flatten() for w, b in zip(weights, before, strict=True)])
    along = torch.cat([g.flatten() for g in gradients])
    torch.testing.assert_close(moved, 0.3 * along / along.norm())
    go_back(weights, kept)
    assert all(map(torch.equal, weights, before))
    climb(weights, [torch.zeros_like(w) for w in weights], 0.3)  # a flat place
    assert all(map(torch.equal, weights, before))


def test_batch_statistics_follow_the_first_pass_only():
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.norm = nn.Parameter(torch.tensor(2.0)), nn.BatchNorm1d(1)

        def training_step(self, batches, at):
            x = self.norm(self.scale * batches[0].images)
            return StepOutput((x.squeeze(1) * torch.arange(4.0)).square().mean())

    method = Normed()
    x = torch.tensor([[1.0], [2.0], [3.0], [6.0]])
    batch = Batch((x,), torch.zeros(4, dtype=torch.int64), torch.arange(4))
    one_step(method, [batch], rho=1.0)
    torch.testing.assert_close(method.norm.running_mean, torch.tensor([0.1 * 2 * 3.0]))
    assert method.norm.num_batches_tracked == 1
    assert method.norm.track_running_stats


LONG = ("do", "tsc", "shike", "gcl", "cc-sam", "oltr", "fslwf", "balms")  # many stages


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in LONG else n for n in METHODS]
)
def test_without_a_climb_it_is_sgd_bit_for_bit(name, tmp_path):
    """Nothing of the second pass stays, and it draws what the first one drew."""
    options = {"test_views": "crop", "retraining_steps": 1} if name == "do" else {}
    plain, sam = tiny.build(name, options), tiny.build(name, options)
    tiny.train(plain, tmp_path / "sgd", name=name)
    sgd_like = tiny.OPTIONS.model_copy(update={"optimizer": "sam", "rho": 0.0})
    tiny.train(sam, tmp_path / "sam", sgd_like, name=name)
    assert tiny.equal(tiny.weights(plain), tiny.weights(sam))


@pytest.mark.slow
def test_it_changes_training_and_a_resumed_run_goes_on_exactly(tmp_path):
    options = tiny.OPTIONS.model_copy(update={"optimizer": "sam", "rho": 0.2})
    plain, whole, resumed = (tiny.build("gcl") for _ in range(3))
    tiny.train(plain, tmp_path / "sgd")
    tiny.train(whole, tmp_path / "a", options)
    tiny.train(tiny.build("gcl"), tmp_path / "b", options)
    ckpt.newest(tiny.RunFolder(tmp_path / "b").checkpoints).rename(tmp_path / "gone")
    tiny.train(resumed, tmp_path / "b", options, resume=True)
    assert tiny.equal(tiny.weights(whole), tiny.weights(resumed))
    assert not tiny.equal(tiny.weights(whole), tiny.weights(plain))


def test_the_factors_of_imbsam_and_focal_sam():
    counts = ClassCounts([100, 20, 19, 1])
    expected = torch.tensor([[1.0, 1, 2, 2], [0, 0, 2, 2]])
    assert torch.equal(ImbSAMOptions().factors(counts), expected)
    expected = torch.tensor([[1.0, 1, 1, 1], [0, 0, 1, 1]])
    assert torch.equal(ImbSAMOptions(weight=1.0).factors(counts), expected)
    # .8 (1 - n / 140)^2
    found = FocalSAMOptions(gamma=2.0).factors(counts)
    expected = torch.tensor([0.0653061, 0.5877551, 0.5975918, 0.7886122])
    torch.testing.assert_close(found, torch.stack([torch.ones(4), expected]))


@pytest.mark.parametrize("sharpness", ["imbsam", "focal-sam"])
def test_what_is_flattened_is_the_weighted_part_of_the_loss(sharpness):
    method = tiny.build("single-head", {"sharpness": sharpness})
    labels = torch.arange(12) % 7
    batch = Batch((tiny.images(12),), labels, torch.arange(12))
    out = method.training_step([batch], AT)
    losses = nn.functional.cross_entropy(method.predict(batch.images), labels, reduction="none")
    n = torch.tensor(tiny.COUNTS.values, dtype=torch.float32)
    if sharpness == "imbsam":
        rare = (n < 20)[labels].float()
        whole, sharp = ((1 + rare) * losses).mean(), (2 * rare * losses).mean()
    else:
        whole = losses.mean()
        sharp = (0.8 * (1 - n / n.sum())[labels] ** 3.2 * losses).mean()
    torch.testing.assert_close(out.loss, whole)
    torch.testing.assert_close(out.sharp, sharp)
    plain = tiny.build("single-head").training_step([batch], AT)
    assert plain.sharp is None
    torch.testing.assert_close(plain.loss, cross_entropy(method.predict(batch.images), labels))


def test_focal_sam_of_equal_classes_and_full_strength_is_sam(tmp_path):
    options = tiny.OPTIONS.model_copy(update={"optimizer": "sam", "rho": 0.2})
    all_of_it = {"sharpness": {"name": "focal-sam", "gamma": 0.0, "strength": 1.0}}
    one, other = tiny.build("single-head"), tiny.build("single-head", all_of_it)
    tiny.train(one, tmp_path / "a", options)
    tiny.train(other, tmp_path / "b", options)
    images = tiny.images(5)
    torch.testing.assert_close(one.eval().predict(images), other.eval().predict(images))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ([], "needs training.optimizer=sam"),
        (["optimizer=sam", "compile=true"], "compiled parts do not keep"),
        (["optimizer=sam", "momentum=0"], "nesterov=true needs a momentum"),
    ],
)
def test_what_does_not_go_together_is_told(more, words):
    with pytest.raises(ConfigError, match=words):
        resolve("cifar100-lt/cross-entropy", ["sharpness=imbsam", *more])
