"""How much a scoring does at once, by the memory that is free."""

from __future__ import annotations

import logging
from pathlib import Path

from xling.planning import memory_limits
from xling.planning.memory import (
    MEASURED_ERROR,
    Setting,
    max_positions,
    plain_bytes,
    scoring_memory,
    weight_bytes,
)
from xling.planning.sizes import Sizes

logger = logging.getLogger(__name__)

# Linux gives a tensor above 32 MiB fresh pages each time it is made, whose faults took a seventh of
# the time; half of that leaves room for two in one.
CPU_TENSOR_BYTES = 2**24


def fitting_batch(
    folder: Path,
    *,
    most: int,
    quantise: str,
    r: int,
    lora_modules: str,
    loaded: bool,
    available: int | None = None,
) -> int:
    """Padded tokens of a scoring batch that the free memory holds: `most`, halved until it fits.

    Never below `memory_limits.LEAST_TOKENS`, unless fewer are asked for: scoring halves batches itself
    where memory runs out.

    Args:
        folder: of the model; its config.json decides.
        most: tokens that are asked for.
        quantise: ``nf4`` or ``none``.
        r: rank of an adapter.
        lora_modules: the study's pattern; empty: by architecture.
        loaded: whether the model's weights are in memory already, and so in what is not free.
        available: bytes that are free; None: of this machine, now.
    """
    import torch

    sizes, setting = memory_limits.model_on_device(
        folder, quantise=quantise, r=r, dropout=0.0, lora_modules=lora_modules
    )
    there = memory_limits.available_bytes() if available is None else available
    there += weight_bytes(sizes, setting) if loaded else 0
    tokens = most
    if not torch.cuda.is_available():
        widest = max(
            each.outputs for layer in sizes.layers for each in layer.matrices if not each.is_expert
        )
        few = max(memory_limits.LEAST_TOKENS, CPU_TENSOR_BYTES // (widest * setting.value_bytes))
        tokens = min(most, few)

    asked = tokens
    while tokens > memory_limits.LEAST_TOKENS and _needed(sizes, setting, tokens) > there:
        tokens = max(memory_limits.LEAST_TOKENS, tokens // 2)
    if tokens < asked:
        logger.warning(
            "%s free: batches of %d tokens instead of %d",
            memory_limits.gigabytes(there),
            tokens,
            asked,
        )
    return tokens


def copies_fit(
    folder: Path,
    *,
    batch_tokens: int,
    quantise: str,
    r: int,
    lora_modules: str,
    loaded: bool,
    available: int | None = None,
) -> bool:
    """Whether plain copies of four-bit weights fit beside a scoring, with ample room to spare.

    Args:
        folder: of the model; its config.json decides.
        batch_tokens: of `fitting_batch`.
        quantise: ``nf4`` or ``none``, of which there is nothing to copy.
        r: rank of an adapter.
        lora_modules: the study's pattern; empty: by architecture.
        loaded: whether the model's weights are in memory already, and so in what is not free.
        available: bytes that are free; None: of this machine, now.
    """
    sizes, setting = memory_limits.model_on_device(
        folder, quantise=quantise, r=r, dropout=0.0, lora_modules=lora_modules
    )
    there = (
        memory_limits.on_one_device(memory_limits.available_bytes())
        if available is None
        else available
    )
    there += weight_bytes(sizes, setting) if loaded else 0
    copies = plain_bytes(sizes, setting)
    return 0 < copies <= memory_limits.headroom() * there - _needed(sizes, setting, batch_tokens)


def _needed(sizes: Sizes, setting: Setting, tokens: int) -> float:
    """Bytes of a scoring at its peak, in batches of so many padded tokens."""
    read = min(tokens, max_positions(sizes))
    estimate = scoring_memory(sizes, setting, batch_tokens=tokens, length=tokens, positions=read)
    # What is known of the weights is exact; the rest is an estimate.
    return estimate.weights + (estimate.total - estimate.weights) * (1 + MEASURED_ERROR)
