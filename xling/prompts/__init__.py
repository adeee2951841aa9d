"""Prompt templates, chat turns, and the check that an answer label is one token.

A prompt is the exact text that a model reads. Nothing here loads a model or scores.
"""

from __future__ import annotations

from xling.prompts.templates import (
    DEFAULT_ANSWER_PREFIX,
    DEFAULT_CLOZE_PREFIX,
    DEFAULT_CLOZE_TEMPLATE,
    DEFAULT_TEMPLATE,
    FIELDS,
    ITEM_FIELDS,
    LABELS,
    PromptFormat,
    Question,
    check_cloze_template,
    check_template,
    fill_template,
    label_token_ids,
    prompt_sha256,
    render_cloze_prompts,
    render_prompts,
)

__all__ = [
    "DEFAULT_ANSWER_PREFIX",
    "DEFAULT_CLOZE_PREFIX",
    "DEFAULT_CLOZE_TEMPLATE",
    "DEFAULT_TEMPLATE",
    "FIELDS",
    "ITEM_FIELDS",
    "LABELS",
    "PromptFormat",
    "Question",
    "check_cloze_template",
    "check_template",
    "fill_template",
    "label_token_ids",
    "prompt_sha256",
    "render_cloze_prompts",
    "render_prompts",
]
