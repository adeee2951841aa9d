"""What the tensors of MXFP4 and FP8 checkpoints become in plain floats.

MXFP4 (Open Compute Project 2023, microscaling formats): E2M1 values in blocks of 32 with a
power-of-two scale. FP8 (DeepSeek-AI 2024): float8_e4m3fn values in tiles, 128 × 128 as a rule,
with a float scale each.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from xling.models.weights.safetensors_files import StoredTensor

if TYPE_CHECKING:
    import torch

BLOCKS, SCALES, SCALE_INV = "_blocks", "_scales", "_scale_inv"
# Scales of activations: of no use to weights in plain floats.
ACTIVATION_SCALES = (".activation_scale", ".input_scale")
FP8_VALUES = ("F8_E4M3", "F8_E5M2")
FLOAT_SCALES = ("F32", "BF16", "F16", "F8_E8M0")
E2M1_MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
E8M0_BIAS = 127
BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "BF16": 2, "F16": 2, "I16": 2, "BOOL": 1}
LAYER = re.compile(r"^model\.layers\.(\d+)\.")


@dataclass(frozen=True)
class Planned:
    """A tensor of the dequantised checkpoint and what it is made of.

    Attributes:
        name: in the dequantised checkpoint.
        dtype: ``BF16``, ``F32``…, as safetensors writes it.
        shape: of the result.
        values: the stored tensor; quantised where `scales` are given, else copied.
        scales: of the quantised values.
        tile: rows and columns that share an FP8 scale; (0, 0): the whole matrix does.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    values: StoredTensor
    scales: StoredTensor | None = None
    tile: tuple[int, int] = (0, 0)

    @property
    def size(self) -> int:
        """Bytes of the result."""
        return math.prod(self.shape) * BYTES[self.dtype]


def plan_tensors(
    stored: Mapping[str, StoredTensor],
    precision: Literal["mxfp4", "fp8"],
    config: Mapping[str, Any],
) -> list[Planned]:
    """Plan what each tensor of a quantised checkpoint becomes, before any is read.

    Layers past the configuration's ``num_hidden_layers`` (DeepSeek's module that predicts a
    second token) are left out, as transformers leaves them out of the model.

    Args:
        stored: the checkpoint's tensors.
        precision: how it is quantised.
        config: content of config.json.

    Raises:
        ValueError: values without scales, scales without values, or shapes that do not fit.
    """
    kept = {name: tensor for name, tensor in stored.items() if not _left_out(name, config)}
    dtype = "F32" if result_dtype(config) == "float32" else "BF16"
    block = config["quantization_config"].get("weight_block_size")
    tile = (int(block[0]), int(block[1])) if block else (0, 0)
    planned = []
    used: set[str] = set()
    for name, tensor in kept.items():
        if precision == "mxfp4" and name.endswith(BLOCKS):
            scales = _partner(kept, tensor, name.removesuffix(BLOCKS) + SCALES)
            planned.append(_plan_mxfp4(tensor, scales, dtype))
        elif precision == "fp8" and tensor.dtype in FP8_VALUES:
            scales = _partner(kept, tensor, name + SCALE_INV)
            planned.append(_plan_fp8(tensor, scales, dtype, tile))
        else:
            continue
        used |= {name, scales.name}
    for name, tensor in kept.items():
        if name not in used and not name.endswith(ACTIVATION_SCALES):
            if tensor.dtype not in BYTES or name.endswith((SCALES, SCALE_INV)):
                raise ValueError(
                    f"tensor {name} of {tensor.path} is {tensor.dtype} and has no partner to "
                    f"be dequantised with: not the layout of {precision} checkpoints"
                )
            planned.append(Planned(name, tensor.dtype, tensor.shape, tensor))
    return sorted(planned, key=lambda plan: (plan.values.path, plan.values.start))


def result_dtype(config: Mapping[str, Any]) -> Literal["float32", "bfloat16"]:
    """Return what quantised tensors become: float32 if config.json asks for it, else bfloat16."""
    asked = config.get("dtype") or config.get("torch_dtype")
    return "float32" if asked == "float32" else "bfloat16"


