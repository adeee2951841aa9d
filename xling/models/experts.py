"""Mixtures whose experts are separate linear layers, as on disk, instead of fused stacks.

A four-bit load quantises linear layers, and LoRA reaches them; of a stack it does neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from xling.models.architectures import UNFUSED, Architecture

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def unfused_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """Mark a configuration, in place, as one of a model with experts set apart.

    transformers fuses a checkpoint's experts, and peft rewrites the names of their layers, by
    ``model_type``: under another one both leave them as they are on disk. Nothing global changes.
    """
    config.model_type = f"{config.model_type.removesuffix(UNFUSED)}{UNFUSED}"
    return config


def unfused_class(
    model_class: type[PreTrainedModel], architecture: Architecture
) -> type[PreTrainedModel]:
    """Make a subclass whose models have one linear layer for each projection of each expert.

    Args:
        model_class: of transformers, with fused experts.
        architecture: names the projections.
    """

    def initialise(self: Any, config: PreTrainedConfig, *inputs: Any, **settings: Any) -> None:
        model_class.__init__(self, config, *inputs, **settings)
        set_experts_apart(self, architecture)

    # The module's name keeps transformers from taking it for code from a hub.
    members = {"__init__": initialise, "__module__": model_class.__module__}
    made: type[PreTrainedModel] = type(model_class.__name__, (model_class,), members)
    return made


def set_experts_apart(model: PreTrainedModel, architecture: Architecture) -> None:
    """Replace fused experts, in place, by linear layers of the same shapes and new weights."""
    fused = [name for name, module in model.named_modules() if _is_fused(module)]
    for name in fused:
        experts = model.get_submodule(name)
        # Where weights are loaded next, none are drawn first.
        with torch.device("meta" if _on_meta(experts) else "cpu"):
            apart = SingleExperts(experts, architecture.expert_layers)
        model.set_submodule(name, apart)


def _is_fused(module: Any) -> bool:
    own = dict(module.named_parameters(recurse=False))
    return "gate_up_proj" in own and own["gate_up_proj"].dim() == 3


def _on_meta(module: torch.nn.Module) -> bool:
    return all(parameter.is_meta for parameter in module.parameters())


class SingleExpert(torch.nn.Module):
    """A gated MLP: down(act(gate(x)) * up(x))."""

    def __init__(self, fused: Any, names: tuple[str, str, str]) -> None:
        super().__init__()
        _, twice, hidden = fused.gate_up_proj.shape
        dtype = fused.gate_up_proj.dtype
        shapes = ((hidden, twice // 2), (hidden, twice // 2), (twice // 2, hidden))
        for name, (inputs, outputs) in zip(names, shapes, strict=True):
            self.add_module(name, torch.nn.Linear(inputs, outputs, bias=False, dtype=dtype))
        self.act_fn = fused.act_fn
        self._names = names

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Compute one expert; shape (tokens, hidden size), in and out."""
        gate, up, down = (self.get_submodule(name) for name in self._names)
        result: torch.Tensor = down(self.act_fn(gate(hidden)) * up(hidden))
        return result


class SingleExperts(torch.nn.ModuleList):
    """The experts of one layer; sums each token's chosen ones, weighted, as the fused do."""

    def __init__(self, fused: Any, names: tuple[str, str, str]) -> None:
        super().__init__(SingleExpert(fused, names) for _ in range(fused.num_experts))
        self.num_experts = fused.num_experts

    def forward(
        self,
        hidden_states: torch.Tensor,
        top_k_index: torch.Tensor,
        top_k_weights: torch.Tensor,
    ) -> torch.Tensor:
        """Sum the experts.

        Args:
            hidden_states: shape (tokens, hidden size).
            top_k_index: shape (tokens, k), experts.
            top_k_weights: same shape.
        """
        total = torch.zeros_like(hidden_states)
        # In training every expert runs, be it on no token: all processes then have the same
        # gradients to exchange, and the optimiser sees zeros and not gaps.
        hit = range(self.num_experts) if self.training else torch.unique(top_k_index).tolist()
        for expert in hit:
            token, place = torch.where(top_k_index == expert)
            answer = self[expert](hidden_states[token]) * top_k_weights[token, place, None]
            total.index_add_(0, token, answer.to(total.dtype))
        return total
