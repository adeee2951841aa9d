"""What a model's files may not ask for: their own code, or more than the files hold.

Nobody but the user's own machine vouches for a model folder: it is read, and nothing in it is run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

# Implementations that are part of transformers. Others are kernels, which would be fetched and run.
ATTENTION = ("eager", "sdpa")
EXPERTS = ("eager", "batched_mm", "grouped_mm")
_OWN = {"attn_implementation": ATTENTION, "experts_implementation": EXPERTS}
# Names of the number of blocks in configurations of transformers.
_BLOCKS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "num_decoder_layers")
ADAPTER_CONFIG = "adapter_config.json"
# Another kind of adapter could load further files.
ADAPTER_KIND = "LORA"
# What an adapter's configuration may set. By others PEFT would import a module that the file
# names, load further files, or change the base.
_ADAPTER_SETTINGS = (
    "alpha_pattern", "base_model_name_or_path", "bias", "exclude_modules", "fan_in_fan_out",
    "inference_mode", "init_lora_weights", "layers_pattern", "layers_to_transform", "lora_alpha",
    "lora_bias", "lora_dropout", "megatron_core", "modules_to_save", "peft_type", "peft_version",
    "qalora_group_size", "r", "rank_pattern", "revision", "target_modules", "task_type",
    "use_dora", "use_rslora",
)  # fmt: skip


def check_runs_no_code(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse a model whose configuration names kernels, which are code from the hub.

    Code that ``auto_map`` names is never run either: transformers takes its own class, and where
    it has none the configuration or the tokenizer is refused.

    Args:
        folder: of the model.
        config: content of its config.json.

    Raises:
        ValueError: names file, key and remedy.
    """
    for key, value in _settings(config):
        own = _OWN.get(key.strip("_").removesuffix("_internal"))
        values = list(value.values()) if isinstance(value, dict) else [value]
        wrong = [each for each in values if own and each is not None and each not in own]
        if own and wrong:
            raise ValueError(
                f"{folder / 'config.json'}: {key} is {wrong[0]!r}, a kernel that would be fetched "
                f"and run; take the key out of the file, or set it to one of {', '.join(own)}"
            )


def check_is_no_adapter(folder: Path) -> None:
    """Refuse a model folder that holds an adapter, which transformers would put onto the model.

    Raises:
        ValueError: names the file and the remedy.
    """
    if (folder / ADAPTER_CONFIG).exists():
        raise ValueError(
            f"model folder {folder} holds an adapter ({ADAPTER_CONFIG}), which would be loaded "
            "onto the model: the base would not be the base. Take the adapter's files out, or "
            "merge it into the weights (peft's merge_and_unload) and save the whole model"
        )


def check_size_of_config(folder: Path, config: Mapping[str, Any], *, tensors: int) -> None:
    """Refuse a configuration of more blocks than the files have tensors.

    It would be built before anything is compared with the files.

    Args:
        folder: of the model.
        config: content of its config.json.
        tensors: in the model's files.

    Raises:
        ValueError: names file, key and remedy.
    """
    for key, value in _settings(config):
        if key in _BLOCKS and isinstance(value, int) and value > tensors:
            raise ValueError(
                f"{folder / 'config.json'}: {key} is {value}, but the safetensors files hold "
                f"{tensors} tensors: the configuration is of another model; fetch both again"
            )


def check_adapter_config(folder: Path) -> dict[str, Any]:
    """Refuse an adapter that is more than LoRA weights.

    Args:
        folder: has adapter_config.json.

    Returns:
        Content of adapter_config.json.

    Raises:
        ValueError: it is not a JSON object, is of another kind, or sets what plain LoRA does
            not need.
    """
    path = folder / ADAPTER_CONFIG
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); log the adapter again") from error
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind != ADAPTER_KIND:
        raise ValueError(
            f"{path}: peft_type is {kind!r}, but only {ADAPTER_KIND} is loaded; use an adapter "
            "that this package trained"
        )
    wrong = sorted(key for key, value in config.items() if value and key not in _ADAPTER_SETTINGS)
    if config.get("init_lora_weights") not in (True, False, None, "gaussian"):
        wrong.append("init_lora_weights")
    if wrong:
        raise ValueError(
            f"{path}: {wrong[0]} is {config[wrong[0]]!r:.80}, by which loading could import a "
            "module or change the base; use an adapter that this package trained"
        )
    return config


def _settings(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Give keys and values of a configuration and of those within it."""
    waiting: list[Mapping[str, Any]] = [config]
    while waiting:
        section = waiting.pop()
        yield from section.items()
        waiting += [value for value in section.values() if isinstance(value, dict)]
