"""Linear probes: what a weighted sum of an activation's entries tells.

Activations are standardised inside, entry by entry, so that the few entries of very large size that language models have
do not decide alone. `direction` is given in the activation's own units again.
"""

from typing import Any

import numpy as np
from jaxtyping import Float
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from probes.directions import directions, row_of, spreads


class LinearProbe(ClassifierMixin, BaseEstimator):
    """Logistic regression on standardised activations, for classes; a scikit-learn estimator.

    `C` is the inverse strength of the L2 penalty. Fitted without randomness. A fit of 400 samples takes about 10 ms of
    one core at d = 128, 15 at 1024 and 50 at 4096.
    """

    def __init__(self, *, C: float = 1.0, max_iter: int = 1000) -> None:
        self.C = C
        self.max_iter = max_iter

    def fit(self, X: Any, y: Any) -> "LinearProbe":
        """The probe, fitted to X [sample d] and a class for each sample."""
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        steps = make_pipeline(StandardScaler(), LogisticRegression(C=self.C, max_iter=self.max_iter)).fit(X, y)
        self.pipeline_ = steps
        self.classes_ = steps[-1].classes_
        self.n_iter_ = steps[-1].n_iter_
        self.coef_ = steps[-1].coef_ / steps[0].scale_
        self.intercept_ = steps[-1].intercept_ - self.coef_ @ steps[0].mean_
        self.spreads_ = spreads(X, self.coef_)
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Logits: of the second class for two, else one a class."""
        X = self._checked(X)
        return self.pipeline_.decision_function(X)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probability of each class [sample class]."""
        X = self._checked(X)
        return self.pipeline_.predict_proba(X)

    def predict(self, X: Any) -> np.ndarray:
        """The likeliest class."""
        X = self._checked(X)
        return self.pipeline_.predict(X)

    def direction(self, label: Any = None) -> Float[Tensor, " d"]:
        """Where the logit of a class grows fastest; of two classes the second, if none is named.

        As long as the standard deviation of the fitted activations along it. UsageError for a class that is not known,
        and for none of more than two.
        """
        check_is_fitted(self)
        row, sign = row_of(label, self.classes_)
        return sign * directions(self.coef_, self.spreads_)[row]

    def _checked(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        return validate_data(self, X, reset=False, dtype=np.float64)


class RidgeProbe(RegressorMixin, BaseEstimator):
    """Ridge regression on standardised activations, for numbers; a scikit-learn estimator.

    `alpha` is the strength of the L2 penalty. Fitted without randomness.
    """

    def __init__(self, *, alpha: float = 1.0) -> None:
        self.alpha = alpha

    def fit(self, X: Any, y: Any) -> "RidgeProbe":
        """The probe, fitted to X [sample d] and a number for each sample."""
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        steps = make_pipeline(StandardScaler(), Ridge(alpha=self.alpha)).fit(X, y)
        self.pipeline_ = steps
        self.coef_ = steps[-1].coef_ / steps[0].scale_
        self.intercept_ = steps[-1].intercept_ - self.coef_ @ steps[0].mean_
        self.spreads_ = spreads(X, self.coef_[None])
        return self

    def predict(self, X: Any) -> np.ndarray:
        """A number for each sample."""
        check_is_fitted(self)
        return self.pipeline_.predict(validate_data(self, X, reset=False, dtype=np.float64))

    def direction(self) -> Float[Tensor, " d"]:
        """Where the number grows fastest, as long as the standard deviation of the fitted activations along it."""
        check_is_fitted(self)
        return directions(self.coef_[None], self.spreads_)[0]
