"""Chain-of-thought: prompts that ask for it, prompts that answer after it, and a file of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from xling.prompts import PromptFormat, Question, fill_template
from xling.prompts.chat import (
    answer_opening,
    check_chat_template,
    generation_opening,
    generation_turn,
)
from xling.scoring.protocol import Generation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What opens and closes thinking: Qwen, DeepSeek, GLM, Nemotron; Gemma 4; Seed-OSS; Magistral.
THINK_MARKS = (
    ("<think>", "</think>"),
    ("<|channel>thought", "<channel|>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
)
AFTER_THINKING = "\n\n"
# OpenAI's harmony format (GPT-OSS): thinking is a separate message, before the final one.
HARMONY_FINAL = "<|channel|>final<|message|>"
HARMONY_NEXT = "<|end|><|start|>assistant"
# The end of a message, then a next one of which the limit left only the header's beginning.
HARMONY_RAGGED_END = re.compile(
    r"(<\|end\|>|<\|return\|>)?\s*(<\|start\|>\w*)?(<\|channel\|>[^<]*)?$"
)


def stop_text(layout: PromptFormat) -> str:
    """Return the text that ends a reasoning; empty: the end of turn does.

    A plain model has no turns: after a paragraph it goes on to invent the next question. Its
    reasoning is its first paragraph, which ends at a blank line.
    """
    return "" if layout.chat else "\n\n"


def reasoning_prompts(
    items: Sequence[Question],
    layout: PromptFormat,
    tokenizer: PreTrainedTokenizerBase,
    *,
    instruction: str,
) -> list[str]:
    """Return the exact text that a model continues with its reasoning, for each item.

    Args:
        items: n items.
        layout: how items are put to the model.
        tokenizer: the model's.
        instruction: asks for reasoning; after the item's text.

    Returns:
        n prompts: of plain models the item and the instruction on its own line; of chat
        models the user's turn and the generation prompt, with thinking on where the template
        knows the choice.

    Raises:
        ValueError: the instruction is blank, or `check_chat_template` refuses the tokenizer's.
    """
    if not instruction.strip():
        raise ValueError("chain_of_thought.instruction is blank; say that the model should reason")
    texts = [fill_template(item, layout.template) for item in items]
    if not layout.chat:
        return [f"{text}\n{instruction}\n" for text in texts]
    check_chat_template(tokenizer)
    return [generation_turn(tokenizer, f"{text}\n\n{instruction}", thinking=True) for text in texts]


def answer_prompts(
    prompts: Sequence[str],
    texts: Sequence[str],
    layout: PromptFormat,
    tokenizer: PreTrainedTokenizerBase,
) -> list[str]:
    """Return each prompt, the reasoning as it was written, and the answer prefix.

    The reasoning is continued, not rendered again: templates drop or move the thinking of past
    turns. Thinking that is still open (the limit cut it, or the model stopped inside it) is
    closed in the template's manner. Only blanks at the reasoning's end are dropped.

    Args:
        prompts: n prompts of `reasoning_prompts`.
        texts: what the model wrote after each.
        layout: how items are put to the model.
        tokenizer: the model's.

    Returns:
        n prompts, up to and with the answer prefix.

    Raises:
        ValueError: `check_chat_template` refuses the tokenizer's template.
    """
    pairs = list(zip(prompts, texts, strict=True))
    if not layout.chat:
        return [prompt + text.rstrip() + layout.answer_prefix for prompt, text in pairs]
    check_chat_template(tokenizer)
    final = answer_opening(tokenizer)
    if final.endswith(HARMONY_FINAL):
        return [prompt + _after_harmony(text, layout) for prompt, text in pairs]
    opening = generation_opening(tokenizer, thinking=True)
    return [prompt + _after_turn(text, opening, final, layout) for prompt, text in pairs]


def prompts_that_fit(
    prompts: Sequence[str],
    written: Sequence[Generation],
    layout: PromptFormat,
    tokenizer: PreTrainedTokenizerBase,
    *,
    context: int | None,
) -> tuple[list[str], list[Generation]]:
    """Return prompts for the answers; a reasoning that leaves no room for one is cut, flagged.

    Text may take more tokens than it was written in: what a model writes need not be the
    tokenizer's own way to spell it.

    Args:
        prompts: n prompts of `reasoning_prompts`.
        written: what the model wrote after each.
        layout: how items are put to the model.
        tokenizer: the model's.
        context: most tokens of a prompt and its answer; None: no limit.

    Returns:
        n prompts of `answer_prompts`, and the reasonings as they are there.
    """
    fitted = list(written)
    fitting = [""] * len(fitted)
    changed = list(range(len(fitted)))
    while changed:
        texts = [fitted[row].text for row in changed]
        fresh = answer_prompts([prompts[row] for row in changed], texts, layout, tokenizer)
        ids = tokenizer(fresh, add_special_tokens=not layout.chat)["input_ids"]
        long = []
        for row, text, prompt, tokens in zip(changed, texts, fresh, ids, strict=True):
            fitting[row] = prompt
            if context is not None and len(tokens) >= context and text:
                cut = text[: int(len(text) * 0.9)]
                fitted[row] = replace(fitted[row], text=cut, truncated=True)
                long.append(row)
        changed = long
    return fitting, fitted


def _after_harmony(text: str, layout: PromptFormat) -> str:
    """Return a GPT-OSS turn up to the answer, in the final channel."""
    body = HARMONY_RAGGED_END.sub("", text, count=1).rstrip()
    _, opened, spoken = body.rpartition(HARMONY_FINAL)
    if opened:
        return body + (layout.answer_prefix if spoken else layout.answer_prefix.lstrip())
    # The generation prompt has opened a message already, which an empty body leaves to be used.
    return body + (HARMONY_NEXT if body else "") + HARMONY_FINAL + layout.answer_prefix.lstrip()


def _after_turn(text: str, opening: str, final: str, layout: PromptFormat) -> str:
    """Return a turn up to the answer, thinking closed.

    Args:
        text: what the model wrote.
        opening: of its turn, which may have opened thinking.
        final: opening of a turn without thinking, which shows what comes after it.
        layout: has the answer prefix.
    """
    body = text.rstrip()
    whole = (opening + body).rstrip()
    for start, end in THINK_MARKS:
        gap = final.rpartition(end)[2] if end in final else AFTER_THINKING
        if whole.rfind(start) > whole.rfind(end):
            line = "\n" if gap and body else ""
            return body + line + end + gap + layout.answer_prefix.lstrip()
        if body.endswith(end):
            return body + gap + layout.answer_prefix.lstrip()
    if not body:
        # Nothing was written: the turn opens as a direct answer does, thinking closed.
        rest = final.removeprefix(opening) if final.startswith(opening) else ""
        return rest + layout.answer_prefix.lstrip()
    return body + layout.answer_prefix
