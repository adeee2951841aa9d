"""Lays token sequences that begin alike into one row, each shared beginning once.

A row is a prefix tree, written depth first: a passage, then its first question, then its second.
A token sees the tokens before it that lie on its own path, and has the place that it has in its own
sequence, so that a model computes for each sequence what it would compute for it alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Tokens = Sequence[int]
IntArray = npt.NDArray[np.int64]

# Pairs of tokens that attention compares in the time that the layers take for one token: hidden
# size times six in a plain decoder block, here of the smallest models, where sharing gains least.
PAIRS_PER_TOKEN = 3000


@dataclass(frozen=True)
class Request:
    """A token sequence whose later logits are asked for.

    Attributes:
        tokens: not empty.
        first_read: first position (from 0) whose logits are read; all later ones are as well.
    """

    tokens: Tokens
    first_read: int

    @property
    def reads(self) -> int:
        """Number of positions whose logits are read."""
        return len(self.tokens) - self.first_read


@dataclass(frozen=True)
class Row:
    """Sequences of one prefix tree, in one row of tokens.

    Attributes:
        tokens: shape (length,); ids, depth first.
        positions: shape (length,); each token's place in its sequences.
        ends: shape (length,); where in the row the tokens end that continue a token; it is seen
            by these and by itself.
        repeats: shape (length,); how many sequences a token is part of.
        sequences: indices of the requests.
        reads: for each sequence, where in the row its read positions are.
    """

    tokens: IntArray
    positions: IntArray
    ends: IntArray
    repeats: IntArray
    sequences: tuple[int, ...]
    reads: tuple[IntArray, ...]

    @property
    def branches(self) -> bool:
        """Whether some token does not see all that come before it."""
        return len(self.tokens) > int(self.positions[-1]) + 1

    @property
    def read_places(self) -> IntArray:
        """Where in the row logits are read, ascending, each place once."""
        return np.unique(np.concatenate(self.reads))


def common_prefix(first: Tokens, second: Tokens) -> int:
    """Count the tokens that two sequences begin with alike."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(first), len(second)))


def plan_rows(
    requests: Sequence[Request], *, share: bool, longest: int, max_reads: int
) -> list[Row]:
    """Put sequences into rows, those that begin alike together where that saves work.

    Args:
        requests: n sequences.
        share: False: one sequence a row.
        longest: tokens of a row of several sequences at most.
        max_reads: positions of such a row whose logits are read, at most.

    Returns:
        Rows that together hold each sequence once.
    """
    if not share:
        return [lay_out(requests, [index]) for index in range(len(requests))]
    return [lay_out(requests, group) for group in _groups(requests, longest, max_reads)]


def lay_out(requests: Sequence[Request], chosen: Sequence[int]) -> Row:
    """Lay some sequences out in one row.

    Args:
        requests: all sequences.
        chosen: which of them, sorted by their tokens.
    """
    tokens: list[int] = []
    positions: list[int] = []
    path: list[int] = []  # where in the row each token of the last sequence is
    ends: list[int] = []
    reads = []
    repeats: list[int] = []
    before: Tokens = ()
    for index in chosen:
        now = requests[index].tokens
        shared = common_prefix(before, now)
        for place in path[shared:]:
            ends[place] = len(tokens)
        fresh = range(len(tokens), len(tokens) + len(now) - shared)
        tokens += now[shared:]
        positions += range(shared, len(now))
        ends += [0] * len(fresh)
        repeats += [0] * len(fresh)
        path = [*path[:shared], *fresh]
        for place in path:
            repeats[place] += 1
        reads.append(np.array(path[requests[index].first_read :], np.int64))
        before = now
    for place in path:
        ends[place] = len(tokens)
    return Row(
        tokens=np.array(tokens, np.int64),
        positions=np.array(positions, np.int64),
        ends=np.array(ends, np.int64),
        repeats=np.array(repeats, np.int64),
        sequences=tuple(chosen),
        reads=tuple(reads),
    )


def _groups(requests: Sequence[Request], longest: int, max_reads: int) -> Iterator[list[int]]:
    """Yield the indices of sequences that go into one row, sorted by their tokens."""
    order = sorted(range(len(requests)), key=lambda index: tuple(requests[index].tokens))
    group = order[:1]
    length = len(requests[order[0]].tokens) if order else 0
    reads = requests[order[0]].reads if order else 0
    for last, index in pairwise(order):
        shared = common_prefix(requests[last].tokens, requests[index].tokens)
        own = len(requests[index].tokens)
        grown = length + own - shared
        # Attention compares all tokens of a row with each other, also those of two questions.
        more_pairs = grown**2 - length**2 - own**2
        read = requests[index].reads
        fits = grown <= longest and reads + read <= max_reads
        if fits and shared * PAIRS_PER_TOKEN > more_pairs:
            group.append(index)
            length, reads = grown, reads + read
        else:
            yield group
            group, length, reads = [index], own, read
    if group:
        yield group
