"""The one protocol that every scoring engine follows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Scores:
    """What a model says of n prompts.

    Attributes:
        logprobs: shape (n, 4), float64; natural log of each label's probability over the
            whole vocabulary, at the position after the prompt.
        n_tokens: shape (n,), int32; tokens of each prompt, special ones included.
    """

    logprobs: npt.NDArray[np.float64]
    n_tokens: npt.NDArray[np.int32]

    @property
    def answer_mass(self) -> npt.NDArray[np.float64]:
        """Shape (n,); probability that the next token is any of the four labels, 0–1."""
        mass: npt.NDArray[np.float64] = np.exp(self.logprobs).sum(axis=1)
        return mass

    @property
    def predictions(self) -> npt.NDArray[np.int8]:
        """Shape (n,); the label of the highest log-probability, 1–4 (the lowest one in a tie)."""
        best: npt.NDArray[np.int8] = (self.logprobs.argmax(axis=1) + 1).astype(np.int8)
        return best


class Engine(Protocol):
    """Scores prompts; in this process, or on a server."""

    def score(self, prompts: Sequence[str], *, description: str = "") -> Scores:
        """Scores each prompt's four labels.

        Args:
            prompts: exact texts.
            description: what the progress bar shows; empty: no bar.

        Returns:
            Scores in the prompts' order.
        """
