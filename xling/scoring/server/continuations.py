"""Lets a model on a server write freely."""

from __future__ import annotations

import hashlib
import logging
from typing import Any

from xling.scoring.generation import cut_at
from xling.scoring.protocol import Generation
from xling.scoring.server.capabilities import FORM_REFUSED, rich_answer
from xling.scoring.server.prompt_form import Prompt, Wire
from xling.scoring.server.responses import completion_tokens, first_choice
from xling.scoring.server.transport import ServerError, Transport

# No server may bring settings of its own, such as llama-cpp-python's penalty on repeated words or
# those of a model's generation settings in vLLM; special tokens (think marks) are kept.
NEUTRAL: dict[str, Any] = {
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "repeat_penalty": 1.0,
    "skip_special_tokens": False,
    "spaces_between_special_tokens": False,
}
logger = logging.getLogger(__name__)


class Writer:
    """Writes one prompt's continuation at a time; several threads may use it at once.

    Args:
        transport: to the server.
        wire: how prompts are sent.
        name: of the model or adapter there.
        owner: the server's program, where it says.
        max_tokens: most tokens of one continuation.
        temperature: logits are divided by it; 0 takes the likeliest token each time.
        top_p: share of the probability that is drawn from.
        seed: of the draws, with an item's key.
        stop: a text that ends a continuation once something else than blanks was written; empty:
            only the end-of-turn token does.
    """

    def __init__(
        self,
        transport: Transport,
        wire: Wire,
        name: str,
        *,
        owner: str,
        max_tokens: int,
        temperature: float,
        top_p: float,
        seed: int,
        stop: str,
    ) -> None:
        self._transport = transport
        self._wire = wire
        self._seed = seed
        self._stop = stop
        self._sampled = temperature > 0
        self._request: dict[str, Any] = {
            "model": name,
            "max_tokens": max_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "frequency_penalty": 0.0,
            "presence_penalty": 0.0,
        }
        everything = -1 if owner == "sglang" else 0  # of the likeliest tokens: all
        self._extensions = NEUTRAL | ({"top_k": everything} if self._sampled else {})

    def try_out(self, prompt: Prompt) -> None:
        """Finds out whether the server takes settings that OpenAI's interface has not."""
        request = {**self._request, "max_tokens": 1, "prompt": self._wire.form(prompt)}
        try:
            rich_answer(self._transport, request | self._extensions, request)
        except ServerError as error:
            if error.status not in FORM_REFUSED:
                raise
            logger.warning("texts are written without settings of servers' own: %s", error)
            self._extensions = {}

    def write(self, job: tuple[Prompt, str]) -> Generation:
        """A prompt's continuation.

        Args:
            job: the prompt, and the item's key.

        Raises:
            ServerError: the server fails for good, or its answer cannot be read.
        """
        prompt, key = job
        written = self._ask(prompt, key, stop=self._stop)
        if self._stop and not written.text.strip() and not written.truncated:
            # A stop before anything was written does not count; the end is found here instead.
            written = self._ask(prompt, key, stop="")
            text = cut_at(written.text, self._stop)
            if text != written.text:
                written = Generation(text, written.n_tokens, False)
        return written

    def _ask(self, prompt: Prompt, key: str, *, stop: str) -> Generation:
        request = {**self._request, **self._extensions, "prompt": self._wire.form(prompt)}
        if stop:
            request["stop"] = [stop]
        if self._sampled:
            request["seed"] = item_seed(self._seed, key)
        body = self._transport.post("/completions", request).body
        try:
            self._wire.check(prompt, body)
            choice = first_choice(body)
        except ValueError as error:
            raise ServerError(f"server {self._transport.url}: {error}") from error
        text = str(choice.get("text") or "")
        truncated = choice.get("finish_reason") == "length"
        if truncated:
            text = text.rstrip("\N{REPLACEMENT CHARACTER}")  # a letter cut between its bytes
        else:
            text = text.removesuffix(self._wire.tokenizer.eos_token or "")
        count = completion_tokens(body)
        if count is None:
            count = len(self._wire.tokenizer(text, add_special_tokens=False)["input_ids"])
        return Generation(text, count, truncated)


def item_seed(seed: int, key: str) -> int:
    """Seed of one item's draws: 31 bits of the sha256 of seed and key."""
    digest = hashlib.sha256(f"{seed} {key}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