def dequantised(plan: Planned, values: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Turn a quantised tensor into plain floats.

    Args:
        plan: what it becomes.
        values: packed blocks [experts, rows, groups, 16], or float8 [..., rows, columns].
        scales: [experts, rows, groups], or [..., tiles down, tiles across].

    Returns:
        A tensor of the plan's shape and dtype.
    """
    import torch

    dtype = torch.float32 if plan.dtype == "F32" else torch.bfloat16
    if plan.name + BLOCKS == plan.values.name:
        return _from_mxfp4(plan.shape, values, scales, dtype)
    return _from_fp8(values, scales, plan.tile).to(dtype)


def _left_out(name: str, config: Mapping[str, Any]) -> bool:
    found = LAYER.match(name)
    layers = config.get("num_hidden_layers")
    return found is not None and layers is not None and int(found[1]) >= int(layers)


def _partner(stored: Mapping[str, StoredTensor], tensor: StoredTensor, name: str) -> StoredTensor:
    if name not in stored:
        raise ValueError(f"tensor {tensor.name} of {tensor.path} has no scales ({name})")
    return stored[name]


def _plan_mxfp4(values: StoredTensor, scales: StoredTensor, dtype: str) -> Planned:
    if len(values.shape) != 4 or (values.dtype, scales.dtype) != ("U8", "U8"):
        raise _misfit(values, scales, "4-dimensional blocks of U8 and scales of U8")
    if values.shape[:-1] != scales.shape:
        raise _misfit(values, scales, "one scale a block")
    experts, rows, groups, size = values.shape
    # Checkpoints keep [out, in]; the model's experts are [in, out].
    shape = (experts, groups * size * 2, rows)
    return Planned(values.name.removesuffix(BLOCKS), dtype, shape, values, scales)


def _plan_fp8(
    values: StoredTensor, scales: StoredTensor, dtype: str, tile: tuple[int, int]
) -> Planned:
    if scales.dtype not in FLOAT_SCALES:
        raise _misfit(values, scales, f"scales of {', '.join(FLOAT_SCALES)}")
    if tile == (0, 0):
        fits = math.prod(scales.shape) == 1
    else:
        *leading, rows, columns = values.shape
        fits = scales.shape == (*leading, -(-rows // tile[0]), -(-columns // tile[1]))
    if not fits:
        wanted = f"one scale for each {tile[0]} × {tile[1]} values (weight_block_size)"
        raise _misfit(values, scales, wanted if tile[0] else "a single scale")
    return Planned(values.name, dtype, values.shape, values, scales, tile)


def _misfit(values: StoredTensor, scales: StoredTensor, expected: str) -> ValueError:
    return ValueError(
        f"{values.name} ({values.dtype} {list(values.shape)}) and {scales.name} "
        f"({scales.dtype} {list(scales.shape)}) of {values.path.parent} do not fit: "
        f"expected {expected}"
    )


def _from_mxfp4(
    shape: tuple[int, ...], blocks: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    import torch

    magnitudes = torch.tensor(E2M1_MAGNITUDES, dtype=dtype)
    values = torch.cat([magnitudes, -magnitudes])
    byte = torch.arange(256)
    # The lower four bits come first; both values of a byte are looked up as one wide number.
    wide = torch.int32 if dtype == torch.bfloat16 else torch.int64
    pairs = torch.stack([values[byte % 16], values[byte // 16]], dim=-1).view(wide).flatten()
    result = torch.empty(shape, dtype=dtype)
    for expert in range(len(blocks)):  # so that intermediate results stay small
        groups = pairs[blocks[expert].flatten().int()].view(dtype).view(*scales.shape[1:], -1)
        # Exact in bfloat16 too: a power of two changes the exponent only.
        groups *= torch.exp2(scales[expert].float() - E8M0_BIAS).to(dtype)[..., None]
        result[expert] = groups.flatten(1).T
    return result


def _from_fp8(values: torch.Tensor, scales: torch.Tensor, tile: tuple[int, int]) -> torch.Tensor:
    """Multiply values and scales in float32, tile by tile; the last tiles may be cut off.

    The library infers the tile from the shapes, which fails for matrices that are not multiples of
    it (DeepSeek's kv_a_proj_with_mqa has 576 rows), so it is not used here.
    """
    import torch

    full = values.to(torch.float32)
    if tile == (0, 0):
        return full * scales.to(torch.float32).reshape(())
    rows, columns = full.shape[-2:]
    down, across = scales.shape[-2:]
    padding = (0, across * tile[1] - columns, 0, down * tile[0] - rows)
    if any(padding):
        full = torch.nn.functional.pad(full, padding)
    tiles = full.reshape(-1, down, tile[0], across, tile[1])
    tiles *= scales.to(torch.float32).reshape(-1, down, 1, across, 1)
    return tiles.reshape(*full.shape)[..., :rows, :columns]


def packed_into_shards(planned: list[Planned], limit: int) -> Iterator[list[Planned]]:
    """Group tensors, in order, into shards of at most `limit` bytes (one tensor may be more)."""
    shard: list[Planned] = []
    size = 0
    for plan in planned:
        if shard and size + plan.size > limit:
            yield shard
            shard, size = [], 0
        shard.append(plan)
        size += plan.size
    if shard:
        yield shard
