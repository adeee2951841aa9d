"""Peak memory of training and of scoring, counted tensor by tensor.

The count of what training keeps for its backward pass is that of transformers' layers under
LoRA: tests compare it with what autograd really saves. What it leaves out (the allocator's gaps,
the libraries' own) is in `MEASURED_ERROR`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from xling.models.architectures import architecture_of
from xling.planning.sizes import (
    Layer,
    Matrix,
    Sizes,
    four_bit_matrices,
    lora_matrices,
    lora_parameters,
)

BLOCK = 64
"""Weights that share a scale in NF4."""
NESTED_BLOCK = 256
"""Scales that share a scale themselves (double quantisation)."""
OPTIMISER_BYTES = 16
"""Of a trained parameter: weight, gradient and AdamW's two moments, each in single precision."""
# Values that autograd keeps of a gated unit's width: gate, its activation, up; GPT-OSS's clamped
# one in its loop over experts also clamps, halves and shifts.
_GATED = 3
_GATED_CLAMPED = 8
# Rows of logits that are turned into double precision at a time (xling.scoring.prefix_forward).
_DOUBLE_ROWS = 64
MEASURED_ERROR = 0.15
"""Share by which estimates and measured peaks differ at most, by benchmarks/plan_memory.py.

They were 3 % below to 13 % above on a CPU; see also `SHARED_ERROR`."""
SHARED_ERROR = 0.30
"""Share by which estimates are too high at most where beginnings are computed once: the widest
layer and the largest cache are then not alive together."""
MAX_LOGITS = 2**27
"""Logits of one forward pass at most, as in xling.scoring.batch_runner."""


@dataclass(frozen=True)
class Setting:
    """How a model is held.

    Attributes:
        quantise: ``nf4`` or ``none``.
        value_bytes: of computed values: 2 (bfloat16) or 4 (single precision).
        r: rank of the adapter.
        dropout: on the adapter's inputs, which are then kept apart.
        lora_modules: a study's own pattern; empty: by architecture.
        mask_bytes: of dropout's mask: 1 on a GPU, 4 on a CPU.
    """

    quantise: str = "nf4"
    value_bytes: int = 2
    r: int = 16
    dropout: float = 0.0
    lora_modules: str = ""
    mask_bytes: int = 1


@dataclass(frozen=True)
class Memory:
    """Bytes on one device at the peak.

    Attributes:
        weights: of the base model.
        adapter: LoRA weights; in training with gradients and the optimiser's moments.
        activations: what is kept for the backward pass, or cached keys and values.
        transient: what lives for a moment: the widest layer, a dequantised matrix, logits.
    """

    weights: int
    adapter: int
    activations: int
    transient: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.adapter + self.activations + self.transient


def nf4_bytes(weights: int) -> int:
    """Return the bytes of a matrix in NF4 with double quantisation: 4.127 bits a weight.

    Half a byte a weight, one byte a block of 64 for its scale, and four bytes for each 256 such
    scales (Dettmers et al. 2023, QLoRA, arXiv 2305.14314, section 3).
    """
    blocks = math.ceil(weights / BLOCK)
    return math.ceil(weights / 2) + blocks + 4 * math.ceil(blocks / NESTED_BLOCK)


def weight_bytes(sizes: Sizes, setting: Setting) -> int:
    """Return the base model's bytes: blocks' matrices in four bits, the rest in computed values."""
    quantised = four_bit_matrices(sizes, quantise=setting.quantise)
    in_four_bits = sum(each.copies * nf4_bytes(each.inputs * each.outputs) for each in quantised)
    rest = sizes.total - sum(each.parameters for each in quantised)
    return in_four_bits + rest * setting.value_bytes


def dequantised_bytes(sizes: Sizes, setting: Setting) -> int:
    """Return the bytes of dequantised copies of the four-bit layers, beside these themselves."""
    known = architecture_of(sizes.model_type)
    stacked = known is not None and known.experts == "parametrise"
    return sum(
        each.parameters * setting.value_bytes
        for each in four_bit_matrices(sizes, quantise=setting.quantise)
        if not (stacked and each.is_expert)
    )


