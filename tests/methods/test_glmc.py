"""GLMC: each term by hand, what moves from epoch to epoch, and what its streams draw."""

import math

import pytest
import torch
import torch.nn.functional as F

from longtail.core import Batch, Position
from longtail.core.rng import numpy_generator
from longtail.data.sampling.samplers import class_probability
from tests import tiny

SIZE = 6


def streams():
    for n in range(2):
        labels = torch.randint(7, (SIZE,), generator=torch.Generator().manual_seed(n))
        views = (tiny.images(SIZE, 10 * n), tiny.images(SIZE, 10 * n + 1))
        yield Batch(views, labels, torch.arange(SIZE))


def drawn(at):
    """Return lam and the box of a step, as numpy's Beta and two uniform centres give them."""
    generator = numpy_generator(at.seed, "mixing", at.stage, at.epoch, at.step)
    lam = generator.beta(1.0, 1.0)
    half = int(8 * math.sqrt(1 - lam)) // 2
    spans = []
    for _ in range(2):
        centre = generator.integers(8)
        spans.append(slice(max(0, centre - half), min(8, centre + half)))
    return lam, *spans


def soft(labels, others, lam, weights):
    rows = F.one_hot(labels, 7) * lam + F.one_hot(others, 7) * (1 - lam)
    return rows * weights


@pytest.mark.parametrize(("epoch", "alpha"), [(0, 1.0), (100, 0.75), (199, 1 - (199 / 200) ** 2)])
def test_the_loss_is_that_of_soft_labels(epoch, alpha):
    method, (batch, others) = tiny.build("glmc", {"consistency": 3.0}).eval(), tuple(streams())
    at = Position(0, 0, epoch, 2, 200)
    lam, rows, columns = drawn(at)
    mixup = lam * batch.views[0] + (1 - lam) * others.views[0]
    boxed = batch.views[1].clone()
    boxed[:, :, rows, columns] = others.views[1][:, :, rows, columns]
    raw = [n**-1.2 for n in tiny.COUNTS.values]
    weights = torch.tensor([7 * w / sum(raw) for w in raw])
    expected, h, u = 0.0, [], []
    for images in (mixup, boxed):
        f = method.backbone(images)
        for head, weight, share in (
            (method.head, torch.ones(7), alpha),
            (method.rebalanced_head, weights, 1 - alpha),
        ):
            target = soft(batch.labels, others.labels, lam, weight)
            expected += share * -(head(f).log_softmax(dim=1) * target).sum(dim=1).mean()
        h.append(method.projection(f))
        u.append(method.prediction(h[-1]))
    for one, other in ((0, 1), (1, 0)):
        expected -= 3 * F.cosine_similarity(u[one], h[other], dim=1).mean()
    torch.testing.assert_close(method.training_step((batch, others), at).loss, expected)


def test_projections_get_no_gradient_as_aims():
    """Without labels, only predictions learn directly: h is an aim and takes part through u alone."""
    method = tiny.build("glmc").eval()
    f = [torch.randn(4, 64, generator=torch.Generator().manual_seed(n)) for n in range(2)]
    h = [method.projection(x) for x in f]
    u = [method.prediction(x) for x in h]
    aims = [x.detach().clone() for x in h]
    loss = -sum(F.cosine_similarity(u[i], aims[1 - i], dim=1).mean() for i in range(2))
    expected = torch.autograd.grad(loss, method.projection.weight)[0]
    batch = Batch((f[0], f[1]), torch.zeros(4, dtype=torch.long), torch.arange(4))
    method.backbone = torch.nn.Identity()
    at = Position(0, 0, 0, 0, 3)
    # both streams alike, so both mixtures are the images; a box of 2-d "images" has no place to be
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("longtail.methods.glmc.drawn_box", lambda *_: (0, 0, 0, 0))
        patch.setattr("longtail.methods.glmc.with_box", lambda images, *_: (images, 1.0))
        out = method.training_step((batch, batch), at)
    out.loss.backward()
    torch.testing.assert_close(method.projection.weight.grad, 4 * expected, atol=1e-6, rtol=1e-4)


def test_the_first_epoch_leaves_the_predicting_classifier_alone():
    method, given = tiny.build("glmc"), tuple(streams())
    method.training_step(given, Position(0, 0, 0, 0, 3)).loss.backward()
    assert not method.rebalanced_head.weight.grad.any()
    method.training_step(given, Position(0, 0, 1, 0, 3)).loss.backward()
    assert method.rebalanced_head.weight.grad.any()


@pytest.mark.parametrize(("k", "power"), [(0.0, 1.0), (0.2, 0.8), (1.0, 0.0)])
def test_partners_are_drawn_by_their_class(k, power):
    usual, partners = tiny.build("glmc", {"resampling": k}).stages()[0].samplings
    assert usual.name == "instance"
    raw = [n**power for n in tiny.COUNTS.values]
    expected = [value / sum(raw) for value in raw]
    assert class_probability(partners, tiny.COUNTS).tolist() == pytest.approx(expected)


def test_what_the_predicting_classifier_assumes():
    at = Position(0, 0, 2, 0, 3)
    raw = [n**-0.2 for n in tiny.COUNTS.values]  # n of the labels times n^-1.2
    expected = [value / sum(raw) for value in raw]
    assert tiny.build("glmc").assumed_prior(at).tolist() == pytest.approx(expected)
    assert tiny.build("glmc", {"resampling": 0.2}).assumed_prior(at) is None
