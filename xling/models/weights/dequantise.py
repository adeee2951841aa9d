"""Dequantises MXFP4 and FP8 checkpoints once, so that a four-bit load can read them.

bitsandbytes quantises plain floats only: it refuses a checkpoint that is quantised already.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

from tqdm.auto import tqdm

from xling.files.checksums import make_once
from xling.files.paths import cache_folder
from xling.models.weights.quantised_formats import (
    Planned,
    dequantised,
    packed_into_shards,
    plan_tensors,
    result_dtype,
)
from xling.models.weights.safetensors_files import (
    INDEX,
    TOKENIZER_PATTERNS,
    read_config,
    stored_tensors,
)

Precision = Literal["float", "mxfp4", "fp8"]
METHODS = ("mxfp4", "fp8")
# Raised whenever a change here or in `quantised_formats` changes what is written: weights that an
# earlier version left in the cache are then made anew.
FORMAT = 2
# Bytes of one written shard: memory holds one at a time.
SHARD_BYTES = 4 << 30
GIGABYTE = 10**9

logger = logging.getLogger(__name__)


def stored_precision(folder: Path) -> Precision:
    """Find how a checkpoint stores its block weights.

    Args:
        folder: has config.json.

    Raises:
        ValueError: it is quantised by another method than ``mxfp4`` and ``fp8``.
    """
    config = read_config(folder)
    nested = config.get("text_config") or {}
    if config.get("quantization_config"):
        method = str(config["quantization_config"].get("quant_method"))
    elif nested.get("quantization_config"):
        method = f"{nested['quantization_config'].get('quant_method')} (of text_config)"
    else:
        return "float"
    if method in METHODS:
        return cast(Precision, method)
    raise ValueError(
        f"model {folder} is quantised by {method!r} (quantization_config in its config.json), "
        f"which cannot be dequantised here ({', '.join(METHODS)} can): name the model's release "
        "in bfloat16 or another float, which is then quantised to four bits at load"
    )


def dequantised_folder(folder: Path, *, identity: str) -> Path:
    """Make a folder of a quantised checkpoint's weights in bfloat16, with all else of the model.

    The weights are in float32 where config.json's dtype says so. The folder is made on first use,
    with one shard in memory at a time, under a name that holds `identity`, `FORMAT` and the
    version of torch, which converts; made again if its files are not what was written. Processes
    that ask for it at once wait for the first.

    Args:
        folder: the checkpoint: config.json, safetensors and tokenizer files.
        identity: of the checkpoint's files, already computed.

    Raises:
        ValueError: the checkpoint is not quantised by MXFP4 or FP8, is incomplete, or the disk
            has too little space.
    """
    precision = stored_precision(folder)
    if precision == "float":
        raise ValueError(f"model {folder} is not quantised: there is nothing to dequantise")
    target = dequantised_path(identity)

    def warn(fault: str) -> None:
        logger.warning("%s is damaged (%s): %s is dequantised again", target, fault, folder)

    make_once(
        target,
        lambda temporary: _dequantise(folder, temporary, target=target, precision=precision),
        warn=warn,
    )
    return target


def dequantised_path(identity: str) -> Path:
    """Return where a checkpoint's dequantised weights are, or will be; see `dequantised_folder`."""
    # No other package's arithmetic; 2.9.0+cpu and 2.9.0+cu128 make the same numbers.
    maker = f"torch-{importlib.metadata.version('torch').partition('+')[0]}"
    short = hashlib.sha256(identity.encode()).hexdigest()[:16]
    return cache_folder() / "dequantised" / f"{short}-{maker}-format-{FORMAT}"


def _dequantise(
    folder: Path, temporary: Path, *, target: Path, precision: Literal["mxfp4", "fp8"]
) -> None:
    """Write a checkpoint's dequantised weights to `temporary`, which becomes `target`."""
    config = read_config(folder)
    planned = plan_tensors(stored_tensors(folder), precision, config)
    small = _small_files(folder)
    total = sum(plan.size for plan in planned)
    needed = total + sum(path.stat().st_size for path in small)
    _check_disk_space(target.parent, needed, model=folder)
    logger.info(
        "dequantising %s from %s, once, into %s (%.1f GB)",
        folder,
        precision,
        target,
        needed / GIGABYTE,
    )
    with tqdm(total=total, desc="dequantising", unit="B", unit_scale=True) as bar:
        _write_shards(planned, temporary, bar)
    for path in small:
        shutil.copyfile(path, temporary / path.name)
    del config["quantization_config"]
    config["torch_dtype" if "torch_dtype" in config else "dtype"] = result_dtype(config)
    _write_json(temporary / "config.json", config)


def _small_files(folder: Path) -> list[Path]:
    """List tokenizer and generation files: all that describes the model but not its weights."""
    found = {path for pattern in TOKENIZER_PATTERNS for path in folder.glob(pattern)}
    return sorted(path for path in found if path.name not in ("config.json", INDEX))


def _check_disk_space(parent: Path, needed: int, *, model: Path) -> None:
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise ValueError(
            f"dequantising {model} needs {needed / GIGABYTE:.1f} GB in {parent}, where "
            f"{free / GIGABYTE:.1f} GB are free: make room, or move the cache to a larger disk "
            "by setting XDG_CACHE_HOME"
        )


def _write_shards(planned: Sequence[Planned], folder: Path, bar: tqdm[Any]) -> None:
    """Write the tensors and their index, with one shard in memory at a time."""
    from safetensors.torch import save_file

    shards = list(packed_into_shards(list(planned), SHARD_BYTES))
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {}
        for plan in shard:
            tensors[plan.name] = _made(plan)
            bar.update(plan.size)
        save_file(tensors, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
    total = sum(plan.size for plan in planned)
    _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _made(plan: Planned) -> Any:
    """Read the tensor of a plan from its shards, and convert it."""
    from safetensors import safe_open

    with safe_open(plan.values.path, framework="pt") as shard:
        values = shard.get_tensor(plan.values.name)
    if plan.scales is None:
        return values
    with safe_open(plan.scales.path, framework="pt") as shard:
        scales = shard.get_tensor(plan.scales.name)
    return dequantised(plan, values, scales).contiguous()


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
