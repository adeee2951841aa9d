"""Attaches LoRA adapters by explicit module patterns, and loads saved ones."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from xling.models.architectures import architectures

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

ROUTER = re.compile(r"(router|\.gate)$")


def lora_pattern(model_type: str, *, pattern: str = "") -> str:
    """Pattern of the modules that get an adapter.

    Args:
        model_type: ``config.model_type`` of the model.
        pattern: a recipe's own pattern, which wins.

    Raises:
        ValueError: the architecture is not known to be dense, and no pattern is given.
    """
    if pattern:
        return pattern
    known = architectures()
    if model_type in known:
        return known[model_type].lora_modules
    raise ValueError(
        f"no LoRA pattern is known for model type {model_type!r} "
        f"(known: {', '.join(sorted(known))}); set `lora_modules` on the model in "
        "the study file to a regular expression over its module names"
    )


def matching_modules(model: "PreTrainedModel", pattern: str) -> tuple[str, ...]:
    """Names of the linear modules that a pattern hits, in model order.

    Raises:
        ValueError: it hits none, or hits a router.
    """
    import torch

    names = tuple(
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and re.search(pattern, name)
    )
    routers = [name for name in names if ROUTER.search(name)]
    if not names or routers:
        reason = f"hits the routers {routers[:3]}" if names else "hits no linear module"
        linear = sorted(
            {
                name.rsplit(".", 1)[-1]
                for name, module in model.named_modules()
                if isinstance(module, torch.nn.Linear)
            }
        )
        raise ValueError(
            f"LoRA pattern {pattern!r} {reason} of {type(model).__name__}; "
            f"its linear modules end in {', '.join(linear)}"
        )
    return names


def attach_lora(
    model: "PreTrainedModel",
    *,
    modules: tuple[str, ...],
    r: int,
    alpha: int,
    dropout: float,
    seed: int,
) -> "PeftModel":
    """Wraps a frozen base with new LoRA weights (Hu et al. 2021).

    Args:
        model: the base, changed in place; ``PeftModel.unload()`` undoes it.
        modules: full names of the modules to adapt.
        r: rank.
        alpha: scale; the update is multiplied by alpha / r.
        dropout: probability, on the adapter's input.
        seed: decides the initial weights; set right before they are drawn.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import set_seed

    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        bias="none",
        target_modules=list(modules),
    )
    set_seed(seed)
    adapted = get_peft_model(model, config)
    check_adapted(adapted, modules)
    return adapted


def check_adapted(model: "PeftModel", modules: tuple[str, ...]) -> None:
    """Checks that LoRA is on exactly the named modules.

    Raises:
        ValueError: names the modules that were missed or hit unasked.
    """
    from peft.tuners.lora import LoraLayer

    prefix = "base_model.model."
    hit = {
        name.removeprefix(prefix)
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }
    if hit != set(modules):
        missed, unasked = sorted(set(modules) - hit), sorted(hit - set(modules))
        raise ValueError(f"LoRA missed {missed[:5]} and hit {unasked[:5]} unasked")


def load_adapter(model: "PreTrainedModel", folder: Path) -> "PeftModel":
    """Wraps a frozen base with a saved adapter, for scoring.

    Raises:
        ValueError: the folder has no safetensors adapter.
    """
    from peft import PeftModel

    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).is_file():
            raise ValueError(f"adapter folder {folder} lacks {name}")
    adapted = PeftModel.from_pretrained(model, str(folder), is_trainable=False)
    adapted.eval()
    return adapted
