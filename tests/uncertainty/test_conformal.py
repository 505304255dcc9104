"""Prediction sets: thresholds by hand and by MAPIE, and the coverage that they promise."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mapie.classification import SplitConformalClassifier
from scipy import stats
from sklearn.base import BaseEstimator, ClassifierMixin

from longtail.uncertainty import (
    aps_scores,
    class_thresholds,
    conformal_quantile,
    lac_scores,
    prediction_sets,
)


def drawn(generator, size, classes=4, share=None):
    """Labels, and probabilities that say something of them."""
    labels = generator.choice(classes, size, p=share)
    logits = generator.normal(size=(size, classes)) + 1.5 * np.eye(classes)[labels]
    exponential = np.exp(logits)
    return labels, exponential / exponential.sum(axis=1, keepdims=True)


def test_quantiles_by_hand():
    scores = np.array([0.5, 0.1, 0.9, 0.3, 0.7, 0.2, 0.8, 0.4, 0.6])
    assert conformal_quantile(scores, 0.1) == 0.9  # ceil(10 * .9) = 9th of 9
    assert conformal_quantile(scores, 0.2) == 0.8
    assert conformal_quantile(scores, 0.5) == 0.5
    assert conformal_quantile(scores[:8], 0.1) == math.inf  # ceil(9 * .9) = 9th of 8


def test_aps_sums_from_the_largest_down_and_ties_alike():
    found = aps_scores(np.array([[0.5, 0.1, 0.4], [0.25, 0.5, 0.25]]))
    assert found == pytest.approx(np.array([[0.5, 1.0, 0.9], [1.0, 0.5, 1.0]]))


@given(st.lists(st.integers(1, 5), min_size=2, max_size=6), st.integers(0, 99))
def test_aps_is_the_mass_of_all_that_is_as_probable(parts, seed):
    p = np.random.default_rng(seed).permutation(np.array(parts) / sum(parts))[None]
    expected = [[sum(q for q in p[0] if q >= own) for own in p[0]]]
    assert aps_scores(p) == pytest.approx(np.array(expected))


@pytest.mark.filterwarnings("ignore:WARNING. your conformalization")
def test_thresholds_are_those_of_mapie():
    labels, probabilities = drawn(np.random.default_rng(1), 300, classes=3)

    class Given(ClassifierMixin, BaseEstimator):
        classes_ = np.arange(3)
        fitted_ = True

        def fit(self, x, y):
            return self

        def predict(self, x):
            return x.argmax(axis=1)

        def predict_proba(self, x):
            return x

    for label in range(3):  # one class is a calibration of its own
        own = labels == label
        oracle = SplitConformalClassifier(
            Given(), confidence_level=0.9, conformity_score="lac", prefit=True
        )
        oracle.conformalize(probabilities[own], labels[own])
        _, sets = oracle.predict_set(probabilities)
        scores = lac_scores(probabilities)
        found = class_thresholds(
            scores[np.arange(300), labels], labels, 0.1, ("many", "many", "few")
        )
        assert found.pools == ("own",) * 3
        ours = prediction_sets(scores, np.full(3, found.values[label]))
        assert np.array_equal(ours, sets[:, :, 0])


def test_small_classes_share_a_threshold_and_say_so():
    # 1/.2 - 1 = 4 images are needed
    labels = np.repeat(np.arange(5), [4, 3, 2, 1, 2])
    scores = np.arange(12) / 20
    found = class_thresholds(scores, labels, 0.2, ("many", "medium", "medium", "few", "few"))
    assert found.pools == ("own", "medium", "medium", "all small classes", "all small classes")
    assert found.images == (4, 5, 5, 8, 8)
    # ceil(5 * .8) = 4th of the first four; ceil(6 * .8) = 5th of five; ceil(9 * .8) = 8th of eight
    assert found.values.tolist() == [0.15, 8 / 20, 8 / 20, 11 / 20, 11 / 20]
    lonely = class_thresholds(scores[:3], labels[:3], 0.2, ("a", "a"))
    assert lonely.pools == ("none", "none")
    assert prediction_sets(np.ones((1, 2)), lonely.values).all()


@pytest.mark.parametrize("kind", [lac_scores, aps_scores])
def test_each_class_is_covered_as_promised_for_any_class_prior(kind):
    generator = np.random.default_rng(2)
    alpha, missed, tested = 0.2, np.zeros(4), np.zeros(4)
    for _ in range(300):
        labels, probabilities = drawn(generator, 120, share=[0.55, 0.25, 0.13, 0.07])
        scores = kind(probabilities)[np.arange(120), labels]
        found = class_thresholds(scores, labels, alpha, ("g",) * 4)
        own = np.array([pool == "own" for pool in found.pools])
        # other shares than on val: the promise is for each class
        new, p = drawn(generator, 60, share=[0.1, 0.2, 0.3, 0.4])
        covered = prediction_sets(kind(p), found.values)[np.arange(60), new]
        for label in np.flatnonzero(own):
            missed[label] += (~covered[new == label]).sum()
            tested[label] += (new == label).sum()
    assert (tested > 500).all()
    # thresholds vary from draw to draw: an allowance on top of the binomial one
    most = stats.binom.ppf(0.9999, tested.astype(int), alpha) + 0.01 * tested
    assert (missed <= most).all()
    assert (missed >= tested * (alpha - 0.1)).all()  # and the sets are no larger than needed
