"""Ways to the same numbers with less work, put on a model while it trains or scores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any

from xling.models.architectures import architecture_of

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel


@contextmanager
def dequantised_copy(model: PreTrainedModel | PeftModel) -> Iterator[int]:
    """Compute with dequantised copies of the four-bit linear layers in the block.

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


def plain_weight(layer: torch.nn.Module) -> torch.Tensor | None:
    """Return the plain weight that a linear layer computes with; None where it is in four bits."""
    import torch

    if isinstance(layer, torch.nn.Linear) and "forward" not in vars(layer):  # accelerate's hooks
        if type(layer) is torch.nn.Linear:
            return layer.weight
        plain: torch.Tensor | None = vars(layer).get("plain")
        return plain
    return None


def dequantised(layer: Any) -> torch.Tensor:
    """Return a four-bit layer's weight, shape (outputs, inputs), in the type it computes in."""
    from bitsandbytes.functional import dequantize_4bit

    weight = layer.weight
    plain: torch.Tensor = dequantize_4bit(weight.data, weight.quant_state)
    return plain.to(layer.compute_dtype or plain.dtype).contiguous()


@cache
def _plain_class() -> Any:
    """Make what a four-bit layer becomes; one class, so that code compiled for one serves all."""
    from bitsandbytes.nn import Linear4bit
    from torch.nn.functional import linear

    class PlainLinear4bit(Linear4bit):  # type: ignore[misc]
        """A four-bit layer that computes with its attribute `plain`."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            weight = self.plain
            bias = None if self.bias is None else self.bias.to(weight.dtype)
            return linear(x.to(weight.dtype), weight, bias).to(x.dtype)

    return PlainLinear4bit


def is_four_bit(module: Any) -> bool:
    """Tell whether a module is a linear layer that computes from four bits on one device."""
    from bitsandbytes.nn import Linear4bit

    return (
        isinstance(module, Linear4bit)
        and "plain" not in vars(module)
        and module.weight.quant_state is not None
        and not hasattr(module, "_hf_hook")
    )


@contextmanager
def attention_of_any_shape() -> Iterator[None]:
    """Let attention on a GPU take each batch as it comes, in the block.

    cuDNN's, which torch prefers on recent GPUs, plans for every new shape, and almost every batch
    of prompts has its own shape: 65 ms each on an H200, as much as a batch of 4,096 tokens.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    usual = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    with sdpa_kernel(usual) if torch.cuda.is_available() else nullcontext():
        yield


@contextmanager
def reduce_compute(
    model: PreTrainedModel | PeftModel,
    *,
    plain_copies: bool,
    last_alone: bool = False,
) -> Iterator[None]:
    """Let the model compute the same with less work in the block, as far as it allows.

    Args:
        model: with or without an adapter; not sharded.
        plain_copies: whether there is memory for `dequantised_copy`.
        last_alone: whether nothing but the last position's logits is read.
    """
    with ExitStack() as ways:
        ways.enter_context(attention_of_any_shape())
        if last_alone:
            ways.enter_context(last_position_alone(model))
        if plain_copies:
            ways.enter_context(dequantised_copy(model))
        if hasattr(model, "peft_config"):
            ways.enter_context(fused_adapters(model))
        yield


@contextmanager
def fused_adapters(model: PeftModel) -> Iterator[int]:
    """Add an adapter's product to its layer's in place, in the block.

    peft makes it apart, scales it and adds it: three passes over a layer's outputs, and as many
    over their gradients; of a half-precision base it also turns each input into single precision,
    and multiplies there. Here the adapter's product is made in the precision of the base, as
    automatic mixed precision does it, and its weights and gradients stay in theirs. Done for
    layers whose weights are plain (see `plain_weight`) or in four bits; others are left as they
    are. While adapters are disabled a layer computes as peft does.

    Args:
        model: with one active adapter; not sharded.

    Yields:
        How many layers are computed so.
    """
    changed = [module for module in model.modules() if _can_be_fused(module)]
    kinds = [type(layer) for layer in changed]
    try:
        for layer, kind in zip(changed, kinds, strict=True):
            layer.__class__ = _fused_class(kind)  # type: ignore[arg-type]
        yield len(changed)
    finally:
        for layer, kind in zip(changed, kinds, strict=True):
            layer.__class__ = kind


@contextmanager
def last_position_alone(model: PreTrainedModel | PeftModel) -> Iterator[None]:
    """Compute the last block's feed-forward part at the last position only, in the block.

    Where nothing but the last position's logits is read, nothing reads what the last block adds
    to the others: they get the last one's share added, and are dropped. Done for the architectures
    that are known to add a block's ``mlp`` to its input.
    """
    known = architecture_of(model.config.model_type) is not None
    last = blocks_of(model)[-1:] if known else []
    part = getattr(last[0], "mlp", None) if last else None
    if part is None:
        yield
        return
    hook = part.register_forward_pre_hook(lambda _, inputs: (inputs[0][:, -1:], *inputs[1:]))
    try:
        yield
    finally:
        hook.remove()


def blocks_of(model: Any) -> list[torch.nn.Module]:
    """List the decoder blocks, in model order; none where the model does not name them."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    names = set(getattr(base, "_no_split_modules", None) or ())
    return [module for module in base.modules() if type(module).__name__ in names]


def _can_be_fused(module: Any) -> bool:
    from peft.tuners.lora import LoraLayer

    if not isinstance(module, LoraLayer) or len(module.active_adapters) != 1:
        return False
    name = module.active_adapters[0]
    if name not in module.lora_A or module.lora_variant or module.merged:
        return False
    base = module.get_base_layer()
    known = plain_weight(base) is not None or is_four_bit(base)
    return known and module.lora_B[name].bias is None


@cache
def _fused_class(kind: Any) -> Any:
    """Make what a peft layer becomes; one class, so that code compiled for one serves all."""
    from torch.nn import Identity

    product = _product()

    class FusedLora(kind):  # type: ignore[misc]
        """A layer with one adapter, whose product is added with little work."""

        def forward(self, x: torch.Tensor, *more: Any, **named: Any) -> torch.Tensor:
            base, name = self.base_layer, self.active_adapters[0]
            four_bit = is_four_bit(base)
            weight = None if four_bit else getattr(base, "plain", base.weight)
            other_type = weight is not None and x.dtype != weight.dtype
            if self.disable_adapters or other_type or more or named:
                plainly: torch.Tensor = super().forward(x, *more, **named)
                return plainly
            down, up = (each[name].weight.to(x.dtype) for each in (self.lora_A, self.lora_B))
            scale, drop = self.scaling[name], self.lora_dropout[name]
            if weight is None or (self.training and not isinstance(drop, Identity)):
                return _added(base(x), drop(x), down, up, scale)
            result: torch.Tensor = product.apply(x, weight, base.bias, down, up, scale)
            return result

    return FusedLora


def _added(
    out: torch.Tensor,
    x: torch.Tensor,
    down: torch.Tensor,
    up: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """Return out + scale (x Aᵀ) Bᵀ, with x of shape (…, inputs) and out of shape (…, outputs)."""
    import torch

    inner = x.reshape(-1, x.shape[-1]) @ down.T
    flat = out.reshape(-1, out.shape[-1])
    return torch.addmm(flat, inner, up.T, alpha=scale).view(out.shape)


def _product() -> Any:
    """Make a layer with plain weights into a function with its own derivative."""
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
