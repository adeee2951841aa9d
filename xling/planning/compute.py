"""Floating-point operations of training and scoring, and the hours that they take.

A matrix of N weights costs a token 2 N operations forward (a multiplication and an addition a
weight), 2 N backward for the gradient of its input, and 2 N for its own gradient, which frozen
weights do not need (Kaplan et al. 2020, arXiv 2001.08361, section 2.1). Training an adapter is
thus 4 N for the frozen matrices and 6 N for LoRA's, and 2 N and 2 N more where a checkpointed
layer is computed again. Attention's two products cost a token 2 L (q + v) operations forward over
a sequence of L tokens, with q and v the widths of all queries and results, counted over the whole
square as transformers' masks have them, and twice that backward (Hoffmann et al. 2022, arXiv
2203.15556, appendix F).

Operations are not all: a pass also starts kernels for each matrix, which a mixture has tens of
thousands of, and sharded weights come over the links in each pass. They overlap with computing,
so the slowest of the three decides.
"""

from __future__ import annotations

from dataclasses import dataclass

from xling.models.architectures import architecture_of
from xling.planning.gpus import BETWEEN_NODES_GB, Gpu
from xling.planning.sizes import Sizes, lora_matrices, lora_parameters


@dataclass(frozen=True)
class Utilisation:
    """Share of a GPU's dense peak that each kind of work is taken to reach.

    Padding and dequantising count as waste. Measured for a dense model of 4B on an H200
    (benchmarks/GPU.md); larger ones should reach more. Experts see few tokens each, so that a
    mixture's products are small; those shares are stated, not measured.

    Attributes:
        training: of a dense model; measured before the package left out cuDNN's attention.
        scoring: of a dense model.
        mixture_training: of a mixture of experts.
        mixture_scoring: of a mixture of experts.
        bandwidth: share of the memory's bandwidth that writing token by token reaches.
    """

    training: float = 0.12
    scoring: float = 0.33
    mixture_training: float = 0.10
    mixture_scoring: float = 0.15
    bandwidth: float = 0.25

    def of_training(self, sizes: Sizes) -> float:
        """For a model."""
        return self.mixture_training if sizes.is_mixture else self.training

    def of_scoring(self, sizes: Sizes) -> float:
        """For a model."""
        return self.mixture_scoring if sizes.is_mixture else self.scoring


UTILISATION = Utilisation()
LAUNCH_SECONDS = 5e-5
"""Of one four-bit matrix with LoRA in one pass: about ten kernels of five microseconds."""


def forward_flops(
    sizes: Sizes, *, tokens: float, length: float, reads: float, r: int = 0, lora_modules: str = ""
) -> float:
    """Count the operations of a forward pass.

    Args:
        sizes: of the model.
        tokens: that are computed.
        length: tokens that each of them attends to.
        reads: positions whose logits are computed.
        r: rank of the adapter on it; 0: none.
        lora_modules: a study's own pattern.
    """
    adapter = _active_lora(sizes, r, lora_modules)
    return (
        tokens * (2 * (sizes.multiplied + adapter) + _attention(sizes, length))
        + reads * 2 * sizes.hidden * sizes.vocabulary
    )


def training_flops(
    sizes: Sizes,
    *,
    tokens: float,
    length: float,
    examples: float,
    r: int,
    gradient_checkpointing: bool,
    lora_modules: str = "",
) -> float:
    """Count the operations of training an adapter with the loss on one position an example.

    Args:
        sizes: of the model.
        tokens: over all steps.
        length: mean tokens of an example.
        examples: over all steps.
        r: rank of the adapter.
        gradient_checkpointing: each layer is computed twice.
        lora_modules: a study's own pattern.
    """
    adapter = _active_lora(sizes, r, lora_modules)
    again = 1 if gradient_checkpointing else 0
    per_token = (
        (4 + 2 * again) * sizes.multiplied
        + (6 + 2 * again) * adapter
        + (3 + again) * _attention(sizes, length)
    )
    return tokens * per_token + examples * 4 * sizes.hidden * sizes.vocabulary


