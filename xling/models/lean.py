"""Ways to the same gradients with less work, put on a model for the time of a training."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from xling.models.architectures import architecture_of
from xling.models.plain_copy import plain_weight

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel


@contextmanager
def lean_adapters(model: "PeftModel") -> Iterator[int]:
    """Adds an adapter's product to its layer's in place, in the block.

    peft makes it apart, scales it and adds it: three passes over a layer's outputs, and as many
    over their gradients. Done for single-precision layers without dropout, whose weights are plain
    (see `xling.models.plain_copy`); others are left as they are. While adapters are
    disabled, and for inputs of another type than the weights', a layer computes as peft does.

    Args:
        model: with one active adapter; not sharded.

    Yields:
        How many layers are computed so.
    """
    changed = [module for module in model.modules() if _can_be_lean(module)]
    try:
        for layer in changed:
            layer.forward = _Lean(layer)
        yield len(changed)
    finally:
        for layer in changed:
            vars(layer).pop("forward", None)


@contextmanager
def last_position_alone(model: "PreTrainedModel | PeftModel") -> Iterator[None]:
    """Computes the last block's feed-forward part at the last position only, in the block.

    Where nothing but the last position's logits is read, nothing reads what the last block adds
    to the others: they get the last one's share added, and are dropped. Done for the architectures
    that are known to add a block's ``mlp`` to its input.
    """
    known = architecture_of(model.config.model_type) is not None
    last = _last_block(model) if known else None
    part = getattr(last, "mlp", None)
    if part is None:
        yield
        return
    hook = part.register_forward_pre_hook(lambda _, inputs: (inputs[0][:, -1:], *inputs[1:]))
    try:
        yield
    finally:
        hook.remove()


def _last_block(model: Any) -> "torch.nn.Module | None":
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    names = set(getattr(base, "_no_split_modules", None) or ())
    blocks = [module for module in base.modules() if type(module).__name__ in names]
    return blocks[-1] if blocks else None


def _can_be_lean(module: Any) -> bool:
    import torch
    from peft.tuners.lora import LoraLayer

    if not isinstance(module, LoraLayer) or len(module.active_adapters) != 1:
        return False
    name = module.active_adapters[0]
    if name not in module.lora_A or module.lora_variant or module.merged:
        return False
    weights = (plain_weight(module.get_base_layer()), module.lora_A[name].weight)
    return (
        isinstance(module.lora_dropout[name], torch.nn.Identity)
        and module.lora_B[name].bias is None
        and all(weight is not None and weight.dtype == torch.float32 for weight in weights)
    )


class _Lean:
    """Stands in for the `forward` of peft's layer."""

    def __init__(self, layer: Any) -> None:
        name = layer.active_adapters[0]
        self._layer = layer
        self._base = layer.get_base_layer()
        self._weight = plain_weight(self._base)
        self._down, self._up = layer.lora_A[name], layer.lora_B[name]
        self._scale = layer.scaling[name]
        self._product = _product()

    def __call__(self, x: "torch.Tensor", *more: Any, **named: Any) -> "torch.Tensor":
        layer = self._layer
        if layer.disable_adapters or x.dtype != self._down.weight.dtype or more or named:
            plainly: torch.Tensor = type(layer).forward(layer, x, *more, **named)
            return plainly
        result: torch.Tensor = self._product.apply(
            x, self._weight, self._base.bias, self._down.weight, self._up.weight, self._scale
        )
        return result


def _product() -> Any:
    """The layer as a function with a derivative of its own."""
    import torch

    class Product(torch.autograd.Function):
        """x Wᵀ + bias + scale (x Aᵀ) Bᵀ, with x of shape (…, inputs)."""

        @staticmethod
        def forward(
            ctx: Any, x: Any, weight: Any, bias: Any, down: Any, up: Any, scale: Any
        ) -> Any:
            flat = x.reshape(-1, x.shape[-1])
            inner = flat @ down.T
            out = torch.nn.functional.linear(flat, weight, bias)
            out.addmm_(inner, up.T, alpha=scale)
            ctx.save_for_backward(flat, inner, weight, down, up)
            ctx.scale, ctx.shape = scale, x.shape
            return out.view(*x.shape[:-1], out.shape[-1])

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            flat, inner, weight, down, up = ctx.saved_tensors
            grad = grad.reshape(-1, grad.shape[-1])
            to_inner = (grad @ up).mul_(ctx.scale)
            to_up = (grad.T @ inner).mul_(ctx.scale)
            to_down = to_inner.T @ flat
            to_x = None
            if ctx.needs_input_grad[0]:
                to_x = (grad @ weight).addmm_(to_inner, down).view(ctx.shape)
            return to_x, None, None, to_down, to_up, None

    return Product
