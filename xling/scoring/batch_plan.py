"""Which rows of tokens are computed together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

# Tokens that could be computed in the time that a forward pass takes however little it computes:
# the output matrix is read, four-bit weights are turned into plain ones, and each layer is called.
PASS_TOKENS = 256


def plan_batches(
    lengths: npt.NDArray[np.integer],
    batch_tokens: int,
    *,
    reads: npt.NDArray[np.integer] | Sequence[int] = (),
    max_reads: int = 0,
) -> list[npt.NDArray[np.intp]]:
    """Group rows of like length, the longest first so that memory runs out at once or never.

    Of all ways to cut the sorted rows, the one with the least padding and the fewest passes, a
    pass counted as `PASS_TOKENS`.

    Args:
        lengths: shape (n,), tokens of each row.
        batch_tokens: most padded tokens of a batch; a row longer than that goes alone.
        reads: shape (n,), positions of each row whose logits are computed.
        max_reads: most such positions of a batch; a row of more goes alone. 0: any number.

    Returns:
        Row indices of each batch; together each row once.
    """
    order = np.argsort(-lengths, kind="stable")
    sorted_lengths = lengths[order].tolist()
    sorted_reads = np.asarray(reads)[order].tolist() if max_reads else [0] * len(order)
    starts = _cuts(sorted_lengths, batch_tokens, sorted_reads, max_reads)
    return [order[start:end] for start, end in zip(starts, [*starts[1:], len(order)], strict=True)]


def _cuts(lengths: list[int], batch_tokens: int, reads: list[int], max_reads: int) -> list[int]:
    """Return where batches begin.

    Args:
        lengths: n rows, descending.
        batch_tokens: as in `plan_batches`.
        reads: of each row.
        max_reads: as in `plan_batches`.
    """
    n = len(lengths)
    # least[k]: cost of the rows from k on; then[k]: where the batch that begins at k ends.
    least, then = [0] * (n + 1), [n] * n
    for start in range(n - 1, -1, -1):
        longest, read = max(1, lengths[start]), 0
        best = None
        for end in range(start + 1, min(n, start + max(1, batch_tokens // longest)) + 1):
            read += reads[end - 1]
            if read > max_reads and end > start + 1:
                break
            cost = (end - start) * longest + PASS_TOKENS + least[end]
            if best is None or cost < best:
                best, then[start] = cost, end
        least[start] = best or 0
    starts, at = [], 0
    while at < n:
        starts.append(at)
        at = then[at]
    return starts
