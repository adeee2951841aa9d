"""Which examples each process sees in each optimiser step."""

from collections.abc import Sequence
from dataclasses import dataclass


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


def example_order(examples: int, *, batch_size: int, epochs: int, seed: int) -> list[list[int]]:
    """The examples of each optimiser step, whatever the number of processes.

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
    rows: Sequence[int], *, rank: int, size: int, micro_batch_size: int
) -> tuple[Batch, ...]:
    """One process's batches of one step; every process has equally many.

    Args:
        rows: the step's examples.
        rank: of the process.
        size: number of processes.
        micro_batch_size: examples of one batch at most.
    """
    own = tuple(rows[rank::size])
    most = -(-len(rows) // size)
    batches = []
    for start in range(0, most, micro_batch_size):
        part = own[start : start + micro_batch_size]
        batches.append(Batch(part or (rows[0],), len(part)))
    return tuple(batches)


def per_process(batch_size: int, micro_batch_size: int, processes: int) -> int:
    """Examples of one forward pass of one process.

    Args:
        batch_size: examples of one optimiser step, of all processes together.
        micro_batch_size: what was asked for; 0: as many as a process's share of the step.
        processes: how many share a step.

    Raises:
        ValueError: they cannot share a step equally; says what would fit.
    """
    whole, micro = batch_size, micro_batch_size
    share = micro or whole // processes
    if share and whole % (share * processes) == 0:
        return share
    fitting = [count for count in range(1, whole + 1) if whole % (count * (micro or 1)) == 0]
    each = f"micro_batch_size {micro} × " if micro else ""
    raise ValueError(
        f"batch_size {whole} cannot be shared equally: {each}{processes} processes do not divide "
        f"it; with these sizes {', '.join(map(str, fitting))} processes would, or take a "
        f"batch_size that is a multiple of {(micro or 1) * processes}"
    )
