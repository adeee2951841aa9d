"""Converts a GGUF file once into a folder that transformers loads fast, and finds cut files."""

from __future__ import annotations

import functools
import importlib.metadata
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xling.files.checksums import make_once, stamp_file
from xling.files.paths import cache_folder

# Raised whenever what is written changes, such as the checksums beside the weights.
FORMAT = 2
MAGIC = b"GGUF"

logger = logging.getLogger(__name__)


def converted_folder(path: Path, *, sha256: str) -> Path:
    """Make a folder of a GGUF file's float32 safetensors weights, configuration and tokenizer.

    Made on first use (about a minute for 270M parameters), under a name that holds `sha256`, the
    versions of the packages that convert, and `FORMAT`; made again if its files are not what was
    written. Processes that ask for it at once wait for the first.

    Args:
        path: the GGUF file.
        sha256: of its content.

    Raises:
        ValueError: its content has another sha256; if it is cut off, the message says so.
    """
    folder = converted_path(sha256)

    def make(temporary: Path) -> None:
        found = stamp_file(path).sha256
        if found != sha256:
            raise ValueError(
                f"{path} has sha256 {found}, not {sha256}: {cut_off(path) or 'it was changed'}; "
                "delete it, and it is made again"
            )
        _convert(path, temporary)

    def warn(fault: str) -> None:
        logger.warning("%s is damaged (%s): %s is converted again", folder, fault, path.name)

    make_once(folder, make, warn=warn)
    return folder


def converted_path(sha256: str) -> Path:
    """Return where a GGUF file's converted weights are, or will be; see `converted_folder`."""
    makers = "-".join(importlib.metadata.version(name) for name in ("transformers", "gguf"))
    return cache_folder() / "converted" / f"{sha256[:16]}-{makers}-format-{FORMAT}"


def _convert(path: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with _parse_once():
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        model = AutoModelForCausalLM.from_pretrained(
            path.parent,
            gguf_file=path.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.float32,
        )
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


@contextmanager
def _parse_once() -> Iterator[None]:
    """Cache two functions of gguf that transformers calls over and over (63 s become 14 s)."""
    import gguf

    reader, name_map = gguf.GGUFReader, gguf.get_tensor_name_map
    gguf.GGUFReader = functools.lru_cache(reader)
    gguf.get_tensor_name_map = functools.lru_cache(name_map)
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = reader, name_map


def cut_off(path: Path) -> str:
    """Say how a GGUF file is cut off; empty if it is not, or is not a GGUF file at all.

    Reads the header alone, which takes seconds where the vocabulary is large.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        if stream.read(len(MAGIC)) != MAGIC:
            return ""
    try:
        end = _end(path)
    except (IndexError, ValueError):  # what numpy raises on a slice that is too short
        return f"it is cut off: its {size} bytes end within its header"
    return f"it is cut off: it has {size} bytes, its header says {end}" if size < end else ""


def _end(path: Path) -> int:
    """Find the byte after the last tensor."""
    import gguf

    class Header(gguf.GGUFReader):  # type: ignore[misc, unused-ignore]
        """Reads where the tensors lie, and not the tensors: they may not be there."""

        end = 0

        def _build_tensors(self, start_offs: int, fields: list[Any]) -> None:
            self.end = start_offs
            for field in fields:
                *_, dims, kind, offset = field.parts
                block, bytes_a_block = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind[0])]
                values = 1
                for dim in dims.tolist():
                    values *= dim
                last = start_offs + int(offset[0]) + values * bytes_a_block // block
                self.end = max(self.end, last)

    return int(Header(path).end)
