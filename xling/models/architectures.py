"""How each architecture gets to four bits, and where its adapters sit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

# The seven projections of a dense decoder block; anchored at the end of the module's name.
DENSE_PROJECTIONS = r"(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)$"
ATTENTION = r"self_attn\.(q|k|v|o)_proj$"
# As above, in dense layers and in every single expert.
EXPERT_PROJECTIONS = r"(self_attn\.(q|k|v|o)_proj|mlp\.(experts\.\d+\.)?(gate|up|down)_proj)$"
MIXTRAL_PROJECTIONS = r"(self_attn\.(q|k|v|o)_proj|mlp\.experts\.\d+\.w[123])$"
# Latent attention, dense and shared MLPs, and every routed expert.
DEEPSEEK_PROJECTIONS = (
    r"(self_attn\.(q_proj|q_a_proj|q_b_proj|kv_a_proj_with_mqa|kv_b_proj|o_proj)"
    r"|mlp\.((shared_experts|experts\.\d+)\.)?(gate|up|down)_proj)$"
)
# A model whose experts were set apart says so in `config.model_type`: peft and transformers,
# which fuse and rename by this word, then leave it alone.
UNFUSED = "_unfused"


@dataclass(frozen=True)
class Architecture:
    """What all models of one ``config.model_type`` have in common.

    Attributes:
        model_type: as in config.json.
        experts: ``none`` for a dense model; ``unfuse``: experts become one linear layer each,
            which a four-bit load quantises and LoRA reaches; ``parametrise``: fused experts are
            quantised as parameters, out of LoRA's reach.
        lora_modules: regular expression searched in module names; never hits a router.
        gradient_checkpointing: whether training needs it (else autograd keeps every dequantised
            expert).
        attention: implementation that transformers is asked for.
        expert_layers: names, as on disk, of an expert's gate, up and down projection.
        renamed: regular expressions over tensor names on disk, each with what it becomes.
        text_tower: whether only the language model inside of it is loaded.
    """

    model_type: str
    experts: Literal["none", "unfuse", "parametrise"] = "none"
    lora_modules: str = DENSE_PROJECTIONS
    gradient_checkpointing: bool = False
    attention: Literal["sdpa", "eager"] = "sdpa"
    expert_layers: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")
    renamed: Mapping[str, str] = field(default_factory=dict)
    text_tower: bool = False


def architectures() -> dict[str, Architecture]:
    """Return the known architectures, by model type."""
    dense = "gemma3_text llama mistral olmo2 olmo3 qwen2 qwen3 smollm3"
    known = [Architecture(name) for name in dense.split()]
    known += [
        # sdpa would leave out the cap on its attention logits.
        Architecture("gemma2", attention="eager"),
        Architecture("qwen3_moe", experts="unfuse", lora_modules=EXPERT_PROJECTIONS),
        Architecture("olmoe", experts="unfuse", lora_modules=EXPERT_PROJECTIONS),
        Architecture(
            "mixtral",
            experts="unfuse",
            lora_modules=MIXTRAL_PROJECTIONS,
            expert_layers=("w1", "w3", "w2"),
            renamed={r"\.block_sparse_moe\.": ".mlp."},
        ),
        Architecture("deepseek_v3", experts="unfuse", lora_modules=DEEPSEEK_PROJECTIONS),
        # Attention has sinks, which sdpa cannot compute.
        Architecture(
            "gpt_oss",
            experts="parametrise",
            lora_modules=ATTENTION,
            gradient_checkpointing=True,
            attention="eager",
        ),
        # Text and images; the vision tower is left on disk. Both orders of the prefix exist.
        Architecture(
            "gemma3",
            renamed={r"^language_model\.model\.": "model.", r"^model\.language_model\.": "model."},
            text_tower=True,
        ),
    ]
    return {architecture.model_type: architecture for architecture in known}


def architecture_of(model_type: str) -> Architecture | None:
    """Find the architecture of a model, its experts set apart or not; None: not known."""
    return architectures().get(model_type.removesuffix(UNFUSED))
