"""Four-bit weights turned into plain ones once, for as long as they are computed with.

bitsandbytes turns a layer's weight into plain numbers in each forward pass, and again in each
backward pass. The products that it then makes are those that are made here: same weights, same
kind of product.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel


@contextmanager
def plain_copy(model: "PreTrainedModel | PeftModel") -> Iterator[int]:
    """Computes with dequantised copies of the four-bit linear layers in the block.

    The layers keep their four-bit weights, so that what is counted or saved is the same. Stacked
    experts, and layers that accelerate moves between devices, are left as they are.

    Args:
        model: with or without an adapter; not sharded.

    Yields:
        Bytes that the copies take; 0 where no layer is in four bits.
    """
    layers = [module for module in model.modules() if _is_four_bit(module)]
    taken = 0
    try:
        for layer in layers:
            weight = dequantised(layer)
            taken += weight.numel() * weight.element_size()
            layer.forward = _Plain(layer, weight)
        yield taken
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)  # the class's own is behind it


def plain_weight(layer: "torch.nn.Module") -> "torch.Tensor | None":
    """The plain weight that a linear layer computes with; None where it is in four bits."""
    import torch

    forward = vars(layer).get("forward")
    if isinstance(forward, _Plain):
        return forward.weight
    if type(layer) is torch.nn.Linear and forward is None:
        return layer.weight
    return None


def dequantised(layer: Any) -> "torch.Tensor":
    """A four-bit layer's weight, shape (outputs, inputs), in the type that it computes in."""
    from bitsandbytes.functional import dequantize_4bit

    weight = layer.weight
    plain: torch.Tensor = dequantize_4bit(weight.data, weight.quant_state)
    return plain.to(layer.compute_dtype or plain.dtype).contiguous()


class _Plain:
    """Stands in for a four-bit layer's `forward`."""

    def __init__(self, layer: Any, weight: "torch.Tensor") -> None:
        self.weight = weight
        self._layer = layer

    def __call__(self, x: "torch.Tensor") -> "torch.Tensor":
        import torch

        bias = self._layer.bias
        bias = None if bias is None else bias.to(self.weight.dtype)
        return torch.nn.functional.linear(x.to(self.weight.dtype), self.weight, bias).to(x.dtype)


def _is_four_bit(module: Any) -> bool:
    from bitsandbytes.nn import Linear4bit

    return (
        isinstance(module, Linear4bit)
        and module.weight.quant_state is not None
        and not hasattr(module, "_hf_hook")
        # Repacked for a processor with AVX512-BF16 by an earlier scoring: computed as it is.
        and not getattr(module.weight.quant_state, "packing_format_for_cpu", False)
    )
