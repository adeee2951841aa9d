"""Converts a GGUF file once into a folder that transformers loads fast."""

import functools
import importlib.metadata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xling.folders import cache_folder, written_whole


def converted_folder(path: Path, *, sha256: str) -> Path:
    """Folder with the float32 safetensors weights, configuration and tokenizer of a GGUF file.

    Made on first use (about a minute for 270M parameters), under a name that holds `sha256` and
    the versions of the packages that convert.

    Args:
        path: the GGUF file.
        sha256: of its content, already verified.
    """
    makers = "-".join(importlib.metadata.version(name) for name in ("transformers", "gguf"))
    folder = cache_folder() / "converted" / f"{sha256[:16]}-{makers}"
    if not folder.is_dir():
        with written_whole(folder) as temporary:
            _convert(path, temporary)
    return folder


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
