"""Which examples each process sees in each optimiser step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# Padded tokens of a training's forward pass, where `micro_batch_size` leaves it open. On a CPU a
# tensor above 32 MiB gets fresh pages each time it is made (measured in scoring: a seventh of the
# time at 4096 tokens of Gemma 3 270M), so passes are kept below; on an H200 a model of 4B trains
# as fast with 8,192 as with 16,384, in half the memory.
PASS_TOKENS = {"cpu": 2048, "cuda": 8192}


@dataclass(frozen=True)
class Batch:
    """What one process computes at once.

    Attributes:
        rows: indices of examples.
        counted: how many of the first `rows` count; a process that has none left computes one
            example that does not count, since the others wait for it.
    """

    rows: tuple[int, ...]
    counted: int


@dataclass(frozen=True)
class MemoryUse:
    """What a training does with the memory that there is.

    Attributes:
        gradient_checkpointing: compute layers twice to keep less.
        plain_copy: keep dequantised copies of four-bit weights.
        pass_rows: prompts of a forward pass at most; 0: any.
        pass_tokens: its padded tokens at most; 0: as many as are usual on the device.
    """

    gradient_checkpointing: bool
    plain_copy: bool = False
    pass_rows: int = 0
    pass_tokens: int = 0

    def rows_of(self, length: int) -> int:
        """Return how many prompts of so many tokens go into a forward pass."""
        return rows_at_once(self.pass_rows, length, self.pass_tokens)


def pass_tokens(device: str) -> int:
    """Return `PASS_TOKENS` of a device's type; other accelerators count as CUDA."""
    return PASS_TOKENS.get(device, PASS_TOKENS["cuda"])


def rows_at_once(most: int, longest: int, tokens: int) -> int:
    """Return how many examples go into a forward pass.

    Args:
        most: examples at most, such as a process's share of a step.
        longest: tokens of the longest example.
        tokens: padded tokens at most; a longer example goes alone; 0: any.
    """
    return max(1, min(most, tokens // max(1, longest))) if tokens else most


def example_order(examples: int, *, batch_size: int, epochs: int, seed: int) -> list[list[int]]:
    """Draw the examples of each optimiser step, whatever the number of processes.

    Args:
        examples: how many there are.
        batch_size: examples of one step; an epoch's last step may have fewer.
        epochs: passes, each shuffled anew.
        seed: of the orders.
    """
    import torch

    steps = []
    # One stream for all epochs: `seed` plus the epoch would give one seed's second epoch the order
    # of the next seed's first.
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.randperm(examples, generator=generator).tolist()
        steps += [order[start : start + batch_size] for start in range(0, examples, batch_size)]
    return steps


def batches_of(
    rows: Sequence[int],
    lengths: Sequence[int],
    *,
    rank: int,
    size: int,
    most_rows: int,
    most_tokens: int = 0,
) -> tuple[Batch, ...]:
    """Cut one step into one process's batches; every process has equally many.

    Examples of similar length come together, so that little is padded: the longest first, so that
    too little memory shows at once.

    Args:
        rows: the step's examples.
        lengths: tokens of every example.
        rank: of the process.
        size: number of processes.
        most_rows: examples of one batch at most.
        most_tokens: of one batch at most, padding counted (a longer example goes alone); 0: any.
    """
    ordered = sorted(rows, key=lambda row: -lengths[row])
    shares = [_cut(ordered[each::size], lengths, most_rows, most_tokens) for each in range(size)]
    own = [Batch(part, len(part)) for part in shares[rank]]
    missing = max(len(share) for share in shares) - len(own)
    return (*own, *[Batch((ordered[-1],), 0)] * missing)


def _cut(
    ordered: Sequence[int], lengths: Sequence[int], most_rows: int, most_tokens: int
) -> list[tuple[int, ...]]:
    """Cut examples, the longest first, into batches."""
    parts = []
    start = 0
    while start < len(ordered):
        count = rows_at_once(most_rows, lengths[ordered[start]], most_tokens)
        parts.append(tuple(ordered[start : start + count]))
        start += count
    return parts