def training_memory(
    sizes: Sizes,
    setting: Setting,
    *,
    rows: int,
    length: int,
    gradient_checkpointing: bool,
    processes: int = 1,
    parallel: str = "fsdp",
) -> Memory:
    """Estimate the peak of a training step in one process, with the loss on the answer alone.

    Args:
        sizes: of the model.
        setting: how it is held.
        rows: prompts of a forward pass.
        length: tokens of the longest.
        gradient_checkpointing: keep each layer's input alone, and compute the layer once more.
        processes: that share the model (`fsdp`) or each hold all of it (`ddp`).
        parallel: ``fsdp`` or ``ddp``.
    """
    adapted = lora_matrices(sizes, pattern=setting.lora_modules)
    tokens = rows * length
    sharded = processes > 1 and parallel == "fsdp"
    # Sharded layers compute as peft does, which turns their inputs into single precision.
    inputs = 4 if sharded else setting.value_bytes
    kept = [_kept(sizes, layer, adapted, setting, rows, length, inputs) for layer in sizes.layers]
    known = architecture_of(sizes.model_type)
    if gradient_checkpointing or (known is not None and known.gradient_checkpointing):
        between = len(sizes.layers) * tokens * sizes.hidden * setting.value_bytes
        activations = between + max(kept)
    else:
        # Adapters' weights are kept in the precision that they are computed in.
        turned = lora_parameters(adapted, setting.r) * inputs if inputs < 4 else 0
        activations = sum(kept) + turned
    shards = processes if sharded else 1
    weights = weight_bytes(sizes, setting)
    gathered = 0
    if sharded:  # the layer at work and the next one, whole
        gathered = 2 * max(_layer_bytes(layer, sizes, setting) for layer in sizes.layers)
    return Memory(
        weights=math.ceil(weights / shards) + gathered,
        adapter=math.ceil(lora_parameters(adapted, setting.r) * OPTIMISER_BYTES / shards),
        activations=activations,
        transient=_widest(sizes, tokens, setting, gradients=True)
        + _dequantised(sizes, setting)
        + _training_logits(sizes, rows, setting)
        + _mask(rows, length, setting),
    )


