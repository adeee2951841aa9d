"""The files of a checkpoint: configuration, tokenizer and safetensors shards, read by header."""

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What decides a model's output; documentation and other formats do not.
TOKENIZER_PATTERNS = ("*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt")
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

HEADER_LENGTH = struct.Struct("<Q")
# The format allows no larger header: what claims one is no such file.
MOST_HEADER_BYTES = 100_000_000
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
    """

    name: str
    path: Path
    dtype: str
    shape: tuple[int, ...]
    start: int


def read_config(folder: Path) -> dict[str, Any]:
    """Content of config.json.

    Raises:
        ValueError: it is missing or not a JSON object.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"model folder {folder} lacks config.json")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        size = path.stat().st_size
        raise ValueError(
            f"{path} ({size} bytes) is not JSON ({error}): it is cut off or was changed; {REMEDY}"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a JSON object; {REMEDY}")
    return content


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of a checkpoint, by name, in the order of the shards' bytes.

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
    found = {tensor.name: tensor for name in shards for tensor in _read_header(folder / name)}
    for name, shard in index.items():
        if name not in found or found[name].path.name != shard:
            raise ValueError(f"{folder / shard} lacks tensor {name} of {INDEX}; {REMEDY}")
    return found


def _weight_map(folder: Path) -> dict[str, str]:
    """Shard of each tensor by the index; empty for weights in one file, as transformers reads."""
    if (folder / WEIGHTS).is_file():
        return {}
    path = folder / INDEX
    if not path.is_file():
        raise ValueError(f"model folder {folder} has neither {WEIGHTS} nor {INDEX}; fetch them")
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["weight_map"])
    except (KeyError, TypeError, ValueError) as error:
        size = path.stat().st_size
        raise ValueError(
            f"{path} ({size} bytes) has no readable weight_map ({error}): it is cut off or was "
            f"changed; {REMEDY}"
        ) from error


def _read_header(path: Path) -> list[StoredTensor]:
    """Tensors of one shard, by position.

    Raises:
        ValueError: the file is cut off, or longer than its header says, or has no header.
    """
    size = path.stat().st_size
    if size < HEADER_LENGTH.size:
        raise ValueError(f"{path} is cut off: it has {size} bytes and no header; {REMEDY}")
    with path.open("rb") as stream:
        length = HEADER_LENGTH.unpack(stream.read(HEADER_LENGTH.size))[0]
        header = stream.read(length) if HEADER_LENGTH.size + length <= size else b""
    try:
        content = json.loads(header)
        content.pop("__metadata__", None)
        tensors = [
            StoredTensor(
                name, path, entry["dtype"], tuple(entry["shape"]), entry["data_offsets"][0]
            )
            for name, entry in content.items()
        ]
        ends = [entry["data_offsets"][1] for entry in content.values()]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if not header and 0 < length < MOST_HEADER_BYTES:
            raise ValueError(
                f"{path} is cut off: its {size} bytes end within its header, which has {length}; "
                f"{REMEDY}"
            ) from error
        raise ValueError(f"{path} ({size} bytes) is no safetensors file; {REMEDY}") from error
    whole = HEADER_LENGTH.size + length + max(ends, default=0)
    if size < whole:
        raise ValueError(
            f"{path} is cut off: it has {size} bytes, its header says {whole}; {REMEDY}"
        )
    if size > whole:
        raise ValueError(f"{path} has {size} bytes where its header says {whole}; {REMEDY}")
    return sorted(tensors, key=lambda tensor: tensor.start)
