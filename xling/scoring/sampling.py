"""Draws of tokens that a seed and an item's key decide, whatever shares the item's batch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class KeyedSampler:
    """A logits processor that leaves one token a row: the drawn one.

    Attributes:
        uniforms: shape (n, most tokens), draws in [0, 1) of each row.
        width: tokens of the padded prompts.
        temperature: as in `draw_tokens`.
        top_p: as in `draw_tokens`.
    """

    uniforms: torch.Tensor
    width: int
    temperature: float
    top_p: float

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores of shape (n, vocabulary) in which only the drawn token is possible."""
        import torch

        draws = self.uniforms[:, input_ids.shape[1] - self.width]
        tokens = draw_tokens(scores, draws, temperature=self.temperature, top_p=self.top_p)
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens[:, None], 0.0)


def draw_tokens(
    logits: torch.Tensor, uniforms: torch.Tensor, *, temperature: float, top_p: float
) -> torch.Tensor:
    """Draws one token a row by inverting the cumulative distribution.

    Args:
        logits: shape (n, vocabulary).
        uniforms: shape (n,), each in [0, 1).
        temperature: above 0.
        top_p: in (0, 1]; the fewest likeliest tokens that reach it are kept.

    Returns:
        Shape (n,), token ids.
    """
    import torch

    probabilities = (logits.double() / temperature).softmax(dim=-1)
    if top_p < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
        ordered = ordered.masked_fill(ordered.cumsum(dim=-1) - ordered >= top_p, 0)
        probabilities = ordered.new_zeros(ordered.shape).scatter_(1, order, ordered)
    # In the vocabulary's order: a small change of logits moves the limits a little and no more.
    limits = probabilities.cumsum(dim=-1)
    drawn = torch.searchsorted(limits, uniforms[:, None] * limits[:, -1:], right=True)
    return drawn.squeeze(1).clamp(max=logits.shape[1] - 1)


def uniform_draws(seed: int, key: str, n: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Uniform draws in [0, 1), shape (n,), that only `seed` and `key` decide."""
    digest = hashlib.sha256(key.encode()).digest()
    return np.random.default_rng([seed, *np.frombuffer(digest, "<u4").tolist()]).random(n)
