"""The one protocol that every scoring engine follows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from xling.scoring.sampling import Sampling


@dataclass(frozen=True)
class Scores:
    """What a model says of n prompts.

    Attributes:
        logprobs: shape (n, 4), float64; natural log of each label's probability over the
            whole vocabulary, at the position after the prompt.
        n_tokens: shape (n,), int32; tokens of each prompt, special ones included.
        censored: shape (n, 4), bool; labels that a server did not list and could not be asked for:
            their log-probability is the tightest upper bound that its answer gives. None: the
            model is in this process, and none are.
        tries: shape (n,), int32; requests that a server took for each prompt; None: no server.
        unlisted: shape (n,), float64; most probability, 0–1, that what a server does not list has
            altogether, and so the censored labels; None: unknown.
    """

    logprobs: npt.NDArray[np.float64]
    n_tokens: npt.NDArray[np.int32]
    censored: npt.NDArray[np.bool_] | None = None
    tries: npt.NDArray[np.int32] | None = None
    unlisted: npt.NDArray[np.float64] | None = None

    @property
    def answer_mass(self) -> npt.NDArray[np.float64]:
        """Shape (n,); probability that the next token is any of the four labels, 0–1.

        Where a label is `censored` this is an upper bound.
        """
        shares = np.exp(self.logprobs)
        mass: npt.NDArray[np.float64] = shares.sum(axis=1)
        if self.censored is None:
            return mass
        if self.unlisted is not None:
            listed = np.where(self.censored, 0.0, shares).sum(axis=1)
            mass = np.where(
                self.censored.any(axis=1), np.minimum(mass, listed + self.unlisted), mass
            )
        return np.minimum(mass, 1.0)

    @property
    def predictions(self) -> npt.NDArray[np.int8]:
        """Shape (n,); the label of the highest log-probability, 1–4 (the lowest one in a tie)."""
        best: npt.NDArray[np.int8] = (self.logprobs.argmax(axis=1) + 1).astype(np.int8)
        return best


@dataclass(frozen=True)
class VariantScores:
    """What a model says of k variants of each of n items' prompts.

    Attributes:
        logprobs: shape (n, k, 4), float64; as in `Scores`.
        n_tokens: shape (n, k), int32; tokens of each variant's prompt, special ones included.
        censored: shape (n, k, 4); as in `Scores`.
        tries: shape (n, k); as in `Scores`.
    """

    logprobs: npt.NDArray[np.float64]
    n_tokens: npt.NDArray[np.int32]
    censored: npt.NDArray[np.bool_] | None = None
    tries: npt.NDArray[np.int32] | None = None


@dataclass(frozen=True)
class ChoiceScores:
    """What a model says of the texts of the four answers to each of n prompts.

    The answer's tokens are those that `prompt + " " + answer` has beyond the prompt's own.

    Attributes:
        total: shape (n, 4), float64; sum of the natural logs of the probabilities of the
            answer's tokens after the prompt.
        n_tokens: shape (n, 4), int32; tokens of the answer.
        n_characters: shape (n, 4), int32; Unicode characters of the answer's text, without the
            space before it.
        unconditional: shape (n, 4), float64; the same sum after a short context that says
            nothing of the question ("Answer:" in OLMES).
        prior: shape (n, 4), float64; the same sum after the beginning-of-text token alone (the
            end-of-text token where a tokenizer has no other), as lm-evaluation-harness takes it;
            NaN where a server does not say how likely a text's first token is.
        prompt_tokens: shape (n,), int32; tokens of each prompt, special ones included.
        tries: shape (n,), int32; requests that a server took for each prompt's four answers; None:
            no server.
    """

    total: npt.NDArray[np.float64]
    n_tokens: npt.NDArray[np.int32]
    n_characters: npt.NDArray[np.int32]
    unconditional: npt.NDArray[np.float64]
    prior: npt.NDArray[np.float64]
    prompt_tokens: npt.NDArray[np.int32]
    tries: npt.NDArray[np.int32] | None = None

    @property
    def per_token(self) -> npt.NDArray[np.float64]:
        """Shape (n, 4); mean log-probability of a token of the answer."""
        return self.total / self.n_tokens

    @property
    def per_char(self) -> npt.NDArray[np.float64]:
        """Shape (n, 4); log-probability per character, the space before the answer counted."""
        return self.total / (self.n_characters + 1)

    @property
    def norm(self) -> npt.NDArray[np.float64]:
        """Shape (n, 4); log-probability per character of the answer's text alone."""
        return self.total / self.n_characters

    @property
    def uncond(self) -> npt.NDArray[np.float64]:
        """Shape (n, 4); how much the question raises the answer's log-probability."""
        return self.total - self.unconditional

    @property
    def mutual_info(self) -> npt.NDArray[np.float64]:
        """Shape (n, 4); pointwise mutual information of prompt and answer, in nats."""
        return self.total - self.prior


