"""A reject threshold keeps its promise; numbers are by hand or of scipy's binomial distribution."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from longtail.uncertainty import (
    accuracy_by_coverage,
    highest_precision,
    lower_bound,
    reject_threshold,
)


def test_the_bound_is_where_the_binomial_tail_is_the_error():
    for right, size, error in ((95, 100, 0.05), (7, 12, 0.01), (59, 59, 0.05)):
        bound = lower_bound(right, size, error)
        assert stats.binom.sf(right - 1, size, bound) == pytest.approx(error, rel=1e-6)
    assert lower_bound(59, 59, 0.05) == pytest.approx(0.05 ** (1 / 59))
    assert lower_bound(0, 9, 0.05) == 0


def test_too_few_images_show_nothing_and_it_says_how_many_would():
    # .95^58 = .051, .95^59 = .0485
    found = reject_threshold(np.ones(58), np.ones(58, bool), 0.95)
    assert (found.value, found.bound, found.needed, found.images) == (None, None, 59, 58)
    found = reject_threshold(np.ones(59), np.ones(59, bool), 0.95)
    assert (found.value, found.accepted, found.right) == (-math.inf, 59, 59)
    assert found.bound == pytest.approx(0.05 ** (1 / 59))


def test_the_highest_precision_is_the_last_that_has_a_threshold():
    # nine right images in a row: .71^9 = .0458 and .72^9 = .0520, against an error of .05
    confidence, right = np.linspace(0.5, 0.9, 9), np.ones(9, bool)
    assert highest_precision(confidence, right) == 0.71
    assert reject_threshold(confidence, right, 0.71).value is not None
    assert reject_threshold(confidence, right, 0.72).value is None
    assert highest_precision(confidence, ~right) is None
    assert highest_precision(np.zeros(0), np.zeros(0, bool)) is None


def test_a_threshold_lies_where_the_wrong_ones_begin():
    confidence = np.linspace(0, 1, 1001)
    right = confidence > 0.5
    found = reject_threshold(confidence, right, 0.9)
    assert found.value is not None
    assert 0.4 < found.value < 0.5
    inside = confidence > found.value
    assert (found.accepted, found.right) == (inside.sum(), right[inside].sum())
    assert found.bound == pytest.approx(
        lower_bound(found.right, found.accepted, 0.05 / 20), rel=1e-9
    )
    assert found.bound >= 0.9
    assert reject_threshold(confidence, ~right, 0.9).value is None
    # images of equal confidence are accepted together or not at all
    assert reject_threshold(np.full(500, 0.7), np.arange(500) > 100, 0.9).value is None


@pytest.mark.parametrize(("size", "precision"), [(80, 0.8), (400, 0.9)])
def test_the_promise_is_broken_as_rarely_as_said(size, precision):
    # right with probability c at confidence c in 1/2..1; above t the precision is (1 + t) / 2
    generator = np.random.default_rng(0)
    broken, draws, made = 0, 2000, 0
    for _ in range(draws):
        confidence = generator.uniform(0.5, 1, size)
        found = reject_threshold(confidence, generator.uniform(size=size) < confidence, precision)
        made += found.value is not None
        broken += found.value is not None and (1 + max(found.value, 0.5)) / 2 < precision
    assert made > draws / 20
    assert broken <= stats.binom.ppf(0.999, draws, 0.05)


@given(
    st.lists(
        st.tuples(st.sampled_from([0.1, 0.4, 0.5, 0.9]), st.booleans()), min_size=1, max_size=60
    )
)
def test_accuracy_by_coverage_counts_what_lies_above(images):
    confidence = np.array([c for c, _ in images])
    right = np.array([r for _, r in images])
    accepted, hits = accuracy_by_coverage(confidence, right)
    levels = sorted(set(confidence.tolist()), reverse=True)
    assert accepted.tolist() == [int((confidence >= c).sum()) for c in levels]
    assert hits.tolist() == [int(right[confidence >= c].sum()) for c in levels]
