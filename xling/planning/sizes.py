"""A model's sizes from its configuration alone: parameters by kind, and what layers are made of.

The model is built on torch's meta device, where tensors have shapes and no memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xling.models.adapters import ROUTER
from xling.models.architectures import architecture_of

if TYPE_CHECKING:
    from torch.nn import Parameter
    from transformers import PretrainedConfig, PreTrainedModel

_LAYER = re.compile(r"\blayers\.(\d+)\.")
_PARTS = ("gate", "up", "down")
_EXPERTS = ("num_local_experts", "n_routed_experts", "num_experts")


@dataclass(frozen=True)
class Matrix:
    """One weight matrix of a layer; of the experts one stands for all.

    Attributes:
        name: module name; of experts as after they are unfused, the first one's.
        inputs: width of what it multiplies.
        outputs: width of its result.
        copies: how many there are: the number of experts, else 1.
        active: how many of them a token goes through.
        part: ``gate``, ``up`` or ``down`` of a gated unit; empty: of attention.
    """

    name: str
    inputs: int
    outputs: int
    copies: int = 1
    active: int = 1
    part: str = ""

    @property
    def parameters(self) -> int:
        """Weights of all copies, biases not counted."""
        return self.inputs * self.outputs * self.copies

    @property
    def is_expert(self) -> bool:
        """Whether a router decides which tokens it sees."""
        return self.copies > 1


@dataclass(frozen=True)
class Layer:
    """One decoder layer.

    Attributes:
        matrices: its linear layers and experts, routers not among them.
        normed: values that its norms read, of one token.
    """

    matrices: tuple[Matrix, ...]
    normed: int


@dataclass(frozen=True)
class Sizes:
    """What a configuration decides; all counts are of parameters unless they say otherwise.

    Attributes:
        model_type: as in config.json.
        total: all parameters; tied embeddings once.
        embedding: of the input embeddings.
        head: of the output matrix; 0 where it is the input embeddings.
        router: of the routers.
        norm: of the norms.
        layers: the decoder layers.
        hidden: width of the residual stream.
        vocabulary: words, as the output matrix has them.
        experts: routed experts of a layer; 0: a dense model.
        experts_per_token: of them, how many a token goes through.
        heads: attention heads of a layer.
        query_width: values of all heads' queries.
        value_width: values of all heads' results.
        cached: values that a token leaves in the key-value cache, over all layers.
        context: longest input in tokens; 0: not said.
    """

    model_type: str
    total: int
    embedding: int
    head: int
    router: int
    norm: int
    layers: tuple[Layer, ...]
    hidden: int
    vocabulary: int
    experts: int
    experts_per_token: int
    heads: int
    query_width: int
    value_width: int
    cached: int
    context: int

    @property
    def matrices(self) -> tuple[Matrix, ...]:
        """Of all layers."""
        return tuple(matrix for layer in self.layers for matrix in layer.matrices)

    @property
    def linear(self) -> int:
        """Linear layers of the blocks, experts and routers not counted."""
        return sum(each.parameters for each in self.matrices if not each.is_expert)

    @property
    def expert(self) -> int:
        """Routed experts' matrices."""
        return sum(each.parameters for each in self.matrices if each.is_expert)

    @property
    def active(self) -> int:
        """Parameters that one token goes through, embeddings included."""
        idle = sum(
            each.inputs * each.outputs * (each.copies - each.active) for each in self.matrices
        )
        return self.total - idle

    @property
    def multiplied(self) -> int:
        """Weights of the layers that one token is multiplied with, routers included."""
        return self.router + sum(each.inputs * each.outputs * each.active for each in self.matrices)

    @property
    def is_mixture(self) -> bool:
        """Whether it is a mixture of experts."""
        return self.experts > 0

    def kv_bytes_per_token(self, value_bytes: int = 2) -> int:
        """Return a token's bytes in the key-value cache; sliding windows are not counted off."""
        return self.cached * value_bytes


