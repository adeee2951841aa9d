"""What a server can do, tried out before the first item."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from xling.prompts import LABELS, label_token_ids
from xling.scoring.server.prompt_form import Prompt, PromptForm, prompts_of
from xling.scoring.server.responses import (
    SAME,
    Listed,
    first_choice,
    identifies_labels,
    label_logprobs,
    prompt_tokens,
    read_positions,
)
from xling.scoring.server.transport import ServerError, Transport

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

QUESTION = "1 or 2?"
# Statuses with which servers refuse a request's form; llama-cpp-python says 500.
FORM_REFUSED = (400, 404, 415, 422, 500, 501)
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Capabilities:
    """How a server's labels are asked for.

    Attributes:
        prompt_form: how prompts are sent.
        extensions: whether it takes fields that OpenAI's interface has not.
        by_id: whether it gives the log-probabilities of the tokens that are asked for.
        listed: whether labels in its list of likeliest tokens are the labels' own tokens.
        echo: whether it gives the log-probabilities of a prompt's tokens.
    """

    prompt_form: PromptForm
    extensions: bool
    by_id: bool
    listed: bool
    echo: bool

    @property
    def answers(self) -> str:
        """How labels are scored, in words: ``by id``, ``top, echo``, ``top, bound``, ``echo``."""
        if self.by_id:
            return "by id"
        if not self.listed:
            return "echo"
        return "top, echo" if self.echo else "top, bound"


def next_token_body(
    name: str, form: str | list[int], top_logprobs: int, tokens: Sequence[int] | None
) -> dict[str, Any]:
    """Return a request for the log-probabilities of the next token.

    Args:
        name: of the model.
        form: the prompt, as it is sent.
        top_logprobs: likeliest tokens that are asked for.
        tokens: numbers of the tokens that are asked for as well; None: without extensions.
    """
    body: dict[str, Any] = {
        "model": name,
        "prompt": form,
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": top_logprobs,
    }
    if tokens is not None:
        # vLLM's fields; others leave them unread. Numbers tell apart tokens of the same text.
        body |= {"return_tokens_as_token_ids": True, "logprob_token_ids": list(tokens)}
    return body


def echo_body(name: str, form: str | list[int], *, extensions: bool) -> dict[str, Any]:
    """Return a request for the log-probabilities of a prompt's tokens.

    One token is written: no tokens at all mean "without a limit" to llama-cpp-python.
    """
    body: dict[str, Any] = {
        "model": name,
        "prompt": form,
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": 1,
        "echo": True,
    }
    return body | ({"return_tokens_as_token_ids": True} if extensions else {})


def find_capabilities(
    transport: Transport,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    *,
    top_logprobs: int,
    ending: str,
) -> Capabilities:
    """Try out how a server is to be asked.

    Args:
        transport: to the server.
        tokenizer: the study's, for this model.
        name: of the model or adapter.
        top_logprobs: likeliest tokens to ask for.
        ending: of the study's prompts, after which a label comes.

    Raises:
        ValueError: it refuses completions, gives no log-probabilities, has another tokenizer, or
            names tokens by texts that several have; says the remedy.
    """
    (prompt,) = prompts_of(tokenizer, [QUESTION + ending], add_special_tokens=True)
    labels = label_token_ids(tokenizer, prompt.text, add_special_tokens=True)
    # Tokens that nothing makes likely: a server that gives them gives whatever it is asked for.
    strangers = [len(tokenizer) * part // 7 for part in (2, 3, 4, 5)]
    try:
        prompt_form, extensions, body = _first_answer(
            transport, tokenizer, name, prompt, top_logprobs, [*labels, *strangers]
        )
        positions = read_positions(body)
    except (ServerError, ValueError) as error:
        raise ValueError(_named(transport, error)) from None
    if not positions or not positions[0].top:
        raise ValueError(
            f"server {transport.url} returns no log-probabilities for model {name!r}, without "
            "which options cannot be scored: vLLM and SGLang return them, llama.cpp's server and "
            "llama-cpp-python (with --logits_all true) too; hosted chat services mostly do not"
        )
    top = positions[0].top
    given = {each.token for each in top}
    by_id = extensions and given >= {*labels, *strangers}
    try:
        echo, listed = _try_echo(
            transport, prompt_form, name, prompt, labels, top, extensions=extensions
        )
    except ServerError as error:
        raise ValueError(_named(transport, error)) from None
    if not (by_id or listed or echo):
        raise ValueError(
            f"server {transport.url} names tokens by texts that several tokens have, and repeats "
            "no prompts: labels cannot be distinguished from other tokens; use vLLM, SGLang or "
            "llama.cpp"
        )
    return Capabilities(prompt_form, extensions, by_id, listed, echo)


def _first_answer(
    transport: Transport,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    prompt: Prompt,
    top_logprobs: int,
    tokens: Sequence[int],
) -> tuple[PromptForm, bool, Mapping[str, Any]]:
    """Return the richest form of a request that the server takes, and its answer.

    Raises:
        ServerError: it takes none, with its words on the plainest; or it fails.
        ValueError: its tokenizer is another.
    """

    def ask(as_tokens: bool, extensions: bool) -> tuple[PromptForm, bool, Mapping[str, Any]]:
        prompt_form = PromptForm(tokenizer, as_tokens)
        form = list(prompt.tokens) if as_tokens else _bare(tokenizer, prompt)
        request = next_token_body(name, form, top_logprobs, tokens if extensions else None)
        body = transport.post("/completions", request, patient=False).body
        first_choice(body)
        if not as_tokens:
            prompt_form = _text_form(prompt_form, prompt, body)
            if prompt_form.encode(prompt) != form:
                request["prompt"] = prompt_form.encode(prompt)
                body = transport.post("/completions", request).body
        prompt_form.check(prompt, body)
        return prompt_form, extensions, body

    refused: list[ServerError] = []
    broken: list[tuple[bool, bool]] = []
    for form in product((True, False), (True, False)):
        try:
            answer = ask(*form)
        except ServerError as error:
            if error.status not in FORM_REFUSED:
                raise
            refused.append(error)
            broken += [form] if error.status == 500 else []
            continue
        for other in broken:  # that may have been a passing failure
            try:
                return ask(*other)
            except ServerError as error:
                if error.status not in FORM_REFUSED:
                    raise
        for refusal in refused:
            logger.warning("a plainer form of request is used: %s", refusal)
        return answer
    raise refused[-1]


def _bare(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> str:
    return prompt.text.removeprefix(tokenizer.bos_token or "")


def _text_form(prompt_form: PromptForm, prompt: Prompt, body: Mapping[str, Any]) -> PromptForm:
    """Find out by the server's count whether it puts a token before a text."""
    tokenizer = prompt_form.tokenizer
    counted = prompt_tokens(body)
    begins = tokenizer.bos_token_id is not None and prompt.tokens[0] == tokenizer.bos_token_id
    own = len(prompt.tokens) - begins
    if counted is None:
        logger.warning("the server does not say how many tokens a prompt has: they go unchecked")
    adds = begins if counted is None else counted == own + 1
    return PromptForm(tokenizer, False, adds)


