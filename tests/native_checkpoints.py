"""Tiny checkpoints in the layouts of GPT-OSS (MXFP4) and DeepSeek-V3 (FP8), and their true values.

The quantisers share no code with the package or with transformers.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.tiny_models import save_tiny_model

MAGNITUDES = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0], dtype=torch.float64)
GROUP = 32
Tensors = dict[str, torch.Tensor]


def save_mxfp4_model(folder: Path, *, dtype: torch.dtype, shards: int = 3) -> Tensors:
    """Saves a GPT-OSS model as its publisher does; returns every true weight by name."""
    stored: Tensors = {}
    true: Tensors = {}
    config, weights = _tiny("gpt_oss", folder)
    for name, weight in weights.items():
        if name.endswith(("gate_up_proj", "down_proj")):
            blocks, scales, values = quantise_mxfp4(weight)
            stored |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
            true[name] = values.to(dtype)
        else:
            stored[name] = true[name] = weight.to(dtype)
    config["quantization_config"] = {
        "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router"],
        "quant_method": "mxfp4",
    }
    _save(folder, stored, config, dtype, shards)
    return true


def save_fp8_model(folder: Path, *, dtype: torch.dtype, block: int, shards: int = 3) -> Tensors:
    """Saves a DeepSeek-V3 model as its publisher does; returns every true weight by name.

    A layer past the last, which predicts a second token, is stored as well, but not returned.
    """
    stored: Tensors = {}
    true: Tensors = {}
    config, weights = _tiny("deepseek_v3", folder)
    for name, weight in weights.items():
        projection = name.endswith("proj.weight") or name.endswith("proj_with_mqa.weight")
        if projection:
            quantised, scales, values = quantise_fp8(weight, block)
            stored |= {name: quantised, f"{name}_scale_inv": scales}
            true[name] = values.to(dtype)
        else:
            kept = torch.float32 if name.endswith("e_score_correction_bias") else dtype
            stored[name] = true[name] = weight.to(kept)
    past = f"model.layers.{config['num_hidden_layers']}"
    stored |= {
        f"{past}.enorm.weight": torch.ones(64, dtype=dtype),
        f"{past}.eh_proj.weight": torch.zeros(64, 128, dtype=dtype),
        f"{past}.self_attn.o_proj.weight": torch.zeros(64, 64).to(torch.float8_e4m3fn),
        f"{past}.self_attn.o_proj.weight_scale_inv": torch.ones(-(-64 // block), -(-64 // block)),
    }
    config["quantization_config"] = {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "weight_block_size": [block, block],
    }
    _save(folder, stored, config, dtype, shards)
    return true


def quantise_mxfp4(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Packed blocks [E, out, groups, 16], scales [E, out, groups] and true values [E, in, out]."""
    rows = weight.to(torch.float64).transpose(1, 2)
    groups = rows.reshape(*rows.shape[:2], -1, GROUP)
    largest = groups.abs().amax(-1).clamp(min=2.0**-100)
    exponent = torch.floor(torch.log2(largest)) - 2  # the largest magnitude is 6 = 1.5 × 2²
    scaled = groups / torch.exp2(exponent)[..., None]
    code = (scaled.abs()[..., None] - MAGNITUDES).abs().argmin(-1)
    sign = (scaled < 0).to(torch.int64)
    nibbles = (code + 8 * sign).to(torch.uint8)
    blocks = nibbles[..., 0::2] | (nibbles[..., 1::2] << 4)
    values = MAGNITUDES[code] * (1 - 2 * sign) * torch.exp2(exponent)[..., None]
    values = values.reshape(rows.shape).transpose(1, 2).contiguous()
    return blocks, (exponent + 127).to(torch.uint8), values


def quantise_fp8(
    weight: torch.Tensor, block: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """float8_e4m3fn values, float32 scales of each tile, and their float32 products."""
    rows, columns = weight.shape
    quantised = torch.empty(weight.shape, dtype=torch.float8_e4m3fn)
    scales = torch.empty(-(-rows // block), -(-columns // block))
    values = torch.empty(weight.shape)
    for down in range(scales.shape[0]):
        for across in range(scales.shape[1]):
            tile = (
                slice(down * block, (down + 1) * block),
                slice(across * block, (across + 1) * block),
            )
            scale = weight[tile].abs().max() / 448
            quantised[tile] = (weight[tile] / scale).to(torch.float8_e4m3fn)
            scales[down, across] = scale
            values[tile] = quantised[tile].to(torch.float32) * scale
    return quantised, scales, values


def _tiny(architecture: str, folder: Path) -> tuple[dict[str, Any], Tensors]:
    """Configuration and float32 weights of a tiny model; leaves its tokenizer in the folder."""
    plain = folder.with_name(f"{folder.name}-plain")
    save_tiny_model(architecture, plain)
    folder.mkdir(parents=True)
    for path in plain.iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            shutil.copyfile(path, folder / path.name)
    config = json.loads((plain / "config.json").read_text())
    return config, load_file(plain / "model.safetensors")


def _save(
    folder: Path, stored: Tensors, config: dict[str, Any], dtype: torch.dtype, shards: int
) -> None:
    """Deals the tensors out in turn, so that values and their scales lie in different shards."""
    weight_map = {}
    for number in range(shards):
        name = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = {key: stored[key].contiguous() for key in list(stored)[number::shards]}
        save_file(part, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, name)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )
    config.pop("dtype", None)
    config["torch_dtype"] = str(dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(config))
