"""Attaches LoRA adapters by explicit module patterns, and loads saved ones."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from xling.models.architectures import architecture_of
from xling.models.weights.config_safety import ADAPTER_CONFIG, check_adapter_config
from xling.models.weights.safetensors_files import read_header

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

# What sends tokens to experts, or weighs an expert that all share; not an MLP's gate_proj.
ROUTER = re.compile(r"(^|\.)(\w*router\w*)(\.|$)|(^|[._])gate$")
_IN_A_BLOCK = re.compile(r"(^|\.)\d+\.")
_PREFIX = "base_model.model."
ADAPTER_WEIGHTS = "adapter_model.safetensors"
# What peft calls an adapter that is given no name, and one that is frozen beneath it.
ADAPTER, _BENEATH = "default", "primer"


def lora_pattern(model_type: str, *, pattern: str = "") -> str:
    """Return the pattern of the modules that get an adapter.

    Args:
        model_type: ``config.model_type`` of the model.
        pattern: a recipe's own pattern, which wins.

    Returns:
        The pattern; empty where the architecture is not known: `derived_modules` then chooses.
    """
    if pattern:
        return pattern
    architecture = architecture_of(model_type)
    return architecture.lora_modules if architecture else ""


def chosen_modules(model: PreTrainedModel, *, pattern: str = "") -> tuple[str, ...]:
    """List the modules that get an adapter, by name, in model order.

    Args:
        model: the base.
        pattern: a recipe's own; empty: by architecture, or derived where that is not known.

    Raises:
        ValueError: the pattern hits no linear module or a router, or nothing can be derived.
    """
    found = lora_pattern(model.config.model_type, pattern=pattern)
    return matching_modules(model, found) if found else derived_modules(model)


def matching_modules(model: PreTrainedModel, pattern: str) -> tuple[str, ...]:
    """List the linear modules that a pattern hits, by name, in model order.

    Raises:
        ValueError: it hits none, or hits a router.
    """
    hits = [name for name, _ in model.named_modules() if re.search(pattern, name)]
    linear = linear_modules(model)
    names = tuple(name for name in hits if name in linear)
    # Not only linear ones: a router has its own class in most mixtures.
    routers = [name for name in hits if ROUTER.search(name)]
    if not names or routers:
        reason = f"hits the routers {routers[:3]}" if routers else "hits no linear module"
        endings = sorted({name.rsplit(".", 1)[-1] for name in linear})
        raise ValueError(
            f"LoRA pattern {pattern!r} {reason} of {type(model).__name__}; "
            f"its linear modules end in {', '.join(endings)}"
        )
    return names


def derived_modules(model: PreTrainedModel) -> tuple[str, ...]:
    """List the linear layers of the decoder's blocks but routers, for an unknown architecture.

    Raises:
        ValueError: there is none.
    """
    decoder = model.get_decoder()
    prefix = next((name for name, module in model.named_modules() if module is decoder), "")
    names = tuple(
        name
        for name in linear_modules(model)
        if name.startswith(prefix)
        and _IN_A_BLOCK.search(name.removeprefix(prefix))
        and not ROUTER.search(name)
    )
    if not names:
        raise ValueError(
            f"model type {model.config.model_type!r} is in no recipe, and no linear layers were "
            f"found in the decoder blocks of {type(model).__name__}; set `lora_modules` on the "
            "model in the study file to a regular expression over its module names"
        )
    endings = sorted({name.rsplit(".", 1)[-1] for name in names})
    logger.info(
        "model type %r is in no recipe: LoRA on all %d linear layers of its blocks (%s); "
        "`lora_modules` in the study file chooses others",
        model.config.model_type,
        len(names),
        ", ".join(endings),
    )
    return names


def linear_modules(model: PreTrainedModel) -> dict[str, None]:
    """Return the names of all linear layers, quantised or not, in model order."""
    import torch

    return {
        name: None for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)
    }


def linear_routers(model: PreTrainedModel) -> list[str]:
    """List the routers that are linear layers, which a four-bit load would quantise."""
    return [name for name in linear_modules(model) if ROUTER.search(name)]


def shortest_targets(model: PreTrainedModel, modules: Sequence[str]) -> list[str]:
    """List the targets by which peft hits exactly `modules`.

    The last part of a name, where all modules that end in it are meant, else full names: peft
    compares each module of the model with each target, and inference servers read the short form.
    """
    chosen = set(modules)
    others = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules() if name not in chosen}
    targets = {
        name if ending in others else ending
        for name, ending in ((name, name.rsplit(".", 1)[-1]) for name in modules)
    }
    return sorted(targets)


def attach_lora(
    model: PreTrainedModel,
    *,
    modules: tuple[str, ...],
    r: int,
    alpha: int,
    dropout: float,
    seed: int,
) -> PeftModel:
    """Wrap a frozen base with new LoRA weights (Hu et al. 2021).

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
        target_modules=shortest_targets(model, modules),
    )
    set_seed(seed)
    adapted = get_peft_model(model, config)
    # PEFT keeps a set, and saves it in another order in each process.
    config.target_modules = sorted(config.target_modules or ())
    check_adapted(adapted, modules)
    return adapted