def _try_echo(
    transport: Transport,
    prompt_form: PromptForm,
    name: str,
    prompt: Prompt,
    labels: Sequence[int],
    top: Sequence[Listed],
    *,
    extensions: bool,
) -> tuple[bool, bool]:
    """Find out whether prompts are repeated with right log-probabilities, and labels listed.

    The likeliest label is put after the prompt: what the server then says of that position must be
    what it said of the next token. llama-cpp-python, of a model without a beginning-of-text token,
    is off by one position.

    Raises:
        ServerError: the server fails for another reason than the request's form.
    """
    listed = identifies_labels(prompt_form.tokenizer, labels, LABELS, top)
    logprobs, missing = label_logprobs(top, labels, LABELS)
    index = max(range(len(labels)), key=logprobs.__getitem__)
    whole = Prompt(prompt.text + LABELS[index], (*prompt.tokens, labels[index]))
    request = echo_body(name, prompt_form.encode(whole), extensions=extensions)
    plain = next_token_body(name, prompt_form.encode(whole), 1, None)
    try:
        body = rich_answer(transport, request, plain)
        (position,) = prompt_form.repeated(whole, body, len(whole.tokens) - 1)
    except ServerError as error:
        if error.status not in FORM_REFUSED:
            raise
        logger.warning("prompts are not repeated: %s", error)
        return False, listed
    except ValueError as error:
        logger.warning("prompts are not repeated correctly: %s", error)
        return False, listed
    if position.chosen is None or not position.chosen.is_token(labels[index], LABELS[index]):
        return False, listed
    same = not missing[index] and abs(position.chosen.logprob - logprobs[index]) <= SAME
    if not position.top:
        return same, listed
    best = max(position.top, key=lambda each: each.logprob)
    if not any(best.is_like(each) for each in top):
        return False, listed
    return True, listed and (same or missing[index])


def rich_answer(
    transport: Transport, rich: Mapping[str, Any], plain: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the answer to a request whose form the server may not know.

    An internal error may be a refusal of the form, or pass: where the plain request is answered,
    the rich one is tried once more.

    Raises:
        ServerError: its status is one of `FORM_REFUSED` if the server refuses the form.
    """
    try:
        return transport.post("/completions", rich, patient=False).body
    except ServerError as error:
        if error.status != 500:
            raise
    transport.post("/completions", plain)
    return transport.post("/completions", rich, patient=False).body


def _named(transport: Transport, error: Exception) -> str:
    text = str(error)
    if isinstance(error, ServerError) and error.status in FORM_REFUSED and "logprobs" in text:
        text += "\nIf that is about their number, lower `server.top_logprobs`"
    return text if transport.url in text else f"server {transport.url}: {text}"
