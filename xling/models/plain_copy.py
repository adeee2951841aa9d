"""Four-bit weights turned into plain ones once, for as long as they are computed with.

bitsandbytes turns a layer's weight into plain numbers in each forward pass, and again in each
backward pass. The products that it then makes are those that are made here: same weights, same
kind of product.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
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
    layers = [module for module in model.modules() if is_four_bit(module)]
    kinds = [type(layer) for layer in layers]
    taken = 0
    try:
        for layer in layers:
            weight = dequantised(layer)
            taken += weight.numel() * weight.element_size()
            layer.plain = weight
            layer.__class__ = _plain_class()
        yield taken
    finally:
        for layer, kind in zip(layers, kinds, strict=True):
            layer.__class__ = kind
            vars(layer).pop("plain", None)


def plain_weight(layer: "torch.nn.Module") -> "torch.Tensor | None":
    """The plain weight that a linear layer computes with; None where it is in four bits."""
    import torch

    if isinstance(layer, torch.nn.Linear) and "forward" not in vars(layer):  # accelerate's hooks
        if type(layer) is torch.nn.Linear:
            return layer.weight
        plain: torch.Tensor | None = vars(layer).get("plain")
        return plain
    return None


def dequantised(layer: Any) -> "torch.Tensor":
    """A four-bit layer's weight, shape (outputs, inputs), in the type that it computes in."""
    from bitsandbytes.functional import dequantize_4bit

    weight = layer.weight
    plain: torch.Tensor = dequantize_4bit(weight.data, weight.quant_state)
    return plain.to(layer.compute_dtype or plain.dtype).contiguous()


@cache
def _plain_class() -> Any:
    """What a four-bit layer becomes; one class, so that code compiled for one layer serves all."""
    from bitsandbytes.nn import Linear4bit
    from torch.nn.functional import linear

    class PlainLinear4bit(Linear4bit):  # type: ignore[misc]
        """A four-bit layer that computes with its attribute `plain`."""

        def forward(self, x: "torch.Tensor") -> "torch.Tensor":
            weight = self.plain
            bias = None if self.bias is None else self.bias.to(weight.dtype)
            return linear(x.to(weight.dtype), weight, bias).to(x.dtype)

    return PlainLinear4bit


def is_four_bit(module: Any) -> bool:
    """Whether a module is a linear layer that computes from four bits, always on one device."""
    from bitsandbytes.nn import Linear4bit

    return (
        isinstance(module, Linear4bit)
        and "plain" not in vars(module)
        and module.weight.quant_state is not None
        and not hasattr(module, "_hf_hook")
    )
