"""Counts, while a model runs, how many tokens its routers send to each expert."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

# Their routers return (logits, weights, chosen experts), the last of shape (tokens, top k). They
# are known by class and not by `config.model_type`, which a loader of single experts may change.
ROUTERS = {
    "deepseek_v3": "DeepseekV3TopkRouter",
    "gpt_oss": "GptOssTopKRouter",
    "mixtral": "MixtralTopKRouter",
    "olmoe": "OlmoeTopKRouter",
    "qwen3_moe": "Qwen3MoeTopKRouter",
}
"""Architecture (as `config.model_type`) to the class of its routers."""

Repeats = npt.NDArray[np.int64]

_CHOSEN = 2  # place of the chosen experts in what a router returns
_LAYER = re.compile(r"\blayers\.(\d+)\.")
_EXPERT_CLASS = re.compile(r"(Experts|Router|SparseMoeBlock|MoE)$")
_EXPERT_SETTINGS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


class RoutingCounter:
    """Assignments of tokens to experts, summed over the forward passes that were completed.

    A token counts once for each expert that it is sent to, so top k times in each layer. Padding
    is not counted, nor are shared experts, which every token passes.

    Only what a forward pass computes is counted, and as often as the pass says: a token that is
    computed once for several prompts counts once for each of them.

    Args:
        layers: index in the model of each layer with a router, ascending.
        experts: routed experts of a layer.
    """

    def __init__(self, layers: Sequence[int], experts: int) -> None:
        self.layers = tuple(layers)
        self.experts = experts
        self._total: dict[int, torch.Tensor] = {}
        self._pass: dict[int, torch.Tensor] = {}
        self._repeats: torch.Tensor | None = None

    def counts(self) -> npt.NDArray[np.int64]:
        """Return assignments since the start or the last reset, shape (layers, experts)."""
        counts = np.zeros((len(self.layers), self.experts), dtype=np.int64)
        for row, layer in enumerate(self.layers):
            if layer in self._total:
                counts[row] = self._total[layer].cpu().numpy()
        return counts

    def reset(self) -> None:
        """Set all counts to zero, as between languages."""
        self._total = {}

    def begin_pass(self, repeats: torch.Tensor) -> None:
        """Start a forward pass, and forget one that broke off.

        Args:
            repeats: shape (batch x length,), how often each token counts; 0: padding.
        """
        self._repeats = repeats
        self._pass = {}

    def add(self, layer: int, chosen: torch.Tensor) -> None:
        """Count one layer of the pass; a router called outside of a pass is not counted.

        Args:
            layer: its index in the model.
            chosen: shape (batch x length, top k), experts.

        Raises:
            RuntimeError: the router saw other tokens than the model was given.
        """
        if self._repeats is None:
            return
        if chosen.dim() != 2 or len(chosen) != len(self._repeats):
            raise RuntimeError(
                f"the router of layer {layer} chose experts of shape {tuple(chosen.shape)} for "
                f"{len(self._repeats)} tokens; routing cannot be recorded where tokens are dropped "
                "or spread over devices before they are routed"
            )
        if self._repeats.device != chosen.device:  # moved once, not in every layer
            self._repeats = self._repeats.to(chosen.device)
        repeats = self._repeats.long().repeat_interleave(chosen.shape[1])
        # Not bincount, which waits for the device in every layer.
        counted = repeats.new_zeros(self.experts).index_add_(0, chosen.reshape(-1), repeats)
        before = self._pass.get(layer)
        self._pass[layer] = counted if before is None else before + counted

    def end_pass(self) -> None:
        """Add the pass to the totals.

        Raises:
            RuntimeError: a layer's router was not called.
        """
        silent = [layer for layer in self.layers if layer not in self._pass]
        if silent:
            raise RuntimeError(
                f"the routers of layers {silent[:5]} were not called, so their routing is not "
                "known: a fused kernel stands in for them; load the model without `use_kernels`"
            )
        for layer, counted in self._pass.items():
            before = self._total.get(layer)
            self._total[layer] = counted if before is None else before + counted
        self._repeats = None
        self._pass = {}


def is_mixture(model: PreTrainedModel | PeftModel) -> bool:
    """Tell whether a model has routed experts, of an architecture in `ROUTERS` or of another."""
    if _routers(model):
        return True
    config = model.config.get_text_config()
    if config.model_type in ROUTERS:  # known, and every one of its layers is dense
        return False
    sizes = [getattr(config, name, None) for name in _EXPERT_SETTINGS]
    return any(isinstance(size, int) and size > 1 for size in sizes) or any(
        _EXPERT_CLASS.search(type(module).__name__) for module in model.modules()
    )


def describes_mixture(config: Mapping[str, Any]) -> bool:
    """Tell from a model's config.json, before it is loaded, whether it has routed experts.

    Args:
        config: the part on text.
    """
    sizes = [config.get(name) for name in _EXPERT_SETTINGS]
    return config.get("model_type") in ROUTERS or any(
        isinstance(size, int) and size > 1 for size in sizes
    )


def has_known_routers(model: PreTrainedModel | PeftModel) -> bool:
    """Tell whether `recording_routing` can record this model."""
    return bool(_routers(model))


@contextmanager
def recording_routing(
    model: PreTrainedModel | PeftModel, *, repeats: Callable[[], Repeats | None] | None = None
) -> Iterator[RoutingCounter]:
    """Count where the model sends its tokens, for the length of the block.

    Every forward pass counts, with or without a cache, through whichever wrapper (PeftModel, head)
    it is called. The attention mask tells padding; without one every token is real.

    Args:
        model: a mixture of experts, its experts fused or apart, with or without an adapter.
        repeats: asked at each pass: how often each token counts, shape (batch x length,). None,
            or where it gives None: once, padding by the attention mask.

    Yields:
        The counter.

    Raises:
        ValueError: the model is dense or its architecture is not known; or, when a pass begins,
            its attention mask is not of shape (batch, length).
        RuntimeError: in a pass, a router is not called or sees other tokens than the model.
    """
    routers = _routers(model)
    if not routers:
        raise ValueError(_refusal(model))
    experts = {int(router.num_experts) for router in routers.values()}
    if len(experts) > 1:
        raise ValueError(
            f"the layers of {_architecture(model)} have different numbers of experts "
            f"({sorted(experts)}); routing is recorded only where all have the same"
        )
    counter = RoutingCounter(sorted(routers), experts.pop())
    backbone = _backbone(model)
    with ExitStack() as hooks:
        for layer, router in routers.items():
            hooks.callback(router.register_forward_hook(_router_hook(counter, layer)).remove)
        hooks.callback(
            backbone.register_forward_pre_hook(
                lambda _, args, kwargs: counter.begin_pass(_repeats(repeats, args, kwargs)),
                with_kwargs=True,
            ).remove
        )
        hooks.callback(backbone.register_forward_hook(lambda *_: counter.end_pass()).remove)
        yield counter


def _router_hook(counter: RoutingCounter, layer: int) -> Any:
    def count(module: Any, inputs: Any, output: Any) -> None:
        counter.add(layer, output[_CHOSEN])

    return count


def _repeats(
    asked: Callable[[], Repeats | None] | None, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> torch.Tensor:
    """Return how often each token of a pass counts, shape (batch x length,)."""
    import torch

    known = asked() if asked is not None else None
    return _real_tokens(args, kwargs) if known is None else torch.from_numpy(known)


def _real_tokens(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    """Tell which tokens that a pass computes are not padding, shape (batch x length,)."""
    import torch

    inputs = args[0] if args else kwargs.get("input_ids")
    if inputs is None:
        inputs = kwargs["inputs_embeds"]
    rows, length = inputs.shape[:2]
    mask = args[1] if len(args) > 1 else kwargs.get("attention_mask")
    if mask is None:
        return torch.ones(rows * length, dtype=torch.bool, device=inputs.device)
    shape = tuple(getattr(mask, "shape", ()))
    if len(shape) != 2 or shape[0] != rows or shape[1] < length:
        raise ValueError(
            f"routing: the attention mask has shape {shape or type(mask).__name__} for "
            f"{rows} x {length} tokens; give a mask of shape (batch, length), the cached tokens "
            "included, so that padding can be recognised"
        )
    # The mask covers the cache as well; the pass computes the last columns only.
    real: torch.Tensor = mask[:, shape[1] - length :].bool().reshape(-1)
    return real


def _routers(model: PreTrainedModel | PeftModel) -> dict[int, Any]:
    """Map each layer's index to its router, of known architectures."""
    known = set(ROUTERS.values())
    found = {}
    for name, module in model.named_modules():
        place = _LAYER.search(name)
        if place and any(base.__name__ in known for base in type(module).__mro__):
            found[int(place[1])] = module
    return found


def _backbone(model: PreTrainedModel | PeftModel) -> Any:
    """Find the innermost model with the routers, which every outer one calls in the end."""
    from transformers import PreTrainedModel

    return [
        module
        for module in model.modules()
        if isinstance(module, PreTrainedModel) and _routers(module)
    ][-1]


def _architecture(model: PreTrainedModel | PeftModel) -> str:
    return f"model type {model.config.get_text_config().model_type!r}"


def _refusal(model: PreTrainedModel | PeftModel) -> str:
    if not is_mixture(model):
        return f"{_architecture(model)} is dense: it has no expert routing to record"
    return (
        f"expert routing of {_architecture(model)} cannot be recorded (known: "
        f"{', '.join(sorted(ROUTERS))}); add the class of its router to ROUTERS in "
        "xling/routing/counting.py"
    )
