"""Hostile headers of safetensors files: a message that names the file, and no memory spent."""

from __future__ import annotations

import json
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from tests.tiny_models import save_tiny_model
from xling.models.adapters import attach_lora, chosen_modules, load_adapter
from xling.models.loading import load_base
from xling.models.weights.find import check_model_folder
from xling.models.weights.safetensors_files import MOST_HEADER, read_header, stored_tensors

SOAK = int(os.environ.get("XLING_SOAK", "1"))


@pytest.fixture
def folder(tmp_path: Path, tiny_model) -> Path:
    return Path(shutil.copytree(tiny_model("llama"), tmp_path / "model"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("base") / "tiny"
    save_tiny_model("llama", folder)
    return load_base(folder, four_bit=False)


@pytest.fixture
def adapter(tmp_path: Path, base) -> Path:
    adapted = attach_lora(base, modules=chosen_modules(base), r=2, alpha=4, dropout=0.0, seed=0)
    adapted.save_pretrained(tmp_path / "adapter")
    adapted.unload()
    return tmp_path / "adapter"


def header_of(content: object, *, data: int = 8, length: int | None = None) -> bytes:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + b"\0" * data


def entry(
    dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)
) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


HEADERS = {
    "huge length": header_of({"a": entry()}, length=2**63),
    "length beyond the file": header_of({"a": entry()}, length=10_000),
    "no header": b"",
    "four bytes": b"\1\0\0\0",
    "not JSON": header_of(b"\xff\xfe{"),
    "a list": header_of([1]),
    "deep": header_of(b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    "end outside": header_of({"a": entry(shape=(4,), offsets=(0, 16))}),
    "start outside": header_of({"a": entry(offsets=(800, 808))}),
    "negative": header_of({"a": entry(offsets=(-8, 0))}),
    "backwards": header_of({"a": entry(offsets=(8, 0))}),
    "overlap": header_of({"a": entry(), "b": entry()}),
    "hole": header_of(
        {"a": entry(shape=(1,), offsets=(0, 4)), "b": entry(offsets=(8, 16))}, data=16
    ),
    "shape too large": header_of({"a": entry(shape=(10**18, 10**18))}),
    "negative shape": header_of({"a": entry(shape=(-1, -2))}),
    "float shape": header_of({"a": entry(shape=(2.0,))}),
    "unknown dtype": header_of({"a": entry(dtype="OBJECT")}),
    "dtype is no text": header_of({"a": entry(dtype=["F32"])}),
    "one offset": header_of({"a": entry(offsets=(0,))}),
    "no entry": header_of({"a": None}),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_hostile_safetensors_header_is_named(
    name: str, folder: Path, adapter: Path, base
) -> None:
    for path, read in (
        (folder / "model.safetensors", lambda: check_model_folder(folder)),
        (adapter / "adapter_model.safetensors", lambda: load_adapter(base, adapter)),
    ):
        path.write_bytes(HEADERS[name])
        with pytest.raises(ValueError, match="fetch it again") as refused:
            read()
        assert str(path) in str(refused.value)


def test_a_header_as_large_as_a_sparse_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 2**39))
        file.truncate(2**40)  # a terabyte that takes no room
    with pytest.raises(ValueError, match=f"no safetensors file has one over {MOST_HEADER}"):
        read_header(path)


def test_broken_headers_never_end_otherwise(tmp_path: Path, folder: Path) -> None:
    """Bytes of a true header changed at random: either it is the same, or a message."""
    generator = np.random.default_rng(7)
    whole = bytearray((folder / "model.safetensors").read_bytes())
    length = struct.unpack("<Q", whole[:8])[0] + 8
    before = stored_tensors(folder)
    for _ in range(300 * SOAK):
        broken = bytearray(whole)
        for place in generator.integers(0, length, generator.integers(1, 4)):
            broken[place] = int(generator.integers(0, 256))
        (folder / "model.safetensors").write_bytes(broken)
        try:
            found = stored_tensors(folder)
        except ValueError as error:
            assert str(folder) in str(error)
        else:  # names or metadata changed, but no bytes of a tensor are elsewhere
            spans = {(tensor.start, tensor.end) for tensor in before.values()}
            assert {(tensor.start, tensor.end) for tensor in found.values()} <= spans