def freeze_beneath(model: PeftModel, folder: Path) -> None:
    """Add a saved adapter's product to that of the trainable one, without training it.

    Args:
        model: with a trainable adapter, whose gradients it keeps; changed in place.
        folder: of the saved adapter, on the same modules; `check_saved` has passed it.
    """
    from torch.nn import Identity

    model.load_adapter(str(folder), _BENEATH, is_trainable=False)
    model.base_model.set_adapter([ADAPTER, _BENEATH])
    for name, parameter in model.named_parameters():
        if f".{_BENEATH}." in name:
            parameter.requires_grad_(False)
    for module in model.modules():
        drops = getattr(module, "lora_dropout", {})
        if _BENEATH in drops:
            drops[_BENEATH] = Identity()  # frozen, it answers as it did


def stack_adapters(beneath: Path, folder: Path) -> None:
    """Make a saved adapter the sum of itself and of the one that was frozen beneath it.

    The sum of two low-rank products is one of their ranks together: A = [A₁; A₂], B = [B₁ B₂].

    Args:
        beneath: of the adapter beneath; stays as it is.
        folder: of the other one, with the same modules and the same scale alpha / r; gets the sum.

    Raises:
        ValueError: they differ in modules or scale.
    """
    import torch
    from safetensors.torch import load_file, save_file

    below, above = (
        json.loads((each / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        for each in (beneath, folder)
    )
    lower, upper = (load_file(each / ADAPTER_WEIGHTS) for each in (beneath, folder))
    scales = {each["lora_alpha"] / each["r"] for each in (below, above)}
    if lower.keys() != upper.keys() or len(scales) > 1:
        raise ValueError(
            f"the adapter in {folder} cannot be stacked on the one in {beneath}: they differ in "
            "modules or in alpha / r"
        )
    both = {
        # A has a row for each rank, B a column.
        name: torch.cat([lower[name], upper[name]], dim=0 if ".lora_A." in name else 1)
        for name in upper
    }
    for key in ("r", "lora_alpha"):
        above[key] += below[key]
    save_file(both, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    text = json.dumps(above, indent=2, sort_keys=True)
    (folder / ADAPTER_CONFIG).write_text(text, encoding="utf-8")


def check_adapted(model: PeftModel, modules: tuple[str, ...]) -> None:
    """Check that LoRA is on exactly the named modules.

    Raises:
        ValueError: names the modules that were missed or hit unasked.
    """
    from peft.tuners.lora import LoraLayer

    hit = {
        name.removeprefix(_PREFIX)
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }
    if hit != set(modules):
        missed, unasked = sorted(set(modules) - hit), sorted(hit - set(modules))
        raise ValueError(f"LoRA missed {missed[:5]} and hit {unasked[:5]} unasked")


def load_adapter(model: PreTrainedModel, folder: Path) -> PeftModel:
    """Wrap a frozen base with a saved adapter, for scoring.

    Raises:
        ValueError: the folder has no whole safetensors adapter, one for another model, or one that
            is more than LoRA weights.
    """
    from peft import PeftModel

    check_saved(model, folder)
    adapted = PeftModel.from_pretrained(model, str(folder), is_trainable=False)
    adapted.eval()
    return adapted


def check_saved(model: PreTrainedModel, folder: Path) -> None:
    """Check that a folder has a whole safetensors adapter for a model, and nothing else.

    Raises:
        ValueError: it does not.
    """
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / name).is_file():
            pickled = (folder / "adapter_model.bin").exists()
            remedy = "; pickled weights (*.bin) are not loaded: save them as safetensors"
            raise ValueError(f"adapter folder {folder} lacks {name}{remedy if pickled else ''}")
    check_adapter_config(folder)
    read_header(folder / ADAPTER_WEIGHTS)
    _check_fits(model, folder)


def _check_fits(model: PreTrainedModel, folder: Path) -> None:
    """Refuse an adapter of which peft would leave weights out, with no more than a warning."""
    import torch
    from safetensors import safe_open

    layers = {
        name: (module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    wrong = []
    with safe_open(folder / ADAPTER_WEIGHTS, framework="pt") as tensors:
        for key in tensors.keys():  # noqa: SIM118 (not a dict)
            name, _, which = key.removeprefix(_PREFIX).partition(".lora_")
            if which and name not in layers:
                wrong.append(f"{name}, which the model lacks")
            elif which in ("A.weight", "B.weight"):
                width = tensors.get_slice(key).get_shape()[1 if which[0] == "A" else 0]
                has = layers[name][0 if which[0] == "A" else 1]
                if width != has:
                    wrong.append(f"{name} of width {width}, where the model has {has}")
    if wrong:
        settings = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        raise ValueError(
            f"the adapter in {folder} was made for another model: it adapts {wrong[0]} "
            f"({len(wrong)} such weights). It was trained on "
            f"{settings.get('base_model_name_or_path')!r}; the model is "
            f"{model.config._name_or_path!r} ({type(model).__name__}). Use the adapter with its "
            "own base"
        )
