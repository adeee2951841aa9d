"""How each architecture gets to four bits, and where its adapters sit."""

from dataclasses import dataclass
from typing import Literal

# The seven projections of a dense decoder block; anchored at the end of the module's name.
DENSE_PROJECTIONS = r"(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)$"


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
    """

    model_type: str
    experts: Literal["none", "unfuse", "parametrise"] = "none"
    lora_modules: str = DENSE_PROJECTIONS
    gradient_checkpointing: bool = False
    attention: Literal["sdpa", "eager"] = "sdpa"


def architectures() -> dict[str, Architecture]:
    """The known architectures, by model type."""
    dense = "gemma2 gemma3_text llama mistral olmo2 olmo3 qwen2 qwen3 smollm3"
    return {name: Architecture(name) for name in dense.split()}