def training_seconds(
    sizes: Sizes,
    *,
    flops: float,
    passes: float,
    gradient_checkpointing: bool,
    processes: int,
    sharded_bytes: int,
    gpu: Gpu,
    utilisation: Utilisation = UTILISATION,
) -> float:
    """Estimate the seconds that a training takes.

    Args:
        sizes: of the model.
        flops: of all processes together.
        passes: forward passes of one process.
        gradient_checkpointing: each pass is done once more before its backward one.
        processes: each with a GPU.
        sharded_bytes: of the weights that processes share; 0: each has all.
        gpu: each one's; `per_node` of them are in a node.
        utilisation: share of its peak.
    """
    computing = flops / (gpu.tflops * 1e12 * utilisation.of_training(sizes) * processes)
    times = 3 if gradient_checkpointing else 2
    # A backward pass starts about twice the kernels of a forward one.
    launching = passes * (times + 1) * _launches(sizes, 1.0)
    link = gpu.link_gb if processes <= gpu.per_node else min(gpu.link_gb, BETWEEN_NODES_GB)
    away = sharded_bytes * (processes - 1) / processes
    gathering = passes * times * away / (link * 1e9)
    return max(computing, launching, gathering)


def scoring_seconds(
    sizes: Sizes,
    *,
    flops: float,
    batches: float,
    gpu: Gpu,
    gpus: int = 1,
    utilisation: Utilisation = UTILISATION,
) -> float:
    """Estimate the seconds that scoring takes.

    Args:
        sizes: of the model.
        flops: of all batches.
        batches: forward passes.
        gpu: that scores.
        gpus: that compute at the same time.
        utilisation: share of their peak.
    """
    computing = flops / (gpu.tflops * 1e12 * utilisation.of_scoring(sizes) * gpus)
    return max(computing, batches * _launches(sizes, 1.0) / gpus)


def writing_seconds(
    sizes: Sizes,
    *,
    written: float,
    rows: int,
    length: float,
    weight_bytes: int,
    gpu: Gpu,
    utilisation: Utilisation = UTILISATION,
    value_bytes: int = 2,
) -> float:
    """Estimate the seconds that a GPU takes to write tokens one after the other.

    Each step reads the weights once, of a mixture those of the experts that some row goes to, and
    every row's cache: memory decides, or the start of kernels, not computation.

    Args:
        sizes: of the model.
        written: tokens, over all prompts.
        rows: prompts that are continued at once.
        length: mean tokens in a row's cache.
        weight_bytes: of the whole model.
        gpu: that writes.
        utilisation: share of its bandwidth.
        value_bytes: of a cached value.
    """
    missed = (1 - sizes.experts_per_token / sizes.experts) ** rows if sizes.is_mixture else 0.0
    share = (sizes.total - sizes.expert * missed) / sizes.total
    step_bytes = weight_bytes * share + rows * length * sizes.kv_bytes_per_token(value_bytes)
    reading = step_bytes / (gpu.bandwidth_tb * 1e12 * utilisation.bandwidth)
    return written / rows * max(reading, _launches(sizes, 1 - missed))


def _launches(sizes: Sizes, used: float) -> float:
    """Estimate a forward pass's seconds to start every matrix, of the experts a share `used`."""
    known = architecture_of(sizes.model_type)
    stacked = known is not None and known.experts == "parametrise"
    # A loop over stacked experts starts no dequantisation and no adapter: about half the kernels.
    each_expert = 0.5 * used if stacked else used
    count = sum(matrix.copies * each_expert if matrix.is_expert else 1 for matrix in sizes.matrices)
    return count * LAUNCH_SECONDS


def _active_lora(sizes: Sizes, r: int, pattern: str) -> float:
    """Count LoRA's weights that one token goes through."""
    if not r:
        return 0.0
    adapted = lora_matrices(sizes, pattern=pattern)
    return sum(lora_parameters([each], r) * each.active / each.copies for each in adapted)


def _attention(sizes: Sizes, length: float) -> float:
    """Count the operations of one token's attention, over all layers."""
    return len(sizes.layers) * 2 * length * (sizes.query_width + sizes.value_width)
