"""The scikit-learn classifier on features."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.utils.estimator_checks import estimator_checks_generator

from longtail import ClassCounts, LongTailClassifier
from longtail.losses import logit_adjusted

CHECKS = list(estimator_checks_generator(LongTailClassifier(max_iter=30)))


@pytest.mark.parametrize("check", [check for _, check in CHECKS], ids=lambda c: c.func.__name__)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_it_passes_what_scikit_learn_asks_of_an_estimator(check):
    check(LongTailClassifier(max_iter=30))


@pytest.fixture(scope="module")
def digits():
    """Features of digits whose classes have 60, 42, ..., 3 rows in training."""
    features, labels = load_digits(return_X_y=True)
    features, taken, counts = (
        features / 16,
        [],
        np.round(60 * 20 ** (-np.arange(10) / 9)).astype(int),
    )
    for label, count in enumerate(counts):
        taken += np.flatnonzero(labels == label)[:count].tolist()
    left = np.setdiff1d(np.arange(len(labels)), taken)
    return features[taken], labels[taken], features[left], labels[left]


def test_it_is_the_minimum_of_the_logit_adjusted_loss(digits):
    few = digits[0][:, 10::8]  # seven of the pixels
    features, labels = torch.tensor(few), torch.tensor(digits[1])
    model = LongTailClassifier(tau=1.0, C=0.5, tol=1e-9).fit(few, digits[1])
    counts = ClassCounts(np.bincount(digits[1]))
    weight = torch.zeros(10, 7, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(10, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight, bias], max_iter=500, tolerance_grad=1e-7, tolerance_change=1e-15,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def loss():
        solver.zero_grad()
        losses = logit_adjusted(
            features @ weight.T + bias, labels, counts.log_prior(torch.float64), reduction="none"
        )
        total = 0.5 * losses.sum() + 0.5 * (weight**2).sum()
        total.backward()
        return total

    solver.step(loss)
    expected = (features @ weight.T + bias).softmax(1).detach().numpy()
    np.testing.assert_allclose(model.predict_proba(few), expected, atol=1e-4)


def test_without_adjustment_it_is_logistic_regression(digits):
    own = LongTailClassifier(tau=0).fit(digits[0], digits[1]).predict_proba(digits[2])
    other = LogisticRegression(max_iter=1000).fit(digits[0], digits[1]).predict_proba(digits[2])
    np.testing.assert_allclose(own, other, atol=1e-12)


def test_rare_classes_gain(digits):
    def rare(tau):
        model = LongTailClassifier(tau=tau).fit(digits[0], digits[1])
        return (model.predict(digits[2]) == digits[3])[digits[3] >= 8].mean()

    assert rare(1) > rare(0) + 0.1


def test_two_classes_by_hand():
    """Alike features: logistic regression says the shares 9/12 and 3/12, which the adjustment takes out."""
    features, labels = np.zeros((12, 1)), np.array(["common"] * 9 + ["rare"] * 3)
    for tau, expected in ((0, [0.75, 0.25]), (1, [0.5, 0.5]), (2, [0.25, 0.75])):
        model = LongTailClassifier(tau=tau).fit(features, labels)
        np.testing.assert_allclose(model.predict_proba([[0.0]])[0], expected, atol=1e-4)
    assert model.predict([[0.0]]).tolist() == ["rare"]


def test_it_works_in_cross_validation(digits):
    scores = cross_val_score(
        LongTailClassifier(), digits[2], digits[3], cv=3, scoring="balanced_accuracy"
    )
    assert scores.min() > 0.85
