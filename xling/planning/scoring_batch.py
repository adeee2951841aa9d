"""How much a scoring does at once, by the memory that is free."""

from __future__ import annotations

import logging

from xling.models.loading import device_name
from xling.planning import memory_limits
from xling.planning.memory import (
    MEASURED_ERROR,
    Setting,
    dequantised_bytes,
    max_positions,
    scoring_memory,
    weight_bytes,
)
from xling.planning.memory_limits import HeldModel
from xling.planning.sizes import Sizes

logger = logging.getLogger(__name__)

# Linux gives a tensor above 32 MiB fresh pages each time it is made, whose faults took a seventh of
# the time; half of that leaves room for two in one.
CPU_TENSOR_BYTES = 2**24


def fitting_batch(model: HeldModel, *, most: int, available: int | None = None) -> int:
    """Return the padded tokens of a scoring batch that memory holds: `most`, halved until it fits.

    Never below `memory_limits.LEAST_TOKENS`, unless fewer are asked for: scoring halves batches
    itself where memory runs out.

    Args:
        model: as it is held.
        most: tokens that are asked for.
        available: bytes that are free; None: of this machine, now.
    """
    sizes, setting = memory_limits.model_on_device(model)
    there = memory_limits.available_bytes() if available is None else available
    there += weight_bytes(sizes, setting) if model.loaded else 0
    least = memory_limits.LEAST_TOKENS
    tokens = most
    if device_name() == "cpu":
        widest = max(
            each.outputs for layer in sizes.layers for each in layer.matrices if not each.is_expert
        )
        tokens = min(most, max(least, CPU_TENSOR_BYTES // (widest * setting.value_bytes)))
    asked = tokens
    while tokens > least and _needed(sizes, setting, tokens) > there:
        tokens = max(least, tokens // 2)
    if tokens < asked:
        free = memory_limits.gigabytes(there)
        logger.warning("%s free: batches of %d tokens instead of %d", free, tokens, asked)
    return tokens


def copies_fit(model: HeldModel, *, batch_tokens: int, available: int | None = None) -> bool:
    """Tell whether dequantised copies of four-bit weights fit beside a scoring, with headroom.

    Args:
        model: as it is held; where it is not in four bits, there is nothing to copy.
        batch_tokens: of `fitting_batch`.
        available: bytes that are free; None: of this machine, now.
    """
    sizes, setting = memory_limits.model_on_device(model)
    there = available
    if there is None:
        there = memory_limits.on_one_device(memory_limits.available_bytes())
    there += weight_bytes(sizes, setting) if model.loaded else 0
    copies = dequantised_bytes(sizes, setting)
    return 0 < copies <= memory_limits.headroom() * there - _needed(sizes, setting, batch_tokens)


def _needed(sizes: Sizes, setting: Setting, tokens: int) -> float:
    """Return the bytes of a scoring at its peak, in batches of so many padded tokens."""
    read = min(tokens, max_positions(sizes))
    estimate = scoring_memory(sizes, setting, batch_tokens=tokens, length=tokens, positions=read)
    # What is known of the weights is exact; the rest is an estimate.
    return estimate.weights + (estimate.total - estimate.weights) * (1 + MEASURED_ERROR)
