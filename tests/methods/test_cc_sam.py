"""CC-SAM against its released loop over classes, and the facts of the specification (entry 27)."""

import math

import pytest
import torch
import torch.nn.functional as F

from longtail.core import Batch, ClassCounts, Position
from longtail.engine import checkpoint as ckpt
from longtail.methods import METHODS
from longtail.methods.cc_sam import feature_weights, moved_features, moved_logits, reach
from longtail.recipes import resolve
from tests import tiny

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(9, 4, generator=GENERATOR, dtype=torch.float64)
W = torch.randn(3, 4, generator=GENERATOR, dtype=torch.float64)
B = torch.randn(3, generator=GENERATOR, dtype=torch.float64)
LABELS = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2])
PARTNERS = torch.tensor([1, 0, 2, 0, 1, 2, 0, 2, 1])
N = [50, 10, 2]


def blended(logits, share):
    own, other = (F.cross_entropy(logits, y, reduction="none") for y in (LABELS, PARTNERS))
    return share * own + (1 - share) * other


def test_logits_are_those_of_a_classifier_that_was_moved_for_each_class():
    """Move the classifier class by class, as the equations say, with gradients of autograd."""
    x = X.clone().requires_grad_()
    logits = F.linear(x, W, B)
    target = 0.7 * F.one_hot(LABELS, 3) + 0.3 * F.one_hot(PARTNERS, 3)
    moving = reach(ClassCounts(N)).double() * 0.1
    found = moved_logits(x, logits, target.double(), LABELS, W, B, moving)
    gradients = torch.autograd.grad(F.cross_entropy(found, LABELS), x)[0]
    size, length = 15, math.sqrt(float(W.square().sum() + B.square().sum()))
    for c in range(3):
        w, b = W.clone().requires_grad_(), B.clone().requires_grad_()
        of_class = c == LABELS
        loss = blended(F.linear(X, w, b), 0.7)[of_class].mean()
        moved = []
        for value, slope in zip((W, B), torch.autograd.grad(loss, (w, b)), strict=True):
            rho = 0.1 * math.sqrt(length) / math.sqrt(float(slope.norm())) / math.sqrt(2)
            rho /= (max(N[c] - 1, 1) * size) ** 0.25
            moved.append(value + rho * math.sqrt(size) * slope / slope.norm())
        rows = X[of_class].requires_grad_()
        expected = F.linear(rows, *moved)
        torch.testing.assert_close(found[of_class], expected, rtol=1e-6, atol=1e-6)
        # the features feel the moved classifier
        loss = F.cross_entropy(expected, LABELS[of_class], reduction="sum") / 9
        (slope,) = torch.autograd.grad(loss, rows)
        torch.testing.assert_close(gradients[of_class], slope, rtol=1e-6, atol=1e-6)


def test_features_are_moved_along_the_gradient_of_their_class():
    weights = feature_weights(ClassCounts(N)).double()
    found = moved_features(X, F.linear(X, W, B), LABELS, W, weights)
    for c in range(3):
        x = X.clone().requires_grad_()
        loss = F.cross_entropy(F.linear(x, W, B), LABELS, reduction="none")[c == LABELS].mean()
        (slope,) = torch.autograd.grad(loss, x)
        expected = X + weights[c] * slope / slope.norm()
        torch.testing.assert_close(found[c == LABELS], expected[c == LABELS])


def test_the_numbers_of_the_specification():
    counts = ClassCounts([int(500 * 100 ** (-c / 99)) for c in range(100)])
    weights = feature_weights(counts)
    assert float(weights[0]) == pytest.approx(0.0050, abs=5e-5)
    assert float(weights[99]) == pytest.approx(2.3026, abs=1e-4)
    far = reach(counts)
    assert (far.diff() >= 0).all()  # the rarer, the further
    # |W| = 10, |g| = 1, P = 6500: 1.4e-5 at n = 5, 4e-6 at n = 500, from noise 1e-6
    shared = 1e-6 * math.sqrt(10 / 2) * 6500**0.25
    assert shared * float(far[99]) == pytest.approx(1.4e-5, rel=0.02)
    assert shared * float(far[0]) == pytest.approx(4.2e-6, rel=0.03)
    assert torch.equal(reach(ClassCounts([2, 1])), torch.ones(2))  # one image is no infinite step


def given():
    return Batch((tiny.images(12),), torch.arange(12) % 7, torch.arange(12))


def test_without_moves_both_stages_blend_cross_entropies():
    method = tiny.build("cc-sam", {"noise": 0.0, "mixing": None})
    batch = given()
    plain = F.cross_entropy(method.predict(batch.images), batch.labels)
    torch.testing.assert_close(method.training_step([batch], Position(0, 0, 0, 0, 3)).loss, plain)
    weights = feature_weights(tiny.COUNTS)
    with torch.no_grad():
        method.weights.zero_()
    found = method.training_step([batch], Position(0, 1, 0, 0, 4)).loss
    torch.testing.assert_close(found, (1 - 0.25) * plain)  # the ramp: 1/4, then no more than .3
    found = method.training_step([batch], Position(0, 1, 3, 0, 4)).loss
    torch.testing.assert_close(found, (1 - 0.3) * plain)
    assert (weights > 0).all()


def test_the_second_stage_trains_the_classifier_and_follows_its_batches(tmp_path):
    method = tiny.build("cc-sam", {"second": 1})
    first, second = method.stages()
    assert (first.trainable, second.trainable) == (("backbone", "head"), ("head",))
    assert (second.learning_rate, second.schedule, second.update_norm) == (
        0.01, "constant", ("backbone",),
    )  # fmt: skip
    assert (second.samplings[0].name, second.samplings[0].draws_per_class) == ("class-balanced", 1)
    tiny.train(method, tmp_path, name="cc-sam")
    before, after = (
        ckpt.read_weights(tmp_path / "checkpoints" / f"stage-{number}-end") for number in (0, 1)
    )
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {"head.weight", "head.bias"} <= moved
    assert all("running" in n or "num_batches" in n for n in moved - {"head.weight", "head.bias"})


def test_what_shares_a_first_stage():
    kind = METHODS["cc-sam"]
    assert kind.shares_first_stage(kind.Config(second=5, limit=1.0), kind.Config())
    assert not kind.shares_first_stage(kind.Config(share=0.1), kind.Config())
    assert not kind.shares_first_stage(kind.Config(), METHODS["gcl"].Config())


def test_recipes_have_the_published_options():
    recipe = resolve("cifar100-lt/cc-sam")
    assert (recipe.training.epochs, recipe.method.second, recipe.training.batch_size) == (
        200,
        30,
        64,
    )
    assert (recipe.method.share, recipe.method.limit) == (0.5, 0.3)
    ten = resolve("cifar10-lt/cc-sam")
    assert (ten.method.share, ten.method.limit) == (0.3, 1.0)
