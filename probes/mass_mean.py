"""Mass-mean probes: the difference of class means as a direction (Marks & Tegmark 2023, arXiv 2310.06824).

There is nothing to fit but means, and with covariance="pooled" the covariance within classes (their p_mm^iid), so such a
probe is hard to overfit; its direction often steers better than that of logistic regression. For two classes the logit is
theta^T Sigma^-1 (x - m), theta the difference of the means and m the point between them (the paper centres its data
instead). More than two classes, which the paper does not have, are told apart by the same distances to each mean.
"""

from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float
from scipy.linalg import pinvh
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.covariance import ledoit_wolf
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from headscope.errors import UsageError
from probes.directions import directions, row_of, spreads

Covariance = Literal["none", "pooled", "shrunk"]


class MassMeanProbe(ClassifierMixin, BaseEstimator):
    """Nearest class mean; a scikit-learn estimator.

    `covariance` is that within classes: "none" measures plain distances, "pooled" divides by it (by its pseudo-inverse,
    which is unreliable where samples are about as many as dimensions), "shrunk" by Ledoit and Wolf's estimate, which is
    not. The probabilities of "none" depend on the units of the activations. Costs d^3 with a covariance.
    """

    def __init__(self, *, covariance: Covariance = "none") -> None:
        self.covariance = covariance

    def fit(self, X: Any, y: Any) -> "MassMeanProbe":
        """The probe, fitted to X [sample d] and a class for each sample."""
        if self.covariance not in get_args(Covariance):
            raise UsageError(
                f"covariance {self.covariance!r} is not known; use one of {', '.join(get_args(Covariance))}"
            )
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_, place = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise UsageError(f"all samples are of one class, {self.classes_[0]}; a probe needs at least two classes")
        self.means_ = np.stack([X[place == i].mean(0) for i in range(len(self.classes_))])
        self.precision_ = _precision(X - self.means_[place], self.covariance)
        self.spreads_ = spreads(X, self._differences())
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probability of each class [sample class]."""
        return softmax(self._nearness(X), axis=1)

    def predict(self, X: Any) -> np.ndarray:
        """The class of the nearest mean."""
        nearest = self._nearness(X).argmax(1)
        return self.classes_[nearest]

    def direction(self, label: Any = None) -> Float[Tensor, " d"]:
        """From the other classes' mean to that of a class; of two classes the second, if none is named.

        The plain difference of means, whatever the covariance, as long as the standard deviation of the fitted
        activations along it. UsageError as for `LinearProbe.direction`.
        """
        check_is_fitted(self)
        row, sign = row_of(label, self.classes_)
        return sign * directions(self._differences(), self.spreads_)[row]

    def _differences(self) -> Float[np.ndarray, "row d"]:
        if len(self.means_) == 2:
            return self.means_[1:] - self.means_[:1]
        others = (self.means_.sum(0) - self.means_) / (len(self.means_) - 1)
        return self.means_ - others

    def _nearness(self, X: Any) -> Float[np.ndarray, "sample class"]:
        """Minus half the squared distance to each mean, up to a number that all classes share."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=np.float64)
        weights = self.means_ if self.precision_ is None else self.means_ @ self.precision_
        return X @ weights.T - (weights * self.means_).sum(1) / 2


def _precision(within: Float[np.ndarray, "sample d"], covariance: Covariance) -> Float[np.ndarray, "d d"] | None:
    if covariance == "none":
        return None
    if covariance == "pooled":
        return pinvh(within.T @ within / len(within), rtol=1e-6)
    return pinvh(ledoit_wolf(within, assume_centered=True)[0])
