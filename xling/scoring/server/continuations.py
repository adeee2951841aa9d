"""Lets a model on a server write freely."""

from __future__ import annotations

import hashlib
import logging
from typing import Any

from xling.scoring.generation import cut_at
from xling.scoring.protocol import Generation
from xling.scoring.sampling import Sampling
from xling.scoring.server.capabilities import FORM_REFUSED, rich_answer
from xling.scoring.server.prompt_form import Prompt, PromptForm
from xling.scoring.server.responses import completion_tokens, first_choice
from xling.scoring.server.transport import ServerError, Transport

# No server may bring its own settings, such as llama-cpp-python's penalty on repeated words or
# those of a model's generation settings in vLLM; special tokens (think marks) are kept.
NEUTRAL: dict[str, Any] = {
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "repeat_penalty": 1.0,
    "skip_special_tokens": False,
    "spaces_between_special_tokens": False,
}
logger = logging.getLogger(__name__)


class ContinuationWriter:
    """Writes one prompt's continuation at a time; several threads may use it at once.

    Args:
        transport: to the server.
        prompt_form: how prompts are sent.
        name: of the model or adapter there.
        sampling: how tokens are drawn, and how many at most.
        owner: the server's program, where it says.
        stop: a text that ends a continuation once something else than blanks was written; empty:
            only the end-of-turn token does.
    """

    def __init__(
        self,
        transport: Transport,
        prompt_form: PromptForm,
        name: str,
        sampling: Sampling,
        *,
        owner: str,
        stop: str,
    ) -> None:
        self._transport = transport
        self._prompt_form = prompt_form
        self._seed = sampling.seed
        self._stop = stop
        self._sampled = sampling.temperature > 0
        self._request: dict[str, Any] = {
            "model": name,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "frequency_penalty": 0.0,
            "presence_penalty": 0.0,
        }
        everything = -1 if owner == "sglang" else 0  # of the likeliest tokens: all
        self._extensions = NEUTRAL | ({"top_k": everything} if self._sampled else {})

    def try_out(self, prompt: Prompt) -> None:
        """Find out whether the server takes settings that OpenAI's interface does not have."""
        request = {**self._request, "max_tokens": 1, "prompt": self._prompt_form.encode(prompt)}
        try:
            rich_answer(self._transport, request | self._extensions, request)
        except ServerError as error:
            if error.status not in FORM_REFUSED:
                raise
            logger.warning(
                "texts are written without turning off the server's own settings: %s", error
            )
            self._extensions = {}

    def write(self, job: tuple[Prompt, str]) -> Generation:
        """Return a prompt's continuation.

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
        request = {**self._request, **self._extensions, "prompt": self._prompt_form.encode(prompt)}
        if stop:
            request["stop"] = [stop]
        if self._sampled:
            request["seed"] = item_seed(self._seed, key)
        body = self._transport.post("/completions", request).body
        try:
            self._prompt_form.check(prompt, body)
            choice = first_choice(body)
        except ValueError as error:
            raise ServerError(f"server {self._transport.url}: {error}") from error
        text = str(choice.get("text") or "")
        truncated = choice.get("finish_reason") == "length"
        if truncated:
            text = text.rstrip("\N{REPLACEMENT CHARACTER}")  # a letter cut between its bytes
        else:
            text = text.removesuffix(self._prompt_form.tokenizer.eos_token or "")
        count = completion_tokens(body)
        if count is None:
            count = len(self._prompt_form.tokenizer(text, add_special_tokens=False)["input_ids"])
        return Generation(text, count, truncated)


def item_seed(seed: int, key: str) -> int:
    """Return the seed of one item's draws: 31 bits of the sha256 of seed and key."""
    digest = hashlib.sha256(f"{seed} {key}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
