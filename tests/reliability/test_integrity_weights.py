"""Weights: truncated, changed and damaged files are found where they are used, and named."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.native_checkpoints import save_mxfp4_model
from xling.models import fetch_weights, find_recipe, locate_model
from xling.models.catalog import PackagedWeights
from xling.models.weights.find import check_model_folder
from xling.models.weights.gguf import converted_folder, cut_off
from xling.models.weights.packaged import packaged_file

SOAK = int(os.environ.get("XLING_SOAK", "1"))
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "xling"


@pytest.fixture
def folder(tiny_model, tmp_path):
    return Path(shutil.copytree(tiny_model("llama"), tmp_path / "base"))


@pytest.fixture
def sharded(tmp_path):
    target = tmp_path / "sharded"
    save_mxfp4_model(target, dtype=torch.bfloat16)
    return target


def turn_a_bit(path: Path, place: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))


def places(size: int, number: int) -> list[int]:
    """Lengths to cut a file at: the first and last few, and some between."""
    drawn = random.Random(size).sample(range(size), min(size, number * SOAK))
    return sorted({0, 1, 7, 8, 9, size // 2, size - 2, size - 1, *drawn})


def test_a_cut_off_safetensors_file_says_how_much_is_missing(folder):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for length in places(len(whole), 60):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=rf"{path} is cut off: .*{length} bytes.*fetch it"):
            check_model_folder(folder)
    path.write_bytes(whole[:-1])
    with pytest.raises(
        ValueError, match=f"has {len(whole) - 1} bytes, its header says {len(whole)}"
    ):
        locate_model(str(folder))


def test_a_cut_off_shard_and_one_that_the_index_names_in_vain(sharded):
    path = sorted(sharded.glob("*.safetensors"))[1]
    whole = path.read_bytes()
    for length in places(len(whole), 20):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=rf"{path.name} is cut off: .*{length} bytes"):
            fetch_weights(find_recipe(str(sharded)))
    path.unlink()
    with pytest.raises(ValueError, match=rf"lacks 1 of 3 shards \({path.name}\)"):
        fetch_weights(find_recipe(str(sharded)))


@pytest.mark.parametrize("name", ["model.safetensors.index.json", "config.json"])
def test_a_cut_off_json_file_of_a_model_is_named(sharded, name):
    path = sharded / name
    whole = path.read_bytes()
    for length in places(len(whole) - 3, 20):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=rf"{path} .*cut off.*fetch it again"):
            check_model_folder(sharded)


def test_a_byte_changed_in_any_file_of_a_base_gives_it_another_identity(folder):
    before = locate_model(str(folder)).weights.identity
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        stat = path.stat()
        turn_a_bit(path, max(whole.rfind(b"0"), 0))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as if nothing had happened
        with pytest.raises(ValueError, match=f"{before} were expected: an adapter only fits"):
            locate_model(str(folder), expected_identity=before)
        path.write_bytes(whole)
        assert locate_model(str(folder), expected_identity=before).weights.identity == before


def test_a_base_that_is_changed_between_its_check_and_its_load_is_refused(folder):
    located = locate_model(str(folder))
    path = folder / "model.safetensors"
    turn_a_bit(path, path.stat().st_size - 1)
    with pytest.raises(ValueError, match="was changed while it was used"):
        located.open()


@pytest.mark.parametrize("harm", ["bit", "cut", "missing"])
def test_a_damaged_conversion_in_the_cache_is_made_again(sharded, caplog, harm):
    recipe = find_recipe(str(sharded))
    first = fetch_weights(recipe)
    (path,) = first.folder.glob("*.safetensors")
    expected = path.read_bytes()
    if harm == "missing":
        path.unlink()
    elif harm == "cut":
        os.truncate(path, path.stat().st_size - 100)
    else:
        before = path.stat()
        turn_a_bit(path, before.st_size - 1)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert fetch_weights(recipe) == first
    assert path.read_bytes() == expected
    said = {"bit": "is changed: its sha256", "cut": "is cut off at", "missing": "is missing"}[harm]
    assert f"{path.name} {said}" in caplog.text and "is dequantised again" in caplog.text


@pytest.fixture
def hub(folder, tmp_path, monkeypatch):
    """A hub cache as huggingface_hub downloads to: links to blobs that are named by their hash."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--owner--tiny"
    snapshot = repository / "snapshots" / COMMIT
    for place in (repository / "blobs", repository / "refs", snapshot):
        place.mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    for path in folder.iterdir():
        content = path.read_bytes()
        large = path.suffix == ".safetensors"
        git = b"blob %d\0" % len(content) + content
        name = hashlib.sha256(content).hexdigest() if large else hashlib.sha1(git).hexdigest()
        (repository / "blobs" / name).write_bytes(content)
        (snapshot / path.name).symlink_to(Path("../../blobs") / name)
    return snapshot


