"""How continuations are drawn: an item's tokens depend on the seed and its key, not its batch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Sampling:
    """How continuations are drawn, and how long they may be.

    Attributes:
        max_tokens: most tokens of one continuation.
        temperature: logits are divided by it; 0 takes the likeliest token each time.
        top_p: draws come from the likeliest tokens that together have this probability
            (nucleus sampling, Holtzman et al. 2020); 1: from all.
        seed: of the draws, with an item's key; unused at temperature 0.

    Raises:
        ValueError: names the setting that is out of range, its value and what it must be.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(
                f"chain_of_thought.max_tokens must be 1 or more (got {self.max_tokens})"
            )
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(
                f"chain_of_thought.temperature must be 0 or more (got {self.temperature})"
            )
        if not 0 < self.top_p <= 1:
            raise ValueError(f"chain_of_thought.top_p must be in (0, 1] (got {self.top_p})")


@dataclass(frozen=True)
class KeyedSampler:
    """A logits processor that leaves one token a row: the drawn one.

    Attributes:
        uniforms: shape (n, most tokens), draws in [0, 1) of each row.
        width: tokens of the padded prompts.
        sampling: temperature above 0.
    """

    uniforms: torch.Tensor
    width: int
    sampling: Sampling

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return scores of shape (n, vocabulary) in which only the drawn token is possible."""
        import torch

        draws = self.uniforms[:, input_ids.shape[1] - self.width]
        tokens = draw_tokens(
            scores, draws, temperature=self.sampling.temperature, top_p=self.sampling.top_p
        )
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens[:, None], 0.0)


def draw_tokens(
    logits: torch.Tensor, uniforms: torch.Tensor, *, temperature: float, top_p: float
) -> torch.Tensor:
    """Draw one token a row by inverting the cumulative distribution.

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


def uniform_draws(seed: int, key: str, n: int) -> npt.NDArray[np.float64]:
    """Return uniform draws in [0, 1), shape (n,), that only `seed` and `key` decide."""
    digest = hashlib.sha256(key.encode()).digest()
    return np.random.default_rng([seed, *np.frombuffer(digest, "<u4").tolist()]).random(n)
