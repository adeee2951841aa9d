"""How a prompt is sent: as token numbers, or as text that becomes just those tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xling.scoring.server.responses import Position, echoed, prompt_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Prompt:
    """A prompt with the tokens that a model in this process would read.

    Attributes:
        text: the whole text, with or without the special token at its beginning.
        tokens: special ones included.
    """

    text: str
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class PromptForm:
    """How one server takes prompts.

    Attributes:
        tokenizer: the model's.
        as_tokens: whether it takes token numbers.
        adds_first: whether it puts a beginning-of-text token before a text.
    """

    tokenizer: PreTrainedTokenizerBase
    as_tokens: bool
    adds_first: bool = False

    def encode(self, prompt: Prompt) -> str | list[int]:
        """Return what is sent.

        Raises:
            ValueError: the server puts a beginning-of-text token before every text, and this
                prompt has none.
        """
        if self.as_tokens:
            return list(prompt.tokens)
        first, bare = self._first_special(prompt)
        if not self.adds_first:
            return first + bare
        if first != (self.tokenizer.bos_token or ""):
            raise ValueError(
                "the server puts a beginning-of-text token before every text, and this model's "
                "prompts have none; use a server that takes token numbers (vLLM, SGLang, "
                "llama.cpp's llama-server)"
            )
        return bare

    def check(self, prompt: Prompt, body: Mapping[str, Any]) -> None:
        """Compare the server's count of the prompt's tokens with ours.

        Raises:
            ValueError: they differ.
        """
        counted = prompt_tokens(body)
        if counted is not None and counted != len(prompt.tokens):
            raise ValueError(
                f"the server counted {counted} tokens in a prompt that has {len(prompt.tokens)} "
                f"for the study's tokenizer ({prompt.text[:60]!r}…): it serves another model, has "
                "another tokenizer, or cuts prompts; serve the study's model with its whole context"
            )

    def repeated(self, prompt: Prompt, body: Mapping[str, Any], start: int) -> list[Position]:
        """Return positions of a repeated prompt's tokens from `start` on, which must be its own.

        Raises:
            ValueError: the answer has other tokens, or lacks their log-probabilities.
        """
        self.check(prompt, body)
        positions = echoed(body, len(prompt.tokens))[start:]
        for token, position in zip(prompt.tokens[start:], positions, strict=True):
            found = position.chosen
            if found is None:
                continue
            sent = self.tokenizer.decode([token]).strip()
            if found.token is not None:
                same = found.token == token
            else:
                text = found.text if found.raw is None else found.raw.decode(errors="replace")
                # Other texts have several spellings: spaces, parts of letters, special tokens.
                same = text is None or not (sent.isascii() and sent.isalnum()) or sent in text
            if not same:
                raise ValueError(
                    f"the answer repeats {found.text or found.raw or found.token!r} where the "
                    f"prompt has {sent!r}"
                )
        return positions

    def _first_special(self, prompt: Prompt) -> tuple[str, str]:
        """Return the special token that a prompt begins with, as text, and the text after it."""
        tokenizer = self.tokenizer
        for token, text in (
            (tokenizer.bos_token_id, tokenizer.bos_token),
            (tokenizer.eos_token_id, tokenizer.eos_token),
        ):
            if token is not None and prompt.tokens[:1] == (token,):
                return text, prompt.text.removeprefix(text)
        return "", prompt.text


def prompts_of(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, add_special_tokens: bool
) -> list[Prompt]:
    """Return texts with their tokens."""
    if not texts:
        return []
    rows = tokenizer(list(texts), add_special_tokens=add_special_tokens)["input_ids"]
    return [Prompt(text, tuple(row)) for text, row in zip(texts, rows, strict=True)]
