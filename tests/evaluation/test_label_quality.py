"""Suspicious labels: by hand, as cleanlab finds them, the classifier as scikit-learn has it."""

import numpy as np
import pytest
from cleanlab.filter import find_label_issues
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from longtail.core.errors import DataError
from longtail.evaluation.label_quality import (
    deal_folds,
    from_probabilities,
    judge_labels,
    out_of_fold_logits,
)


def clusters(counts, seed=0, width=6, spread=0.6):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    centres = 3 * rng.normal(size=(len(counts), width))
    values = centres[labels] + spread * rng.normal(size=(len(labels), width))
    return values.astype(np.float32), labels


def test_by_hand():
    p = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.4, 0.6], [0.3, 0.7]])
    labels = np.array([0, 0, 0, 1, 1])
    # t_0 = (0.9 + 0.7 + 0.2) / 3 = 0.6, t_1 = (0.6 + 0.7) / 2 = 0.65: only row 2 is confidently the other
    found = from_probabilities(p, labels, np.ones(5, dtype=bool))
    assert found.off_diagonal.tolist() == [False, False, True, False, False]
    assert not found.suspicious.any()  # no class is ten times as probable
    assert found.margin[2] == pytest.approx(np.log(0.2 / 0.8))
    assert found.other.tolist() == [1, 1, 1, 0, 0]
    assert found.ranking().tolist() == [2, 3, 1, 4, 0]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 6))
def test_suspicious_labels_are_those_of_cleanlab(seed, classes):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, 60)])
    p = rng.dirichlet(np.full(classes, 0.4), len(labels))
    p = 0.5 * p + 0.5 * np.eye(classes)[np.where(rng.random(len(labels)) < 0.8, labels, 0)]
    theirs = find_label_issues(
        labels, p, filter_by="confident_learning", n_jobs=1, min_examples_per_class=0
    )
    found = from_probabilities(p, labels, np.ones(len(labels), dtype=bool))
    assert np.array_equal(found.off_diagonal, theirs)


def test_the_classifier_is_that_of_scikit_learn():
    """Theirs weights the covariance by the priors: those of the counts, which are taken off again."""
    values, labels = clusters([40, 25, 8])
    fold = deal_folds(labels, None, 4, 0)
    ours = out_of_fold_logits(values, labels, 3, fold, shrinkage=0.0)
    for part in range(4):
        rest = fold != part
        model = LinearDiscriminantAnalysis(solver="lsqr").fit(
            values[rest].astype(float), labels[rest]
        )
        theirs = model.decision_function(values[~rest].astype(float)) - np.log(model.priors_)
        difference = ours[~rest] - theirs
        assert np.ptp(difference, axis=1).max() < 1e-3  # equal but for a constant of the image


@given(st.lists(st.integers(0, 4), min_size=1, max_size=80), st.integers(2, 6), st.integers(0, 9))
def test_folds_are_even_and_part_nothing(labels, folds, seed):
    labels = np.array(labels)
    fold = deal_folds(labels, None, folds, seed)
    for label in np.unique(labels):
        sizes = np.bincount(fold[labels == label], minlength=folds)
        assert sizes.max() - sizes.min() <= 1
    together = np.arange(len(labels)) // 3
    fold = deal_folds(labels, together, folds, seed)
    assert all(len(set(fold[together == unit])) == 1 for unit in set(together))


def test_wrong_labels_come_first_in_rare_classes_too():
    values, truth = clusters([200, 60, 12, 8], width=8)
    labels = truth.copy()
    labels[[3, 50, 210, 262]] = [2, 3, 0, 1]  # the last is of a class of 12
    found = judge_labels(values, labels, 4)
    assert set(found.ranking()[:4].tolist()) == {3, 50, 210, 262}
    assert found.suspicious[[3, 50, 210, 262]].all()
    assert found.other[[3, 50, 210, 262]].tolist() == truth[[3, 50, 210, 262]].tolist()
    right = np.setdiff1d(np.arange(len(labels)), [3, 50, 210, 262])
    assert found.suspicious[right].mean() < 0.02
    assert found.suspicious[right][labels[right] >= 2].sum() == 0  # not for being rare


def test_relabelling_and_order_change_nothing():
    values, labels = clusters([30, 20, 10])
    units = np.arange(len(labels))
    fold = deal_folds(labels, units, 5, 0)
    new = np.array([2, 0, 1])
    logits = out_of_fold_logits(values, labels, 3, fold)
    again = out_of_fold_logits(values, new[labels], 3, fold)
    assert np.allclose(again[:, new], logits, rtol=1e-5, atol=1e-4)


def test_copies_do_not_vouch_for_each_other():
    values, labels = clusters([30, 30])
    values[1] = values[0] = values[40]  # two copies of an image of class 1, labelled 0
    apart = judge_labels(values, labels, 2, together=np.r_[0, 0, 1:59])
    assert set(apart.ranking()[:2].tolist()) == {0, 1}


def test_a_class_of_one_image_is_not_judged():
    values, labels = clusters([20, 20, 1])
    found = judge_labels(values, labels, 3)
    assert np.isnan(found.margin[-1])
    assert len(found.ranking()) == 40
    assert not found.suspicious[-1]
    with pytest.raises(DataError, match="two classes at least"):
        judge_labels(values[[0, 20, 40]], labels[[0, 20, 40]], 3)


def test_features_without_any_difference_are_no_error():
    found = judge_labels(np.ones((20, 4), np.float32), np.arange(20) % 2, 2)
    assert np.isfinite(found.margin).all()
