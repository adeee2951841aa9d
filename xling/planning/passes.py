"""How a training's forward passes may be cut, and what it may keep, for memory's sake."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from xling.training.batching import rows_at_once


@dataclass(frozen=True)
class MemoryUse:
    """What a training does with the memory that there is.

    Attributes:
        gradient_checkpointing: compute layers twice to keep less.
        plain_copy: keep dequantised copies of four-bit weights.
        pass_rows: prompts of a forward pass at most.
        pass_tokens: its padded tokens at most; 0: any.
    """

    gradient_checkpointing: bool
    plain_copy: bool
    pass_rows: int
    pass_tokens: int

    def rows_of(self, length: int) -> int:
        """Prompts of so many tokens in a forward pass."""
        return rows_at_once(self.pass_rows, length, self.pass_tokens)


def pass_plans(
    rows: int, asked: bool | Literal["auto"], *, fixed: bool
) -> Iterator[tuple[int, bool]]:
    """Ways to train that take less and less memory, the fastest first.

    Args:
        rows: prompts of a forward pass at most.
        asked: for gradient checkpointing; ``auto``: where one row does not fit without.
        fixed: whether `rows` was asked for; else it is halved before layers are computed twice.

    Yields:
        Prompts of a forward pass, and whether gradients are checkpointed.
    """
    for checkpointing in (False, True) if asked == "auto" else (asked,):
        yield rows, checkpointing
        count = rows
        while count > 1 and not fixed:
            count //= 2
            yield count, checkpointing
