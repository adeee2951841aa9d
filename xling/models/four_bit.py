"""How much of a model is in four bits, in each of the ways that it can be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Below this share of a model's block parameters, a load is not QLoRA: fused experts, for one,
# are left in full precision by a plain load.
MIN_FOUR_BIT_SHARE = 0.75
NAMED = 3  # unquantised parameters that a message names


@dataclass(frozen=True)
class FourBitShare:
    """How much of a model is in four bits.

    Attributes:
        quantised: parameters in four bits.
        block: parameters of the decoder blocks (all but the embeddings and the head).
        total: all parameters.
        left: the largest block parameters that are not in four bits, as ``name (share)``.
    """

    quantised: int
    block: int
    total: int
    left: tuple[str, ...] = ()

    @property
    def of_blocks(self) -> float:
        """Share of the block parameters that is in four bits, 0–1."""
        return self.quantised / self.block if self.block else 0.0


def four_bit_share(model: PreTrainedModel) -> FourBitShare:
    """Count the parameters of a loaded model by precision.

    Linear layers and fused experts in four bits hold several weights a byte; both are counted by
    the shape that they have when dequantised.
    """
    return _share(model, list(_counted(model)))


def foreseen_share(model: PreTrainedModel) -> FourBitShare:
    """Find the share that a plain four-bit load would give a model that has no weights yet.

    Args:
        model: on the meta device, say.
    """
    import torch
    from transformers.pytorch_utils import Conv1D

    linear = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, torch.nn.Linear | Conv1D)
    }
    return _share(
        model,
        [
            (name, id(parameter), parameter.numel(), id(parameter) in linear)
            for name, parameter in model.named_parameters()
        ],
    )


def _share(model: Any, counted: list[tuple[str, int, int, bool]]) -> FourBitShare:
    import torch

    embeddings = (module for module in model.modules() if isinstance(module, torch.nn.Embedding))
    outside = {
        id(module.weight)
        for module in (*embeddings, model.get_output_embeddings())
        if module is not None
    }
    inside = [row for row in counted if row[1] not in outside]
    block = sum(count for _, _, count, _ in inside)
    left = sorted((row for row in inside if not row[3]), key=lambda row: -row[2])
    return FourBitShare(
        quantised=sum(count for _, _, count, four_bit in inside if four_bit),
        block=block,
        total=sum(count for _, _, count, _ in counted),
        left=tuple(f"{name} ({count / block:.1%})" for name, _, count, _ in left[:NAMED]),
    )


def _counted(model: Any) -> Iterator[tuple[str, int, int, bool]]:
    """Give name, identity and number of weights of each parameter, and whether in four bits."""
    from bitsandbytes.nn import Params4bit
    from bitsandbytes.nn.parametrize import Bnb4bitParametrization

    stacks = {
        id(parametrised.original): parametrised[0].quant_state.shape.numel()
        for module in model.modules()
        for parametrised in getattr(module, "parametrizations", {}).values()
        if isinstance(parametrised[0], Bnb4bitParametrization)
    }
    for name, parameter in model.named_parameters():
        key = id(parameter)
        if key in stacks:
            yield (
                name.replace("parametrizations.", "").removesuffix(".original"),
                key,
                stacks[key],
                True,
            )
        elif isinstance(parameter, Params4bit):
            yield name, key, parameter.quant_state.shape.numel(), True
        else:
            yield name, key, parameter.numel(), False


def keep_layout(model: Any) -> None:
    """Keep bitsandbytes from repacking four-bit layers on a CPU with AVX512-BF16.

    What it repacks it computes in bfloat16, whatever the input's precision, and neither training
    nor a dequantised copy can read it any more.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def check_four_bit_share(share: FourBitShare, *, name: str) -> None:
    """Refuse a model of which most is, or would be, left unquantised.

    Raises:
        ValueError: the share is under `MIN_FOUR_BIT_SHARE`.
    """
    if share.of_blocks < MIN_FOUR_BIT_SHARE:
        raise ValueError(
            f"only {share.of_blocks:.1%} of the block parameters of {name} are in four bits "
            f"(at least {MIN_FOUR_BIT_SHARE:.0%} needed); left in full precision are "
            f"{', '.join(share.left) or 'no large ones'}, and more: fused experts, say, are "
            "not linear layers, which alone a plain load quantises. Add the architecture to "
            "xling/models/architectures.py, use another model, or set `quantise: none` for a "
            "small one"
        )
