"""Which prompts are computed together."""

import numpy as np
import numpy.typing as npt


def plan_batches(lengths: npt.NDArray[np.int32], batch_tokens: int) -> list[npt.NDArray[np.intp]]:
    """Groups rows of like length, the longest first so that memory runs out at once or never.

    Args:
        lengths: shape (n,), tokens of each row.
        batch_tokens: most padded tokens of a batch; a row longer than that goes alone.

    Returns:
        Row indices of each batch; together each row once.
    """
    order = np.argsort(-lengths, kind="stable")
    batches = []
    start = 0
    while start < len(order):
        size = max(1, batch_tokens // max(1, int(lengths[order[start]])))
        batches.append(order[start : start + size])
        start += size
    return batches
