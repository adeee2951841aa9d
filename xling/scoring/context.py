"""Whether prompts fit into a model's context, asked before any work starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Tokens that stay free for what comes between a reasoning and the answer's label.
ANSWER_ROOM = 32


def context_of(model: PreTrainedModel) -> int | None:
    """Return a model's context in tokens, or None where its configuration names none."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def check_context(
    lengths: Sequence[int] | npt.NDArray[np.int32],
    keys: Sequence[str],
    *,
    context: int | None,
    max_tokens: int = 0,
) -> None:
    """Check that prompts fit into a model's context, alone or with a reasoning after them.

    Args:
        lengths: tokens of each prompt, special ones included.
        keys: name of each prompt, for the message.
        context: of the model, in tokens; None: it names none.
        max_tokens: most tokens of a reasoning; 0: the answer follows at once.

    Raises:
        ValueError: names the longest prompt, the numbers and the remedy.
    """
    if context is None or not len(lengths):
        return
    longest = int(np.argmax(lengths))
    length = int(lengths[longest])
    room = context - length - (ANSWER_ROOM if max_tokens else 1)
    if room >= max_tokens:
        return
    remedy = (
        f"set chain_of_thought.max_tokens to {room} or less"
        if max_tokens and room > 0
        else "shorten the passage, or use a model with a longer context"
    )
    more = (
        f"; with {max_tokens} tokens of reasoning and {ANSWER_ROOM} for the answer"
        if max_tokens
        else ", and with an answer"
    )
    raise ValueError(
        f"the prompt of item {keys[longest]!r} has {length} tokens{more} it exceeds the model's "
        f"context of {context}; {remedy}"
    )
