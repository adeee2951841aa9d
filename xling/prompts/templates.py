"""Prompt text, and the checks that an answer label is one unambiguous token."""

from __future__ import annotations

import hashlib
import string
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Protocol

from xling.messages.values import join_names
from xling.prompts.chat import answer_turn, check_chat_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LABELS = ("1", "2", "3", "4")
FIELDS = ("passage", "question", "answer1", "answer2", "answer3", "answer4")
ITEM_FIELDS = (
    "flores_passage",
    "question",
    "mc_answer1",
    "mc_answer2",
    "mc_answer3",
    "mc_answer4",
)
DEFAULT_TEMPLATE = (
    "{passage}\n{question}\n(1) {answer1}\n(2) {answer2}\n(3) {answer3}\n(4) {answer4}"
)
DEFAULT_ANSWER_PREFIX = "\nAnswer: ("
CLOZE_FIELDS = ("passage", "question")
DEFAULT_CLOZE_TEMPLATE = "{passage}\n{question}"
DEFAULT_CLOZE_PREFIX = "\nAnswer:"


class Question(Protocol):
    """What a prompt is made from; `xling.data.Item` is one."""

    @property
    def flores_passage(self) -> str:
        """The text that the question is about."""

    @property
    def question(self) -> str:
        """The question."""

    @property
    def answers(self) -> tuple[str, str, str, str]:
        """The four options."""


@dataclass(frozen=True)
class PromptFormat:
    """How an item becomes the exact text that a model reads.

    Attributes:
        template: text with the placeholders of `FIELDS`.
        answer_prefix: comes right before the answer label, in chat models as the start of
            the assistant's turn.
        chat: whether the text goes through the tokenizer's chat template.
        cloze_template: text with the placeholders of `CLOZE_FIELDS`, for cloze scoring.
        cloze_prefix: comes before the answer's own text in cloze scoring; that text follows
            after a space.
    """

    template: str = DEFAULT_TEMPLATE
    answer_prefix: str = DEFAULT_ANSWER_PREFIX
    chat: bool = False
    cloze_template: str = DEFAULT_CLOZE_TEMPLATE
    cloze_prefix: str = DEFAULT_CLOZE_PREFIX

    @property
    def sha256(self) -> str:
        """Hexadecimal sha256 of all attributes."""
        return hashlib.sha256(repr(astuple(self)).encode()).hexdigest()


def check_template(template: str) -> str:
    """Return `template` if it has each of `FIELDS` once and nothing else.

    Raises:
        ValueError: names the missing, repeated or unknown placeholders.
    """
    return _check_placeholders(template, FIELDS, "prompt template")


def check_cloze_template(template: str) -> str:
    """Return `template` if it has each of `CLOZE_FIELDS` once and nothing else: no options.

    Raises:
        ValueError: names the missing, repeated or unknown placeholders.
    """
    return _check_placeholders(template, CLOZE_FIELDS, "cloze template")


def _check_placeholders(template: str, fields: Sequence[str], what: str) -> str:
    try:
        parts = [part for part in string.Formatter().parse(template) if part[1] is not None]
    except ValueError as error:
        raise ValueError(f"{what} is not a format string: {error}") from error
    found = [
        name + (f"!{how}" if how else "") + (f":{form}" if form else "")
        for _, name, form, how in parts
        if name is not None
    ]
    if sorted(found) != sorted(fields):
        raise ValueError(
            f"{what} must hold each of {', '.join(f'{{{name}}}' for name in fields)} "
            f"once; it holds {join_names(f'{{{name}}}' for name in found) or 'none'}"
        )
    return template


def fill_template(item: Question, template: str) -> str:
    """Return the item's text; braces inside passages and options are kept as they are."""
    answers = {f"answer{number}": text for number, text in enumerate(item.answers, start=1)}
    return template.format(passage=item.flores_passage, question=item.question, **answers)


def render_prompts(
    items: Sequence[Question], layout: PromptFormat, tokenizer: PreTrainedTokenizerBase
) -> list[str]:
    """Return the exact prompt of each item, up to and with the answer prefix.

    Raises:
        ValueError: the layout asks for a chat template, and `check_chat_template` refuses the
            tokenizer's.
    """
    texts = [fill_template(item, layout.template) for item in items]
    return _before_answers(texts, layout.answer_prefix, layout, tokenizer)


def render_cloze_prompts(
    items: Sequence[Question], layout: PromptFormat, tokenizer: PreTrainedTokenizerBase
) -> list[str]:
    """Return the exact cloze prompt of each item, with the cloze prefix and no options.

    Raises:
        ValueError: as `render_prompts`.
    """
    texts = [
        layout.cloze_template.format(passage=item.flores_passage, question=item.question)
        for item in items
    ]
    return _before_answers(texts, layout.cloze_prefix, layout, tokenizer)


def _before_answers(
    texts: Sequence[str], prefix: str, layout: PromptFormat, tokenizer: PreTrainedTokenizerBase
) -> list[str]:
    if not layout.chat:
        return [text + prefix for text in texts]
    check_chat_template(tokenizer)
    return [answer_turn(tokenizer, text) + prefix.lstrip() for text in texts]


def prompt_sha256(prompt: str) -> str:
    """Return the hexadecimal sha256 of a prompt's UTF-8 bytes."""
    return hashlib.sha256(prompt.encode()).hexdigest()


def label_token_ids(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    *,
    labels: Sequence[str] = LABELS,
    add_special_tokens: bool,
) -> tuple[int, ...]:
    """Return each answer label's token id, after checking that the labels can be scored.

    Each label must be one token, must not merge with the prompt's end, and all must differ;
    else their log-probabilities are not those of the answers.

    Args:
        tokenizer: the model's.
        prompt: any rendered prompt; its end is what matters.
        labels: the answers' labels.
        add_special_tokens: as in scoring: True for plain prompts, False for chat prompts.

    Raises:
        ValueError: names the label, what it became, and the remedy.
    """
    before = tokenizer(prompt, add_special_tokens=add_special_tokens)["input_ids"]
    ids = []
    for label in labels:
        whole = tokenizer(prompt + label, add_special_tokens=add_special_tokens)["input_ids"]
        if whole[: len(before)] != before or len(whole) != len(before) + 1:
            tail = tokenizer.convert_ids_to_tokens(whole[-3:])
            raise ValueError(
                f"answer label {label!r} is not a single token after a prompt that ends in "
                f"{prompt[-12:]!r} (the text ends in the tokens {tail}); change "
                "`prompt.answer_prefix`: one that ends in '(' or a newline works with most models"
            )
        ids.append(int(whole[-1]))
    if len(set(ids)) != len(ids):
        raise ValueError(f"answer labels {list(labels)} share tokens: {ids}")
    return tuple(ids)
