"""The files of a checkpoint: configuration, tokenizer and safetensors shards, read by header."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What decides a model's output; documentation and other formats do not.
TOKENIZER_PATTERNS = ("*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt")
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

HEADER_LENGTH = struct.Struct("<Q")
# As the safetensors library has it.
MOST_HEADER = 100_000_000
# Bits of one element by safetensors' name of its type.
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "I16": 16, "U16": 16, "F16": 16,
    "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip
REMEDY = "fetch it again (after `git clone`, run `git lfs pull`)"


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as a safetensors header describes it.

    Attributes:
        name: in the checkpoint.
        path: the shard that holds it.
        dtype: as safetensors writes it: ``BF16``, ``F8_E4M3``, ``U8``…
        shape: of the stored tensor.
        start: of its bytes, in the shard's data.
        end: of its bytes.
    """

    name: str
    path: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_config(folder: Path) -> dict[str, Any]:
    """Read config.json.

    Raises:
        ValueError: it is missing or not a JSON object.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"model folder {folder} lacks config.json")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        size = path.stat().st_size
        raise ValueError(
            f"{path} ({size} bytes) is not JSON ({error}): it is cut off or was changed; {REMEDY}"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a JSON object; {REMEDY}")
    return content


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Return every tensor of a checkpoint, by name, in the order of the shards' bytes.

    Reads the headers alone: it is quick on a checkpoint of any size.

    Raises:
        ValueError: shards are missing, cut short, or lack tensors that the index names.
    """
    index = _weight_map(folder)
    shards = sorted(set(index.values())) if index else [WEIGHTS]
    missing = [name for name in shards if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"model folder {folder} lacks {len(missing)} of {len(shards)} shards "
            f"({', '.join(missing[:3])}{', …' if len(missing) > 3 else ''}); fetch them again"
        )
    found = {tensor.name: tensor for name in shards for tensor in read_header(folder / name)}
    for name, shard in index.items():
        if name not in found or found[name].path.name != shard:
            raise ValueError(f"{folder / shard} lacks tensor {name} of {INDEX}; {REMEDY}")
    return found


def _weight_map(folder: Path) -> dict[str, str]:
    """Read the shard of each tensor from the index; empty for weights in one file."""
    if (folder / WEIGHTS).is_file():
        return {}
    path = folder / INDEX
    if not path.is_file():
        raise ValueError(f"model folder {folder} has neither {WEIGHTS} nor {INDEX}; fetch them")
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8"))["weight_map"])
        outside = [name for name in found.values() if Path(name).name != name or name == ".."]
    except (KeyError, RecursionError, TypeError, ValueError) as error:
        size = path.stat().st_size
        raise ValueError(
            f"{path} ({size} bytes) has no readable weight_map ({error}): it is cut off or was "
            f"changed; {REMEDY}"
        ) from error
    if outside:
        raise ValueError(
            f"{path} names {outside[0]!r}, which is not a file of the model's folder; {REMEDY}"
        )
    return found


def read_header(path: Path) -> list[StoredTensor]:
    """Read the tensors of one safetensors file, by position, from its header alone.

    Raises:
        ValueError: the file is cut off, longer than its header says, has no header, or one that
            describes tensors outside the file or on top of each other.
    """
    size = path.stat().st_size
    if size < HEADER_LENGTH.size:
        raise ValueError(f"{path} is cut off: it has {size} bytes and no header; {REMEDY}")
    with path.open("rb") as stream:
        length = HEADER_LENGTH.unpack(stream.read(HEADER_LENGTH.size))[0]
        if min(length, size) > MOST_HEADER:
            raise ValueError(
                f"{path}: its header says that it is {length} bytes long; no safetensors file has "
                f"one over {MOST_HEADER}; {REMEDY}"
            )
        header = stream.read(length) if HEADER_LENGTH.size + length <= size else b""
    if not header and 0 < length <= MOST_HEADER:
        raise ValueError(
            f"{path} is cut off: its {size} bytes end within its header, which has {length}; "
            f"{REMEDY}"
        )
    try:
        content = json.loads(header)
        content.pop("__metadata__", None)
        tensors = [_stored(path, name, entry) for name, entry in content.items()]
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} ({size} bytes) is not a safetensors file ({error}); {REMEDY}"
        ) from error
    tensors.sort(key=lambda tensor: (tensor.start, tensor.end))
    end = 0
    for tensor in tensors:
        if tensor.start != end:
            raise ValueError(
                f"{path}: tensor {tensor.name} begins at byte {tensor.start} of the data, where "
                f"{end} is next; {REMEDY}"
            )
        end = tensor.end
    whole = HEADER_LENGTH.size + length + end
    if size < whole:
        raise ValueError(
            f"{path} is cut off: it has {size} bytes, its header says {whole}; {REMEDY}"
        )
    if size > whole:
        raise ValueError(f"{path} has {size} bytes where its header says {whole}; {REMEDY}")
    return tensors


def _stored(path: Path, name: str, entry: dict[str, Any]) -> StoredTensor:
    """Read one tensor of a header.

    Raises:
        ValueError: its shape and its bytes do not fit together.
    """
    shape, (start, end) = tuple(entry["shape"]), entry["data_offsets"]
    numbers = (*shape, start, end)
    if not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in numbers):
        raise ValueError(f"tensor {name} has a shape or offsets that are not sizes")
    bits = BITS.get(entry["dtype"])
    if bits is None:
        raise ValueError(f"tensor {name} has the unknown dtype {entry['dtype']!r:.40}")
    if math.prod(shape) * bits != (end - start) * 8:
        raise ValueError(f"tensor {name} has {end - start} bytes, which is not what its shape says")
    return StoredTensor(name, path, entry["dtype"], shape, start, end)