def scoring_memory(
    sizes: Sizes,
    setting: Setting,
    *,
    batch_tokens: int,
    length: int,
    cached_tokens: int = 0,
    positions: int = 0,
) -> Memory:
    """Estimate the peak of a scoring batch.

    Args:
        sizes: of the model.
        setting: how it is held.
        batch_tokens: padded tokens of a batch; a longer prompt goes alone.
        length: tokens of the longest prompt.
        cached_tokens: tokens whose keys and values are cached, in generation.
        positions: whose logits are computed; 0: the last one of each prompt.
    """
    tokens = max(batch_tokens, length)
    rows = max(1, tokens // length)
    read = positions or rows
    cache = cached_tokens * sizes.kv_bytes_per_token(setting.value_bytes)
    # So many rows at a time in double precision, and once more as their exponentials.
    doubled = min(read, _DOUBLE_ROWS) * sizes.vocabulary * 16
    logits = read * sizes.vocabulary * setting.value_bytes + doubled
    adapted = lora_matrices(sizes, pattern=setting.lora_modules)
    layer = _widest(sizes, tokens, setting, gradients=False) + _mask(rows, length, setting)
    return Memory(
        weights=weight_bytes(sizes, setting),
        adapter=4 * lora_parameters(adapted, setting.r),
        activations=cache,
        # The layers are done when the logits are made.
        transient=max(layer + _dequantised(sizes, setting), logits),
    )


def max_positions(sizes: Sizes) -> int:
    """Return how many positions' logits one forward pass computes at most."""
    return max(1, MAX_LOGITS // sizes.vocabulary)


def _kept(
    sizes: Sizes,
    layer: Layer,
    adapted: Sequence[Matrix],
    setting: Setting,
    rows: int,
    length: int,
    inputs: int,
) -> int:
    """Count the bytes autograd keeps of one layer; `inputs`: of one value that adapters read."""
    names = {each.name for each in adapted}
    value = setting.value_bytes
    known = architecture_of(sizes.model_type)
    gated = _GATED_CLAMPED if known and known.experts == "parametrise" else _GATED
    total = 4 * layer.normed + 2 * (sizes.query_width + sizes.value_width) * value
    seen: set[tuple[str, int]] = set()
    for each in layer.matrices:
        if each.name in names:
            read = _adapter_input(each, seen, setting, inputs)
            total += each.active * (read + inputs * setting.r)
        if each.part == "gate":
            total += (gated if each.is_expert else _GATED) * each.outputs * each.active * value
        if each.is_expert and each.part == "down":  # gathered tokens, weighted results
            total += 2 * each.outputs * each.active * value
    scores = 0
    if known and known.attention == "eager":
        scores = rows * sizes.heads * length**2 * (value + 4)
    return rows * length * total + scores


def _adapter_input(matrix: Matrix, seen: set[tuple[str, int]], setting: Setting, value: int) -> int:
    """Count the bytes of a token's input that LoRA's first matrix keeps, of `value` bytes each.

    Its own copy where dropout thins it out or where it is computed in a wider type than the
    base, else the tensor that the base layer reads, which its neighbours share.
    """
    if setting.dropout:
        return matrix.inputs * (value + setting.mask_bytes)
    if setting.value_bytes < value:
        return matrix.inputs * value
    place = (matrix.name.rpartition(".")[0], matrix.inputs)
    if place in seen or matrix.name.endswith("o_proj"):  # attention keeps its own result
        return 0
    seen.add(place)
    return matrix.inputs * value


def _widest(sizes: Sizes, tokens: int, setting: Setting, *, gradients: bool) -> int:
    """Count the bytes of what is alive at once within a layer beside what is kept."""
    value = setting.value_bytes
    feed_forward = max(
        sum(
            each.active * (3 * each.outputs + (2 * each.inputs if each.is_expert else 0))
            for each in layer.matrices
            if each.part == "gate"
        )
        for layer in sizes.layers
    )
    attention = 2 * (sizes.query_width + sizes.value_width)
    adapter_copy = 4 if value < 4 else 0
    return tokens * (
        max(feed_forward, attention) * value
        + 4 * sizes.hidden * 4
        + (sizes.hidden * 4 if gradients else 0)
        + adapter_copy * sizes.hidden
    )


def _dequantised(sizes: Sizes, setting: Setting) -> int:
    """Count the bytes of the largest weights that are turned into computed values at once."""
    quantised = four_bit_matrices(sizes, quantise=setting.quantise)
    known = architecture_of(sizes.model_type)
    whole = known is not None and known.experts == "parametrise"
    sizes_at_once: dict[str, int] = {}
    for each in quantised:
        # A stack of experts is dequantised as a whole, gate and up together.
        stack = each.name.rpartition(".0.")[0] if whole and each.is_expert else each.name
        count = each.parameters if whole and each.is_expert else each.inputs * each.outputs
        sizes_at_once[stack] = sizes_at_once.get(stack, 0) + count
    return max(sizes_at_once.values(), default=0) * setting.value_bytes


def _layer_bytes(layer: Layer, sizes: Sizes, setting: Setting) -> int:
    quantised = {each.name for each in four_bit_matrices(sizes, quantise=setting.quantise)}
    return sum(
        each.copies * nf4_bytes(each.inputs * each.outputs)
        if each.name in quantised
        else each.parameters * setting.value_bytes
        for each in layer.matrices
    )


def _training_logits(sizes: Sizes, rows: int, setting: Setting) -> int:
    """Count the bytes of a position's logits a row: as computed, in single precision, gradients."""
    return (
        rows * sizes.vocabulary * (12 + (2 * setting.value_bytes if setting.value_bytes < 4 else 0))
    )


def _mask(rows: int, length: int, setting: Setting) -> int:
    """Count attention's mask, as truth values and as numbers, and of sliding windows another."""
    return 2 * rows * length**2 * (1 + setting.value_bytes)
