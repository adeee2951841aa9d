"""Converts a GGUF file once into a folder that transformers loads fast."""

from __future__ import annotations

import functools
import importlib.metadata
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xling.files.checksums import make_once
from xling.files.paths import cache_folder
from xling.models.weights.gguf_header import cut_off
from xling.models.weights.packaged import file_sha256

# Raised whenever what is written changes, such as the checksums beside the weights.
FORMAT = 2

logger = logging.getLogger(__name__)


def converted_folder(path: Path, *, sha256: str) -> Path:
    """Folder with the float32 safetensors weights, configuration and tokenizer of a GGUF file.

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
        found = file_sha256(path)
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
    """Where a GGUF file's converted weights are, or will be; see `converted_folder`."""
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
    """Caches two functions of gguf that transformers calls over and over (63 s become 14 s)."""
    import gguf

    reader, name_map = gguf.GGUFReader, gguf.get_tensor_name_map
    gguf.GGUFReader = functools.lru_cache(reader)
    gguf.get_tensor_name_map = functools.lru_cache(name_map)
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = reader, name_map
