"""Chat turns, written by the model's own chat template and by nothing else."""

from __future__ import annotations

import re
from datetime import date
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What templates call it: `enable_thinking` (Qwen, GLM, Gemma 4), `thinking` (DeepSeek). A
# template that knows neither ignores both.
THINKING_NAMES = ("enable_thinking", "thinking")
# Some templates (Llama 3.2, GPT-OSS) write the day on which they run. A prompt must be the same
# text on every day.
TODAY = date(2025, 1, 1)
QUESTION_PROBE = "xling-question-probe"
ANSWER_PROBE = "xling-answer-probe"


def check_chat_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that a tokenizer's chat template can put a question to the model.

    Raises:
        ValueError: there is no template, it fails, it writes no generation prompt, or it drops
            the user's or the assistant's text; names the tokenizer and the remedy.
    """
    from jinja2 import TemplateError

    name = tokenizer.name_or_path or "the model"
    remedy = "set `chat: false` on the model in the study file"
    if not tokenizer.chat_template:
        raise ValueError(f"the tokenizer of {name} has no chat template; {remedy}")
    try:
        closed = _render(tokenizer, QUESTION_PROBE, thinking=False, generation_prompt=False)
        opened = _render(tokenizer, QUESTION_PROBE, thinking=False, generation_prompt=True)
        answered = _render_answered(tokenizer, QUESTION_PROBE)
    except TemplateError as error:
        raise ValueError(
            f"the chat template of {name} fails on a user's and an assistant's turn ({error}); "
            f"{remedy}"
        ) from error
    if closed == opened:
        raise ValueError(
            f"the chat template of {name} writes no generation prompt: the text is the same with "
            "and without add_generation_prompt, so that nothing opens the model's turn; use a "
            f"tokenizer whose template writes one, or {remedy}"
        )
    for role, probe, text in [
        ("user", QUESTION_PROBE, opened),
        ("assistant", ANSWER_PROBE, answered),
    ]:
        if probe not in text:
            raise ValueError(
                f"the chat template of {name} drops the {role}'s text (it may want content of "
                f"another form, as templates for images do); {remedy}"
            )


def generation_turn(tokenizer: PreTrainedTokenizerBase, text: str, *, thinking: bool) -> str:
    """Return the user's turn and the generation prompt: what a model continues freely.

    Args:
        tokenizer: has a template that `check_chat_template` takes.
        text: of the user's turn.
        thinking: whether the model may think first, where its template knows the choice.
    """
    return _render(tokenizer, text, thinking=thinking, generation_prompt=True)


def answer_turn(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Return the user's turn, and the assistant's up to where the answer's own text begins.

    The template writes a whole assistant's turn without thinking, which is cut where its content
    begins. A generation prompt alone would be wrong for templates whose final answers stand
    after more than that: an empty think section (Qwen3), ``</think>`` (DeepSeek-V3.1), the
    final channel (GPT-OSS); or whose generation prompt opens a think section (DeepSeek-R1).

    Args:
        tokenizer: has a template that `check_chat_template` takes.
        text: of the user's turn.
    """
    rendered = _render_answered(tokenizer, text)
    return rendered[: rendered.rindex(ANSWER_PROBE)]


def generation_opening(tokenizer: PreTrainedTokenizerBase, *, thinking: bool) -> str:
    """Return what the template writes after the user's turn in `generation_turn`."""
    closed = _render(tokenizer, QUESTION_PROBE, thinking=thinking, generation_prompt=False)
    opened = generation_turn(tokenizer, QUESTION_PROBE, thinking=thinking)
    return _new_text(closed, opened)


def answer_opening(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return what the template writes after the user's turn in `answer_turn`."""
    closed = _render(tokenizer, QUESTION_PROBE, thinking=False, generation_prompt=False)
    opened = answer_turn(tokenizer, QUESTION_PROBE)
    return _new_text(closed, opened)


def _new_text(before: str, after: str) -> str:
    """Return what is left of `after` once its common beginning with `before` is gone."""
    same = next(
        (at for at, pair in enumerate(zip(before, after, strict=False)) if len(set(pair)) > 1),
        min(len(before), len(after)),
    )
    return after[same:]


def _render_answered(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    return _render(tokenizer, text, ANSWER_PROBE, thinking=False, generation_prompt=False)


def _render(
    tokenizer: PreTrainedTokenizerBase,
    question: str,
    answer: str = "",
    *,
    thinking: bool,
    generation_prompt: bool,
) -> str:
    turns = [{"role": "user", "content": question}]
    if answer:
        turns.append({"role": "assistant", "content": answer})
    rendered: str = tokenizer.apply_chat_template(
        turns,
        chat_template=_without_clock(tokenizer.get_chat_template()),
        add_generation_prompt=generation_prompt,
        tokenize=False,
        **dict.fromkeys(THINKING_NAMES, thinking),
    )
    return rendered


def _without_clock(template: str) -> str:
    """Replace each call of the clock in a template by `TODAY` in the same form."""
    return re.sub(
        r"strftime_now\(\s*(['\"])(.*?)\1\s*\)",
        lambda call: f"'{TODAY.strftime(call[2])}'",
        template,
    )
