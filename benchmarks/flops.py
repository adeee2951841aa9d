"""Floating-point operations that some work takes, as torch counts them; torch alone is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def counted(work: Callable[[], Any]) -> int:
    """Operations of the matrix products of some work: two for each multiply-add.

    torch does not count what its attention on CPUs computes; that is added: all of the scores and
    of their products with the values, where there is a mask as where there is none. A causal mask
    leaves out half of it, up to 4 % of a scoring run's operations.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    name = "_scaled_dot_product_flash_attention_for_cpu"
    mapping = {getattr(torch.ops.aten, name): attention_flops}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        work()
    return int(counter.get_total_flops())


def attention_flops(
    query: Sequence[int], key: Sequence[int], value: Sequence[int], *rest: Any, **named: Any
) -> int:
    """Operations of attention for queries, keys and values of these shapes (…, length, size)."""
    heads = 1
    for size in query[:-2]:
        heads *= size
    return 2 * heads * query[-2] * key[-2] * (query[-1] + value[-1])
