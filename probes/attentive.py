"""Attentive probes: a few learned queries choose among the tokens of a sample before a linear classifier reads them.

Efficient probing (arXiv 2506.10178): queries stand directly in input space, without a key projection,

    a_m = softmax(X u_m / sqrt(d)),   y_m = a_m^T (X W_V)[segment m],   logits = W BN(concat_m y_m) + b,

which is multi-head attention pooling with W_K absorbed into the query. Departures, for hundreds of samples rather than a
million: AdamW with weight decay and a cosine schedule instead of LARS at batch 4096; 12 queries, one of the paper's
ablations, instead of 32; entries are standardised over the training tokens, since those of language models differ in
size far more than those of image encoders; statistics of BN are those of all training samples at the end.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags, assert_all_finite
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d, validate_data
from torch import Tensor
from torch.nn.functional import cross_entropy

from headscope.errors import UsageError
from probes.pooling import AttentivePooling


class AttentiveProbe(ClassifierMixin, BaseEstimator):
    """Queries that learn where to look, and a linear classifier; a scikit-learn estimator.

    X is [sample token d], NaN in all of d where a sample has no such token (`Features` with position="all" are made so);
    [sample d] counts as one token each. Costs epochs x samples x tokens x queries x d operations, and a second copy of X:
    6 s of one core for 400 samples of 64 tokens at d = 256.
    """

    def __init__(
        self,
        *,
        queries: int = 12,
        epochs: int = 150,
        learning_rate: float = 0.01,
        weight_decay: float = 0.05,
        batch_size: int = 128,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.queries = queries
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.seed = seed
        self.device = device

    def fit(self, X: Any, y: Any) -> "AttentiveProbe":
        """The probe, trained on X and a class for each sample; the same seed, the same probe on the same machine."""
        if min(self.queries, self.epochs) < 1 or self.batch_size < 2:
            raise UsageError(
                f"queries={self.queries}, epochs={self.epochs}, batch_size={self.batch_size}: give at least 1 query and "
                "epoch, and batches of at least 2"
            )
        if y is None:
            raise UsageError("requires y to be passed, but the target y is None; give a class for each sample")
        tokens = self._tokens(X, reset=True)
        y = column_or_1d(y, warn=True)
        check_consistent_length(tokens, y)
        assert_all_finite(y, input_name="y")
        check_classification_targets(y)
        self.classes_, target = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2 or len(y) < 2:
            raise UsageError(f"{len(y)} samples of {len(self.classes_)} class; a probe needs at least two classes")
        flat = tokens[~np.isnan(tokens).any(-1)]
        self.mean_, scale = flat.mean(0), flat.std(0)
        self.scale_ = np.where(scale == 0, 1, scale)
        self.pooling_ = self._trained(*self._prepared(tokens), torch.from_numpy(target).to(self.device))
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probability of each class [sample class]."""
        tokens, present = self._given(X)
        with torch.no_grad():
            return self.pooling_(tokens, present).softmax(-1).double().cpu().numpy()

    def predict(self, X: Any) -> np.ndarray:
        """The likeliest class."""
        likeliest = self.predict_proba(X).argmax(1)
        return self.classes_[likeliest]

    def attention(self, X: Any) -> Float[Tensor, "sample query token"]:
        """Where each query looks; rows sum to one, and absent tokens get 0."""
        tokens, present = self._given(X)
        with torch.no_grad():
            return self.pooling_.attention(tokens, present).cpu()

    def _given(self, X: Any) -> tuple[Float[Tensor, "sample token d"], Bool[Tensor, "sample token"]]:
        check_is_fitted(self)
        return self._prepared(self._tokens(X, reset=False))

    def _tokens(self, X: Any, *, reset: bool) -> Float[np.ndarray, "sample token d"]:
        if getattr(X, "ndim", 2) != 3:
            return validate_data(self, X, reset=reset, dtype=np.float64)[:, None]
        X = np.asarray(X, dtype=np.float64)
        validate_data(self, X.reshape(-1, X.shape[-1]), reset=reset, ensure_all_finite="allow-nan")
        absent = np.isnan(X)
        if (absent.any(-1) != absent.all(-1)).any():
            raise UsageError("some tokens are NaN in part of their entries; a token is absent (all NaN) or complete")
        if absent.all((1, 2)).any():
            raise UsageError(f"sample {int(absent.all((1, 2)).argmax())} has no token; leave it out")
        return X

    def _prepared(
        self, tokens: Float[np.ndarray, "sample token d"]
    ) -> tuple[Float[Tensor, "sample token d"], Bool[Tensor, "sample token"]]:
        present = ~np.isnan(tokens).any(-1)
        scaled = np.where(present[..., None], (tokens - self.mean_) / self.scale_, 0)
        return torch.from_numpy(scaled).float().to(self.device), torch.from_numpy(present).to(self.device)

    def _trained(self, tokens: Tensor, present: Tensor, target: Tensor) -> AttentivePooling:
        generator = torch.Generator().manual_seed(self.seed)
        pooling = AttentivePooling(tokens.shape[-1], self.queries, len(self.classes_), generator).to(self.device)
        optimiser = torch.optim.AdamW(
            pooling.parameters(), self.learning_rate, weight_decay=self.weight_decay, foreach=False
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.epochs)
        parts = -(-len(target) // self.batch_size)
        for _ in range(self.epochs):
            # Parts of equal size: a batch of one sample would have no variance to normalise by.
            for batch in torch.randperm(len(target), generator=generator).to(self.device).tensor_split(parts):
                optimiser.zero_grad()
                cross_entropy(pooling(tokens[batch], present[batch]), target[batch]).backward()
                optimiser.step()
            schedule.step()
        pooling.settle(tokens, present)
        return pooling.eval()

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags
