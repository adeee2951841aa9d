"""Converts a GGUF file once into a folder that transformers loads fast."""

import functools
import importlib.metadata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xling.folders import cache_folder, made_by_one, written_whole


def converted_folder(path: Path, *, sha256: str) -> Path:
    """Folder with the float32 safetensors weights, configuration and tokenizer of a GGUF file.

    Made on first use (about a minute for 270M parameters), under a name that holds `sha256` and
    the versions of the packages that convert. Processes that ask for it at once wait for the first.

    Args:
        path: the GGUF file.
        sha256: of its content, already verified.
    """
    folder = converted_path(sha256)
    if not folder.is_dir():
        with made_by_one(folder):
            if not folder.is_dir():  # not made by another process in the meantime
                with written_whole(folder) as temporary:
                    _convert(path, temporary)
    return folder


def converted_path(sha256: str) -> Path:
    """Where a GGUF file's converted weights are, or will be; see `converted_folder`."""
    makers = "-".join(importlib.metadata.version(name) for name in ("transformers", "gguf"))
    return cache_folder() / "converted" / f"{sha256[:16]}-{makers}"


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
