"""BCL against equation 6 by loops, and what its two branches learn from."""

import math

import pytest
import torch
import torch.nn.functional as F

from longtail.core import Batch, Position
from longtail.losses import balanced_contrastive, balanced_softmax
from tests import tiny

AT = Position(0, 0, 0, 0, 3)


def unit(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=1)


def by_loops(views, labels, centres, temperature):
    rows = [*views, *centres]
    classes = [*labels, *labels, *range(len(centres))]
    losses = []
    for i in range(len(views)):
        e = [math.exp(float(views[i] @ row) / temperature) for row in rows]
        others = [k for k in range(len(rows)) if k != i]
        total = 0.0
        for c in range(len(centres)):
            of_class = [e[k] for k in others if classes[k] == c]
            total += sum(of_class) / len(of_class)
        positives = [k for k in others if classes[k] == classes[i]]
        losses.append(-sum(math.log(e[k] / total) for k in positives) / len(positives))
    return losses


@pytest.mark.parametrize("labels", [[0, 0, 0, 1], [2, 2, 2, 2], [0, 1, 2, 0]])
def test_the_loss_is_that_of_loops(labels):
    views, centres = unit(8, 5), unit(3, 5, seed=1)
    found = balanced_contrastive(views, torch.tensor(labels), centres, 0.2)
    assert found.tolist() == pytest.approx(by_loops(views, labels, centres, 0.2))


def test_more_images_of_another_class_do_not_push_harder():
    """Class-averaging: an image that is there twice counts as often as once."""
    centres = unit(2, 5, seed=1)
    a, b = unit(1, 5, seed=2), unit(1, 5, seed=3)
    once = balanced_contrastive(torch.cat([a, b, a, b]), torch.tensor([0, 1]), centres, 0.2)[0]
    twice = balanced_contrastive(
        torch.cat([a, b, b, b, a, b, b, b]), torch.tensor([0, 1, 1, 1]), centres, 0.2
    )[0]
    # the mean over class 1 holds one centre beside two or six times the image
    s = [math.exp(float(a[0] @ row) / 0.2) for row in (b[0], centres[1])]
    own = [math.exp(float(a[0] @ row) / 0.2) for row in (a[0], centres[0])]

    def loss(number):
        total = sum(own) / 2 + (number * s[0] + s[1]) / (number + 1)
        return -sum(math.log(value / total) for value in own) / 2

    assert float(once) == pytest.approx(loss(2))
    assert float(twice) == pytest.approx(loss(6))


def test_the_branches_have_views_of_their_own():
    method = tiny.build("bcl", {"contrast": 0.0, "weight": 2.0}).eval()
    views = tuple(tiny.images(6, seed) for seed in range(3))
    labels = torch.tensor([0, 1, 2, 3, 4, 6])
    batch = Batch(views, labels, torch.arange(6))
    logits = method.predict(views[0])
    expected = 2 * balanced_softmax(logits, labels, tiny.COUNTS)
    torch.testing.assert_close(method.training_step([batch], AT).loss, expected)
    both = tiny.build("bcl", {"weight": 0.0, "contrast": 1.0}).eval()
    h = both.projection(both.backbone(torch.cat(views[1:])))
    r = both.centre_projection(both.head.weight)
    losses = balanced_contrastive(F.normalize(h), labels, F.normalize(r), 0.07)
    torch.testing.assert_close(both.training_step([batch], AT).loss, losses.mean())


def test_centres_are_those_of_the_classifier():
    method = tiny.build("bcl", {"weight": 0.0})
    views = tuple(tiny.images(6, seed) for seed in range(3))
    batch = Batch(views, torch.tensor([0, 1, 2, 3, 4, 6]), torch.arange(6))
    method.training_step([batch], AT).loss.backward()
    assert float(method.head.weight.grad.norm()) > 0  # through the centres alone
