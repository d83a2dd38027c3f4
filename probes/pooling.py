"""Attention pooling with queries in input space (Efficient Probing, arXiv 2506.10178)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


class AttentivePooling(nn.Module):
    """Tokens to logits: every query pools its own segment of the values."""

    def __init__(self, d: int, queries: int, classes: int, generator: torch.Generator) -> None:
        super().__init__()
        width = max(1, d // queries)
        self.queries = nn.Parameter(0.02 * torch.randn(queries, d, generator=generator))
        self.values = nn.Parameter(torch.randn(queries, d, width, generator=generator) * d**-0.5)
        # No momentum: its statistics are taken once, of the whole training set, by `settle`.
        self.norm = nn.BatchNorm1d(queries * width, eps=1e-6, affine=False, momentum=None)
        self.weight = nn.Parameter(torch.zeros(classes, queries * width))
        self.bias = nn.Parameter(torch.zeros(classes))

    def attention(
        self, tokens: Float[Tensor, "sample token d"], present: Bool[Tensor, "sample token"]
    ) -> Float[Tensor, "sample query token"]:
        """How much each query takes of each token; 0 of those absent."""
        scores = torch.einsum("qd,std->sqt", self.queries, tokens) * tokens.shape[-1] ** -0.5
        return scores.masked_fill(~present[:, None], -torch.inf).softmax(-1)

    def pooled(
        self, tokens: Float[Tensor, "sample token d"], present: Bool[Tensor, "sample token"]
    ) -> Float[Tensor, "sample value"]:
        """The queries' segments side by side, before the norm."""
        looked = self.attention(tokens, present) @ tokens
        return torch.einsum("sqd,qdw->sqw", looked, self.values).flatten(1)

    def forward(
        self, tokens: Float[Tensor, "sample token d"], present: Bool[Tensor, "sample token"]
    ) -> Float[Tensor, "sample class"]:
        """Logits."""
        return self.norm(self.pooled(tokens, present)) @ self.weight.T + self.bias

    @torch.no_grad()
    def settle(self, tokens: Float[Tensor, "sample token d"], present: Bool[Tensor, "sample token"]) -> None:
        """Takes the norm's statistics of these samples, for use in eval mode."""
        self.norm.reset_running_stats()
        self.norm.train()(self.pooled(tokens, present))