def model_sizes(config: Mapping[str, Any]) -> Sizes:
    """Build a model on the meta device and count it.

    Args:
        config: what config.json holds; of a model that also sees or hears, its text model counts.

    Raises:
        ValueError: there is no `model_type`, or transformers does not know it.
    """
    import torch
    from transformers import AutoModelForCausalLM

    built = _text_config(config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(built)
    named = dict(model.named_parameters())
    experts = next((int(getattr(built, key)) for key in _EXPERTS if getattr(built, key, 0)), 0)
    active = int(getattr(built, "num_experts_per_tok", 0) or 0) if experts else 0
    embedding = model.get_input_embeddings().weight
    head = model.get_output_embeddings().weight
    queries, values, cached = _attention_widths(built)
    return Sizes(
        model_type=built.model_type,
        total=sum(parameter.numel() for parameter in named.values()),
        embedding=embedding.numel(),
        head=0 if head is embedding else head.numel(),
        router=_count(named, lambda name: bool(ROUTER.search(name.rpartition(".")[0]))),
        norm=_count(named, lambda name: "norm" in name.rsplit(".", 2)[-2]),
        layers=_layers(model, named, experts, active),
        hidden=built.hidden_size,
        vocabulary=int(head.shape[0]),
        experts=experts,
        experts_per_token=active,
        heads=built.num_attention_heads,
        query_width=queries,
        value_width=values,
        cached=cached * built.num_hidden_layers,
        context=int(getattr(built, "max_position_embeddings", 0) or 0),
    )


def _text_config(config: Mapping[str, Any]) -> PretrainedConfig:
    from transformers import AutoConfig

    settings = dict(config.get("text_config") or config)
    model_type = settings.pop("model_type", "")
    # A quantised checkpoint has the same shapes; its settings would ask for its own kernels.
    settings.pop("quantization_config", None)
    if not model_type:
        raise ValueError("the configuration has no model_type; is it a model's config.json?")
    try:
        return AutoConfig.for_model(model_type, **settings)
    except ValueError as error:
        raise ValueError(
            f"model type {model_type!r} is not one that the pinned transformers knows: {error}"
        ) from error


def _attention_widths(config: PretrainedConfig) -> tuple[int, int, int]:
    """Return the widths of all heads' queries, of results, and of a token's cache in one layer."""
    heads = config.num_attention_heads
    if getattr(config, "kv_lora_rank", None):  # latent attention: the cache holds it expanded
        width = config.qk_nope_head_dim + config.qk_rope_head_dim
        return heads * width, heads * config.v_head_dim, heads * (width + config.v_head_dim)
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return heads * width, heads * width, 2 * config.num_key_value_heads * width


def _count(named: Mapping[str, Parameter], chosen: Any) -> int:
    return sum(parameter.numel() for name, parameter in named.items() if chosen(name))


def _layers(
    model: PreTrainedModel,
    named: Mapping[str, Parameter],
    experts: int,
    active: int,
) -> tuple[Layer, ...]:
    """List the decoder layers, in order."""
    import torch

    matrices: dict[int, list[Matrix]] = {}
    for name, module in model.named_modules():
        place = _LAYER.search(f"{name}.")
        if place and isinstance(module, torch.nn.Linear) and not ROUTER.search(name):
            part = next((p for p in _PARTS if name.endswith(f"{p}_proj") and ".mlp." in name), "")
            matrices.setdefault(int(place[1]), []).append(
                Matrix(name, module.in_features, module.out_features, part=part)
            )
    for name, parameter in named.items():
        place = _LAYER.search(name)
        if place and parameter.dim() == 3:
            matrices.setdefault(int(place[1]), []).extend(
                _expert_matrices(name, parameter.numel(), model.config, experts, active)
            )
    return tuple(
        Layer(tuple(found), _normed(named, index, found))
        for index, found in sorted(matrices.items())
    )


def _expert_matrices(
    name: str, count: int, config: PretrainedConfig, experts: int, active: int
) -> Iterable[Matrix]:
    """List what a stack of all experts' weights is made of, whichever way its matrices lie."""
    known = architecture_of(config.model_type)
    names = known.expert_layers if known else ("gate_proj", "up_proj", "down_proj")
    stack, _, last = name.rpartition(".")
    hidden = config.hidden_size
    width = count // (experts * hidden)
    if last == "down_proj":
        return [Matrix(f"{stack}.0.{names[2]}", width, hidden, experts, active, "down")]
    return [
        Matrix(f"{stack}.0.{names[place]}", hidden, width // 2, experts, active, part)
        for place, part in enumerate(("gate", "up"))
    ]


def _normed(named: Mapping[str, Parameter], layer: int, matrices: Iterable[Matrix]) -> int:
    """Count the values a layer's norms read of one token; a norm of heads reads each of them."""
    width = {each.name.rsplit(".", 1)[-1]: each.outputs for each in matrices}
    total = 0
    for name, parameter in named.items():
        place = _LAYER.search(name)
        if place is None or int(place[1]) != layer or "norm" not in name:
            continue
        norm = name.rsplit(".", 2)[-2]
        total += width.get(norm.replace("_norm", "_proj"), parameter.numel())
    return total


def four_bit_matrices(sizes: Sizes, *, quantise: str = "nf4") -> tuple[Matrix, ...]:
    """List the matrices that a load leaves in four bits: those of the blocks, routers apart.

    Args:
        sizes: of the model.
        quantise: ``nf4``, or ``none``.

    Returns:
        Of an unknown architecture, the linear layers alone: a plain load leaves
        fused experts as they are.
    """
    if quantise == "none":
        return ()
    known = architecture_of(sizes.model_type)
    experts = known is not None and known.experts != "none"
    return tuple(each for each in sizes.matrices if experts or not each.is_expert)


def lora_matrices(sizes: Sizes, *, pattern: str = "") -> tuple[Matrix, ...]:
    """List the matrices that get an adapter; an expert's stands for all of its layer.

    Args:
        sizes: of the model.
        pattern: a study's own regular expression over module names; empty: by architecture.

    Returns:
        Of an unknown architecture, all linear layers of its blocks.
    """
    known = architecture_of(sizes.model_type)
    chosen = pattern or (known.lora_modules if known else "")
    # Experts that stay a stack of parameters are not modules that LoRA could be put on.
    reached = known is not None and known.experts == "unfuse"
    return tuple(
        each
        for each in sizes.matrices
        if re.search(chosen, each.name) and (reached or not each.is_expert)
    )


def lora_parameters(matrices: Iterable[Matrix], r: int) -> int:
    """Count trained parameters: r (inputs + outputs) of each (Hu et al. 2021, arXiv 2106.09685)."""
    return sum(r * (each.inputs + each.outputs) * each.copies for each in matrices)
