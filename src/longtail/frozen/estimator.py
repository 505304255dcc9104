"""A scikit-learn classifier on features, balanced for a long tail.

A linear head trained with the logit-adjusted loss (Menon et al., ICLR 2021, eq. 10; balanced softmax for
tau = 1) minimises CE(W x + b + tau log pi, y). With b' = b + tau log pi this is plain logistic regression, as
long as b is not penalised, and scikit-learn's is not. So the head is scikit-learn's, and tau log pi is taken
from its intercept: the same minimum, found by a solver that is well kept.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.utils.validation import check_is_fitted, validate_data

from longtail.adjust.prior_shift import logit_adjust
from longtail.core.counts import ClassCounts


class LongTailClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Logistic regression that is right for classes that are equally frequent where it is used.

    Args:
        tau: How strongly the class frequencies of training are taken out of the scores: 0 is plain logistic
            regression, 1 is balanced softmax.
        C: Inverse of the strength of the penalty on the squared weights, as in LogisticRegression.
        max_iter: Most iterations of the solver.
        tol: Gradient at which it stops.

    Attributes:
        classes_: The C class labels, sorted.
        class_counts_: Rows of each class in training, int64 [C].
        coef_: Weights, float64 [C, D]; of two classes [1, D].
        n_iter_: Iterations that the solver took.
    """

    def __init__(
        self,
        tau: float = 1.0,
        C: float = 1.0,  # noqa: N803 - scikit-learn's name
        max_iter: int = 1000,
        tol: float = 1e-4,
    ) -> None:
        self.tau = tau
        self.C = C
        self.max_iter = max_iter
        self.tol = tol

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:  # noqa: N803 - scikit-learn's names
        """Train on features [N, D] and labels [N].

        Raises:
            ValueError: If scikit-learn refuses them, or there are fewer than two classes.
        """
        features, labels = validate_data(self, X, y)
        head = LogisticRegression(C=self.C, max_iter=self.max_iter, tol=self.tol)
        self._head = head.fit(features, labels)
        self.classes_: NDArray[Any] = self._head.classes_
        _, self.class_counts_ = np.unique(labels, return_counts=True)
        self.coef_, self.n_iter_ = self._head.coef_, self._head.n_iter_
        return self

    def _scores(self, X: ArrayLike) -> torch.Tensor:  # noqa: N803
        """Return logits that assume all classes to be equally frequent, where tau is 1, [N, C]."""
        check_is_fitted(self)
        features = validate_data(self, X, reset=False)
        scores = np.asarray(self._head.decision_function(features), dtype=np.float64)
        if scores.ndim == 1:  # of the second of two classes, against the first
            scores = np.stack([np.zeros_like(scores), scores], axis=1)
        return logit_adjust(torch.from_numpy(scores), ClassCounts(self.class_counts_), self.tau)

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:  # noqa: N803
        """Return the probability of each class for features [N, D], [N, C]."""
        return self._scores(X).softmax(1).numpy()

    def predict(self, X: ArrayLike) -> NDArray[Any]:  # noqa: N803
        """Return the most probable class for features [N, D], [N]."""
        places = self._scores(X).argmax(1).numpy()
        return np.asarray(self.classes_[places])
