from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.native_checkpoints import save_fp8_model, save_mxfp4_model
from xling.models.weights import dequantise
from xling.models.weights.dequantise import dequantised_folder, stored_precision
from xling.models.weights.find import fetch_weights, find_recipe

ROOT = Path(__file__).resolve().parents[2]
# Dies like a process that was killed when the second shard is about to be written.
KILLED_IN_THE_MIDDLE = """
import os, signal, sys
import safetensors.torch
from pathlib import Path
from xling.models.weights import dequantise

save, written = safetensors.torch.save_file, []

def save_or_die(tensors, path, metadata):
    if written:
        os.kill(os.getpid(), signal.SIGKILL)
    save(tensors, path, metadata=metadata)
    written.append(path)

safetensors.torch.save_file = save_or_die
dequantise.SHARD_BYTES = 50_000
dequantise.dequantised_folder(Path(sys.argv[1]), identity="sha256:test")
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "xling" / "dequantised"


@pytest.fixture(scope="module")
def mxfp4(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mxfp4") / "native"
    save_mxfp4_model(folder, dtype=torch.bfloat16)
    return folder


@pytest.fixture
def copied(mxfp4, tmp_path):
    return Path(shutil.copytree(mxfp4, tmp_path / "copied"))


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def edit_config(folder: Path, **changes) -> None:
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | changes))


def edit_shard(path: Path, edit) -> None:
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    index = path.with_name("model.safetensors.index.json")
    content = json.loads(index.read_text())
    kept = {k: v for k, v in content["weight_map"].items() if v != path.name}
    index.write_text(json.dumps({"weight_map": kept | dict.fromkeys(tensors, path.name)}))


def test_second_call_reuses_the_cache_and_the_original_names_the_weights(mxfp4, cache):
    recipe = find_recipe(str(mxfp4))
    original = fetch_weights(recipe, tokenizer_only=True)
    assert (original.folder, original.precision) == (mxfp4, "mxfp4")
    assert not cache.exists()  # nothing was converted for a tokenizer
    first = fetch_weights(recipe)
    assert first.folder.is_relative_to(cache)
    assert first.identity == original.identity
    before = times(first.folder)
    assert fetch_weights(recipe) == first
    assert times(first.folder) == before


def test_changed_weights_are_converted_anew(copied):
    first = fetch_weights(find_recipe(str(copied)))
    edit_shard(shards(copied)[0], lambda tensors: next(iter(tensors.values())).add_(1))
    second = fetch_weights(find_recipe(str(copied)))
    assert second.identity != first.identity
    assert second.folder != first.folder


def test_changed_converter_converts_anew(mxfp4, monkeypatch):
    first = fetch_weights(find_recipe(str(mxfp4)))
    monkeypatch.setattr(dequantise, "FORMAT", dequantise.FORMAT + 1)
    second = fetch_weights(find_recipe(str(mxfp4)))
    assert (second.identity, second.folder.is_dir()) == (first.identity, True)
    assert second.folder != first.folder


def test_weights_are_written_in_shards_of_bounded_size(mxfp4, monkeypatch):
    whole = dequantised_folder(mxfp4, identity="whole")
    monkeypatch.setattr(dequantise, "SHARD_BYTES", 50_000)
    parts = dequantised_folder(mxfp4, identity="parts")
    assert len(shards(whole)) == 1
    assert len(shards(parts)) > 5
    index = json.loads((parts / "model.safetensors.index.json").read_text())
    found = {}
    for path in shards(parts):
        tensors = load_file(path)
        size = sum(tensor.nbytes for tensor in tensors.values())
        assert size <= 50_000 or len(tensors) == 1
        assert all(index["weight_map"][name] == path.name for name in tensors)
        found |= tensors
    expected = load_file(shards(whole)[0])
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in expected.values())
    assert sorted(found) == sorted(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_killed_conversion_leaves_no_folder_and_the_next_one_cleans_up(mxfp4, cache):
    done = subprocess.run(
        [sys.executable, "-c", KILLED_IN_THE_MIDDLE, str(mxfp4)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    (left,) = [path for path in cache.iterdir() if path.is_dir()]
    assert left.name.startswith(".")
    assert len(shards(left)) == 1
    folder = dequantised_folder(mxfp4, identity="sha256:test")
    assert [path for path in cache.iterdir() if path.is_dir()] == [folder]


def test_conversion_that_fails_leaves_nothing(copied, cache, monkeypatch):
    def fail(*_args, **_kwargs):
        raise RuntimeError("no memory")

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    with pytest.raises(RuntimeError, match="no memory"):
        fetch_weights(find_recipe(str(copied)))
    assert not [path for path in cache.iterdir() if path.is_dir()]


def test_two_at_once_convert_once(mxfp4, monkeypatch):
    written = []

    def counted(tensors, path, metadata):
        written.append(path)
        save_file(tensors, path, metadata=metadata)

    monkeypatch.setattr("safetensors.torch.save_file", counted)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: dequantised_folder(mxfp4, identity="both"), range(2)))
    assert found[0] == found[1]
    assert len(written) == len(shards(found[0])) == 1


def test_too_small_a_disk_is_refused_with_numbers(mxfp4, cache, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
    monkeypatch.setattr(dequantise, "GIGABYTE", 1000)
    needed = sum(path.stat().st_size for path in shards(mxfp4))
    with pytest.raises(
        ValueError, match=rf"(?s)in {cache}.*0\.0 GB are free.*XDG_CACHE_HOME"
    ) as no:
        fetch_weights(find_recipe(str(mxfp4)))
    stated = float(str(no.value).split(" needs ")[1].split(" GB")[0]) * 1000
    assert needed < stated < 4 * needed
    assert not [path for path in cache.iterdir() if path.is_dir()]


@pytest.mark.parametrize("nested", [False, True])
def test_unknown_quantisation_is_refused(copied, nested):
    unknown = {"quant_method": "awq"}
    content = json.loads((copied / "config.json").read_text())
    del content["quantization_config"]
    (copied / "config.json").write_text(json.dumps(content))
    changes = {"text_config": {"quantization_config": unknown}} if nested else {}
    edit_config(copied, **(changes or {"quantization_config": unknown}))
    with pytest.raises(ValueError, match=rf"{copied} is quantised by 'awq.*mxfp4, fp8.*bfloat16"):
        find_recipe(str(copied))


def test_plain_checkpoint_is_float_and_not_copied(tiny_model):
    folder = tiny_model("llama")
    assert stored_precision(folder) == "float"
    weights = fetch_weights(find_recipe(str(folder)))
    assert (weights.folder, weights.precision) == (folder, "float")
    with pytest.raises(ValueError, match="not quantised"):
        dequantised_folder(folder, identity="x")


def test_missing_shard_is_named(copied):
    shards(copied)[1].unlink()
    with pytest.raises(ValueError, match=r"lacks 1 of 3 shards \(model-00002-of-00003"):
        find_recipe(str(copied))


@pytest.mark.parametrize("keep", [-1, 4, 100])
def test_truncated_shard_is_named(copied, keep):
    path = shards(copied)[1]
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"model-00002-of-00003\.safetensors.*fetch it again"):
        find_recipe(str(copied))


def test_pointer_in_place_of_a_shard_is_named(copied):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n"
    shards(copied)[0].write_text(pointer)
    with pytest.raises(ValueError, match=r"00001-of-00003.*git lfs pull"):
        find_recipe(str(copied))


def test_index_that_names_absent_tensors_is_refused(copied):
    index = copied / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["model.layers.9.weight"] = shards(copied)[0].name
    index.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"00001-of-00003.* lacks tensor model\.layers\.9\.weight"):
        find_recipe(str(copied))
    index.unlink()
    with pytest.raises(ValueError, match=r"neither model\.safetensors nor"):
        find_recipe(str(copied))


@pytest.mark.parametrize(("ending", "says"), [("_blocks", "no partner"), ("_scales", "no scales")])
def test_half_of_a_quantised_tensor_is_named(copied, ending, says):
    whole = {name for path in shards(copied) for name in load_file(path)}
    lost = next(name for name in sorted(whole) if name.endswith(ending))
    for path in shards(copied):
        edit_shard(path, lambda tensors: tensors.pop(lost, None))
    with pytest.raises(ValueError, match=f"{says}") as caught:
        fetch_weights(find_recipe(str(copied)))
    assert lost.removesuffix(ending) in str(caught.value)


def test_scales_of_another_tile_than_the_configurations_are_refused(tmp_path):
    folder = tmp_path / "fp8"
    save_fp8_model(folder, dtype=torch.bfloat16, block=16)
    content = json.loads((folder / "config.json").read_text())["quantization_config"]
    edit_config(folder, quantization_config=content | {"weight_block_size": [128, 128]})
    with pytest.raises(ValueError, match=r"weight_scale_inv .*do not fit.* each 128 × 128 values"):
        fetch_weights(find_recipe(str(folder)))