def test_files_of_a_hub_model_are_checked_by_the_hubs_own_hashes(hub):
    recipe = find_recipe("owner/tiny")
    assert fetch_weights(recipe).identity == f"hub:owner/tiny@{COMMIT}"
    for path in sorted(hub.iterdir()):
        blob = path.resolve()
        whole = blob.read_bytes()
        turn_a_bit(blob, max(whole.rfind(b"0"), 0))
        with pytest.raises(ValueError, match=rf"{path} .*is not the hub's file.*delete {blob}"):
            fetch_weights(recipe)
        blob.write_bytes(whole)
        assert fetch_weights(recipe).identity == f"hub:owner/tiny@{COMMIT}"


def test_files_of_a_hub_model_are_read_once(hub, monkeypatch):
    fetch_weights(find_recipe("owner/tiny"))
    monkeypatch.setattr(
        "xling.models.weights.hub.stamp_file", lambda path: pytest.fail(f"{path} was read")
    )
    fetch_weights(find_recipe("owner/tiny"))


@pytest.fixture
def gguf_file(tmp_path):
    """A small GGUF file of a true header, with tensors of three types."""
    import gguf

    path = tmp_path / "w.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(1)
    writer.add_token_list([f"token-{n}" for n in range(50)])
    writer.add_tensor("plain", np.arange(60, dtype=np.float32).reshape(6, 10))
    writer.add_tensor("half", np.arange(32, dtype=np.float16))
    blocks = gguf.quantize(np.ones((4, 64), np.float32), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("blocks", blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def end_of_data(path: Path) -> int:
    """Where the last tensor's bytes end; what pads the file is not missed."""
    import gguf

    return max(int(each.data_offset + each.n_bytes) for each in gguf.GGUFReader(path).tensors)


def test_a_cut_off_gguf_file_says_how_much_is_missing(gguf_file):
    whole = gguf_file.read_bytes()
    end = end_of_data(gguf_file)
    assert not cut_off(gguf_file)
    for length in [each for each in places(end, 200) if each >= 4]:
        gguf_file.write_bytes(whole[:length])
        assert cut_off(gguf_file).startswith("it is cut off: ")
        assert str(length) in cut_off(gguf_file)
    gguf_file.write_bytes(whole[: end - 1])
    assert cut_off(gguf_file) == f"it is cut off: it has {end - 1} bytes, its header says {end}"
    gguf_file.write_bytes(b"no such file")
    assert not cut_off(gguf_file)


def test_a_gguf_file_that_is_cut_off_is_not_converted(gguf_file):
    digest = hashlib.sha256(gguf_file.read_bytes()).hexdigest()
    os.truncate(gguf_file, gguf_file.stat().st_size - 100)
    with pytest.raises(ValueError, match=rf"{gguf_file} has sha256 .* it is cut off.*delete it"):
        converted_folder(gguf_file, sha256=digest)


@pytest.fixture
def packaged(gguf_file, monkeypatch):
    """Weights whose package is installed: the maker of the file in the cache."""
    monkeypatch.setattr(
        "xling.models.weights.packaged._installed_parts", lambda weights: [gguf_file]
    )
    return PackagedWeights(
        requirements=("some-package==1",),
        files=("w.gguf",),
        filename="w.gguf",
        sha256=hashlib.sha256(gguf_file.read_bytes()).hexdigest(),
        licence="none",
    )


def test_a_packaged_file_damaged_in_the_cache_is_made_again(packaged, caplog):
    path = packaged_file(packaged)
    whole = path.read_bytes()
    for harm in (lambda: os.truncate(path, 100), lambda: turn_a_bit(path, 1_000), path.unlink):
        caplog.clear()
        harm()
        assert packaged_file(packaged).read_bytes() == whole
        assert f"{path} is damaged" in caplog.text


def test_a_damaged_package_says_that_its_file_is_cut_off(packaged, gguf_file):
    os.truncate(gguf_file, gguf_file.stat().st_size - 100)
    with pytest.raises(ValueError, match="w.gguf from some-package==1 has sha256 .*it is cut off"):
        packaged_file(packaged)
