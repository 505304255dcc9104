"""BALMS: rates at first, what is drawn, the tried step and its gradient by autograd, Adam by torch."""

import pytest
import torch
import torch.nn.functional as F

from longtail.core import Batch, ClassCounts, Position, StepOutput
from longtail.methods.balms import draw, first_rates, tried_step
from tests import tiny

SECOND = Position(0, 1, 0, 0, 3)


def test_rates_at_first():
    counts = ClassCounts([100, 10, 1])
    torch.testing.assert_close(first_rates(counts, 0.0).sigmoid(), torch.full((3,), 0.5))
    expected = torch.tensor([0.01, 0.1, 1.0]) / 1.01
    torch.testing.assert_close(first_rates(counts, 1.0).sigmoid(), expected)


def test_classes_are_drawn_by_their_rates_and_their_images():
    torch.manual_seed(0)
    labels = torch.cat([torch.zeros(600), torch.ones(300), torch.full((100,), 2.0)]).long()
    psi = torch.tensor([0.1, 0.4, 0.9]).logit()
    drawn = torch.cat([labels[draw(labels, psi)[0]] for _ in range(10)])
    expected = torch.tensor([600 * 0.1, 300 * 0.4, 100 * 0.9])
    shares = torch.bincount(drawn, minlength=3) / len(drawn)
    torch.testing.assert_close(shares, expected / expected.sum(), atol=0.015, rtol=0)
    chosen, _ = draw(labels, torch.tensor([-100.0, 100.0, -100.0]))
    assert set(labels[chosen].tolist()) == {1}


def test_what_is_drawn_counts_once_and_pulls_at_the_rates():
    """The gradient of a softmax over candidates: the own class up, all others down."""
    torch.manual_seed(1)
    labels, psi = (
        torch.tensor([0, 0, 1, 2, 2, 2]),
        torch.tensor([0.3, -0.2, 0.1], requires_grad=True),
    )
    chosen, s = draw(labels, psi)
    assert torch.equal(s, torch.ones(6))
    torch.manual_seed(1)
    uniform = torch.rand(6, 6)
    soft = (psi.sigmoid().log()[labels] - (-uniform.log()).log()).softmax(dim=1)
    assert torch.equal(chosen, soft.argmax(dim=1))
    (own,) = torch.autograd.grad(s.sum(), psi)
    (expected,) = torch.autograd.grad(soft.gather(1, chosen[:, None]).sum(), psi)
    torch.testing.assert_close(own, expected)


def test_the_tried_step_is_that_of_autograd_and_so_is_its_gradient():
    generator = torch.Generator().manual_seed(0)
    x, held = (torch.randn(5, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    rows = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    bias = torch.randn(3, generator=generator, dtype=torch.float64)
    y, of_held = torch.tensor([0, 2, 1, 1, 0]), torch.tensor([2, 1, 0, 2, 1])
    log_n = torch.tensor([100.0, 10.0, 1.0], dtype=torch.float64).log()
    s = torch.rand(5, generator=generator, dtype=torch.float64).requires_grad_()

    def meta(weights):
        return F.cross_entropy(F.linear(held, *weights), of_held)

    tried = tried_step(x, y, F.linear(x, rows, bias) + log_n, s, (rows, bias), 0.3)
    own = [weight.clone().requires_grad_() for weight in (rows, bias)]
    inner = (s * F.cross_entropy(F.linear(x, *own) + log_n, y, reduction="none")).mean()
    slopes = torch.autograd.grad(inner, own, create_graph=True)
    expected = [weight - 0.3 * slope for weight, slope in zip(own, slopes, strict=True)]
    for one, other in zip(tried, expected, strict=True):
        torch.testing.assert_close(one, other)
    gradients = [torch.autograd.grad(meta(weights), s)[0] for weights in (tried, expected)]
    torch.testing.assert_close(*gradients)


def test_rates_follow_adam():
    method = tiny.build("balms")
    free = method.rates.psi.clone().requires_grad_()
    adam = torch.optim.Adam([free], lr=0.01)
    generator = torch.Generator().manual_seed(3)
    for _ in range(4):
        free.grad = torch.randn(7, generator=generator)
        adam.step()
        out = StepOutput(torch.zeros(()), carry={"gradient": free.grad[None]})
        method.after_step(out, SECOND)
    torch.testing.assert_close(method.rates.psi, free.detach())


def test_a_step_is_balanced_softmax_of_what_was_drawn():
    method = tiny.build("balms").eval()
    images, labels = tiny.images(6), torch.tensor([1, 0, 6, 4, 1, 2])
    batch = Batch((images,), labels, torch.arange(6))
    torch.manual_seed(5)
    out = method.training_step([batch, batch], SECOND)
    torch.manual_seed(5)
    chosen, _ = draw(labels, method.rates.psi)
    logits = method.predict(images)[chosen] + torch.tensor(tiny.COUNTS.values).log()
    torch.testing.assert_close(out.loss, F.cross_entropy(logits, labels[chosen]))
    assert out.carry["gradient"].shape == (1, 7)
    assert bool(out.carry["gradient"].any())
    out.loss.backward()
    assert all(p.grad is None for p in method.backbone.parameters())


def test_a_class_that_the_balanced_set_needs_is_drawn_more_often():
    """A frequent class has nothing to learn after log n, a rare one has; features tell them apart."""
    torch.manual_seed(0)
    labels, psi = torch.tensor([0, 1]).repeat(8), torch.zeros(2, requires_grad=True)
    log_n = torch.tensor([1000.0, 1.0]).log()
    chosen, s = draw(labels, psi)
    x, y = F.one_hot(labels, 2).float()[chosen], labels[chosen]
    weights = torch.zeros(2, 2), torch.zeros(2)
    tried = tried_step(x, y, log_n.expand(16, 2), s, weights, 0.1)
    meta = F.cross_entropy(F.linear(torch.eye(2), *tried), torch.arange(2))
    (gradient,) = torch.autograd.grad(meta, psi)
    assert gradient[1] < 0 < gradient[0]


def test_the_figure_shows_the_learned_rates(tmp_path):
    method = tiny.build("balms", {"second": 3, "meta_rate": 0.5})
    tiny.train(method, tmp_path, name="balms")
    drawn = torch.tensor(tiny.COUNTS.values) * method.rates.psi.sigmoid()
    assert not torch.equal(method.rates.psi, torch.zeros(7))
    (figure,) = method.figures([], [])
    order = list(tiny.COUNTS.ranking())
    shares = (drawn / drawn.sum())[order].tolist()
    assert figure.series["drawn by the learned rates"] == pytest.approx(shares, abs=1e-6)
    assert figure.series["in the training set"][0] == pytest.approx(30 / 77)


def test_before_the_second_stage_nothing_is_drawn():
    method = tiny.build("balms")
    assert not method.figures([], [])
    method.after_step(StepOutput(torch.zeros(())), Position(0, 0, 0, 0, 3))
    assert not bool(method.rates.updates)
