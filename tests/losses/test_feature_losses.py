"""Losses on features, and vector scaling, against numbers worked out by hand or by loops."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from longtail.core import ClassCounts
from longtail.losses import (
    VectorScaling,
    balanced_softmax,
    class_temperatures,
    lifted_structured,
    range_loss,
)

FOUR = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]], dtype=torch.float64)
ALTERNATE = torch.tensor([0, 1, 0, 1])
SIX = torch.tensor([[0.0, 0], [1, 0], [0, 3], [5, 5], [5, 6], [7, 5]], dtype=torch.float64)
HALVES = torch.tensor([0, 0, 0, 1, 1, 1])


def test_the_golden_value_of_the_lifted_structured_loss():
    # each of the two positive pairs has J^2 = 4.965016
    assert float(lifted_structured(FOUR, ALTERNATE)) == pytest.approx(2.482508, abs=1e-6)


def lifted_by_loops(x, y, margin):
    distance = [[math.dist(a, b) for b in x] for a in x]
    pairs = [(i, j) for i in range(len(x)) for j in range(i + 1, len(x)) if y[i] == y[j]]
    total = 0.0
    for i, j in pairs:
        others = sum(
            math.exp(margin - distance[a][k]) for a in (i, j) for k in range(len(x)) if y[k] != y[a]
        )
        if others:
            total += max(0.0, math.log(others) + distance[i][j]) ** 2
    return total / (2 * len(pairs)) if pairs else 0.0


def range_by_loops(x, y, k, margin):
    pulled, means = 0.0, []
    for c in sorted(set(y)):
        rows = [a for a, label in zip(x, y, strict=True) if label == c]
        squares = [math.dist(a, b) ** 2 for i, a in enumerate(rows) for b in rows[:i]]
        largest = sorted(squares)[::-1][:k]
        if largest:
            pulled += len(largest) / sum(1 / (d + 1e-6) for d in largest)
        means.append([sum(v) / len(rows) for v in zip(*rows, strict=True)])
    apart = [math.dist(a, b) ** 2 for i, a in enumerate(means) for b in means[:i]]
    return pulled, max(margin - min(apart), 0.0) if apart else 0.0


@given(st.integers(0, 2**31), st.integers(1, 4), st.floats(0.1, 5))
def test_both_are_what_loops_over_pairs_find(seed, classes, margin):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(9, 3, generator=generator, dtype=torch.float64)
    y = torch.randint(classes, (9,), generator=generator)
    expected = lifted_by_loops(x.tolist(), y.tolist(), margin)
    assert float(lifted_structured(x, y, margin)) == pytest.approx(expected)
    pulled, pushed = range_by_loops(x.tolist(), y.tolist(), 2, margin)
    found = range_loss(x, y, margin=margin, intra=2.0, inter=3.0)
    assert float(found) == pytest.approx(2 * pulled + 3 * pushed)
    # moved and turned as a whole, nothing changes
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    moved = x @ turn + 7
    torch.testing.assert_close(lifted_structured(moved, y, margin), lifted_structured(x, y, margin))
    torch.testing.assert_close(range_loss(moved, y, margin=margin), range_loss(x, y, margin=margin))


def test_the_golden_values_of_the_range_loss():
    # within: 2 / (1/10 + 1/9) + 2 / (1/5 + 1/4); the means are (1/3, 1) and (17/3, 16/3)
    assert float(range_loss(SIX, HALVES, inter=0.0)) == pytest.approx(13.918129, abs=1e-4)
    found = range_loss(SIX, HALVES, intra=0.0, margin=50.0)
    assert float(found) == pytest.approx(50 - 47.222222, abs=1e-5)
    assert float(range_loss(SIX, HALVES, intra=0.0, margin=40.0)) == 0


@pytest.mark.parametrize("loss", [lifted_structured, range_loss])
def test_what_a_batch_cannot_say_costs_nothing_and_has_a_finite_gradient(loss):
    for labels in (torch.zeros(4, dtype=torch.int64), torch.arange(4), torch.tensor([0, 0, 1, 2])):
        x = torch.ones(4, 3, requires_grad=True)  # equal features
        value = loss(x, labels)
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(x.grad).all()
    one_class = lifted_structured(FOUR, torch.zeros(4, dtype=torch.int64))
    assert float(one_class) == 0
    alone = range_loss(FOUR, torch.arange(4), inter=0.0)
    assert float(alone) == 0


def test_vector_scaling_by_hand():
    counts = ClassCounts([100, 10, 1])
    torch.testing.assert_close(class_temperatures(counts, 0.5), torch.tensor([1.0, 10**0.5, 10.0]))
    z, y = torch.tensor([[2.0, 1.0, 0.0], [0.0, -1.0, 3.0]]), torch.tensor([1, 2])
    prior = torch.tensor(counts.values) / 111
    scaled = z / torch.tensor([1.0, 10**0.5, 10.0]) + 0.75 * prior.log()
    expected = F.cross_entropy(scaled, y)
    torch.testing.assert_close(VectorScaling(counts, 0.5, 0.75)(z, y), expected)


def test_vector_scaling_has_its_parts_as_special_cases():
    counts = ClassCounts([100, 10, 1])
    z, y = torch.tensor([[2.0, 1.0, 0.0], [0.0, -1.0, 3.0]]), torch.tensor([1, 2])
    torch.testing.assert_close(
        VectorScaling(counts, 0.0, 1.0)(z, y), balanced_softmax(z, y, counts)
    )
    torch.testing.assert_close(VectorScaling(counts, 0.0, 0.0)(z, y), F.cross_entropy(z, y))