@dataclass(frozen=True)
class Generation:
    """What a model wrote after one prompt.

    Attributes:
        text: as written, special tokens (think marks) kept; without padding, end-of-turn token
            and, where there was a stop text, without that and what came after.
        n_tokens: tokens written, the end-of-turn token not counted; of a server, as it counts.
        truncated: whether the limit was reached before an end of turn or a stop.
    """

    text: str
    n_tokens: int
    truncated: bool


class Engine(Protocol):
    """Scores prompts; in this process, or on a server."""

    @property
    def context(self) -> int | None:
        """Most tokens of a prompt and its answer together; None where nothing names a limit."""

    def score(self, prompts: Sequence[str], *, description: str = "") -> Scores:
        """Score each prompt's four labels.

        Args:
            prompts: exact texts.
            description: what the progress bar shows; empty: no bar.

        Returns:
            Scores in the prompts' order.
        """

    def score_variants(
        self, prompts: Sequence[Sequence[str]], *, description: str = ""
    ) -> VariantScores:
        """Score the four labels after each of k variants of each item's prompt.

        Args:
            prompts: exact texts; as many variants of each item.
            description: what the progress bar shows; empty: no bar.

        Returns:
            Scores in the prompts' order.
        """

    def score_choices(
        self,
        prompts: Sequence[str],
        choices: Sequence[Sequence[str]],
        *,
        unconditional_context: str = "Answer:",
        description: str = "",
    ) -> ChoiceScores:
        """Score the texts of each prompt's four answers.

        Args:
            prompts: exact texts, which show no options and end without a space.
            choices: four answers of each prompt, without a space before them.
            unconditional_context: the short context of `ChoiceScores.unconditional`.
            description: what the progress bar shows; empty: no bar.

        Returns:
            Scores in the prompts' order.
        """

    def generate(
        self,
        prompts: Sequence[str],
        keys: Sequence[str],
        sampling: Sampling,
        *,
        stop: str = "",
        description: str = "",
    ) -> Iterator[dict[str, Generation]]:
        """Continue each prompt; all arguments are checked before the first one.

        Args:
            prompts: n exact texts.
            keys: n names, each once; with the seed they decide an item's draws.
            sampling: how tokens are drawn, and how many at most.
            stop: a text that ends a continuation once something else than blanks was written;
                empty: only the end-of-turn token does.
            description: what the progress bar shows; empty: no bar.

        Returns:
            An iterator over finished continuations by key, some at a time, in any order.
        """


def number_of_variants(prompts: Sequence[Sequence[str]]) -> int:
    """Return how many variants each item's prompt has.

    Raises:
        ValueError: an item has none, or not as many as the first.
    """
    first = len(prompts[0]) if prompts else 0
    for index, variants in enumerate(prompts):
        if not variants or len(variants) != first:
            raise ValueError(
                f"item {index} has {len(variants)} variants of its prompt, item 0 has {first}; "
                "each item needs as many, and at least one"
            )
    return first
