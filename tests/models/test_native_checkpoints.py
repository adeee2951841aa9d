from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, FineGrainedFP8Config, Mxfp4Config

from tests.native_checkpoints import save_fp8_model, save_mxfp4_model
from xling.models import fetch_weights, find_recipe
from xling.models.loading import load_base, load_tokenizer

# Divides every matrix of the tiny model, so that the library can read it too.
EVEN, RAGGED = 8, 128


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def save(method: str, folder, dtype=torch.bfloat16, block=EVEN):
    if method == "mxfp4":
        return save_mxfp4_model(folder, dtype=dtype)
    return save_fp8_model(folder, dtype=dtype, block=block)


def stored_weights(folder) -> dict[str, torch.Tensor]:
    found = {}
    for path in folder.glob("*.safetensors"):
        found |= load_file(path)
    return found


def assert_equal_tensors(found, expected) -> None:
    assert sorted(found) == sorted(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    ("method", "library"),
    [("mxfp4", Mxfp4Config), ("fp8", FineGrainedFP8Config)],
)
def test_dequantised_weights_are_the_true_ones_and_the_librarys(tmp_path, method, library, dtype):
    folder = tmp_path / "native"
    true = save(method, folder, dtype)
    weights = fetch_weights(find_recipe(str(folder)))
    assert weights.precision == method
    assert_equal_tensors(stored_weights(weights.folder), true)

    ours, info = AutoModelForCausalLM.from_pretrained(
        weights.folder, dtype="auto", output_loading_info=True
    )
    assert ours.dtype == dtype
    assert {"missing_keys", "unexpected_keys"} <= set(info)
    assert not any(info.values()), info
    theirs = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=library(dequantize=True), dtype=dtype
    )
    assert_equal_tensors(dict(ours.named_parameters()), dict(theirs.named_parameters()))


@pytest.mark.parametrize("block", [16, RAGGED])
def test_tiles_that_a_matrix_cuts_off_keep_their_size(tmp_path, block):
    folder = tmp_path / "native"
    true = save("fp8", folder, torch.float32, block=block)
    weights = fetch_weights(find_recipe(str(folder)))
    assert_equal_tensors(stored_weights(weights.folder), true)


def rewrite(folder, change) -> None:
    """Changes tensors of every shard in place."""
    for path in folder.glob("*.safetensors"):
        tensors = {name: change(name, tensor) for name, tensor in load_file(path).items()}
        save_file(tensors, path, metadata={"format": "pt"})


def test_power_of_two_scales_in_eight_bits_are_read_as_such(tmp_path):
    folder = tmp_path / "native"
    save("fp8", folder, torch.float32)
    plain = stored_weights(folder)

    def rounded(name, tensor):
        scale = name.endswith("_scale_inv")
        return torch.exp2(torch.log2(tensor).round()) if scale else tensor

    rewrite(folder, lambda name, tensor: rounded(name, tensor))
    in_float = stored_weights(fetch_weights(find_recipe(str(folder))).folder)
    name = "model.layers.0.mlp.up_proj.weight"
    by_hand = plain[name].float() * rounded(
        "x_scale_inv", plain[f"{name}_scale_inv"]
    ).repeat_interleave(EVEN, 0).repeat_interleave(EVEN, 1)
    assert torch.equal(in_float[name], by_hand)

    def in_eight_bits(name, tensor):
        return tensor.to(torch.float8_e8m0fnu) if name.endswith("_scale_inv") else tensor

    rewrite(folder, in_eight_bits)
    assert_equal_tensors(stored_weights(fetch_weights(find_recipe(str(folder))).folder), in_float)


def test_one_scale_for_a_whole_matrix(tmp_path):
    folder = tmp_path / "native"
    true = save("fp8", folder, torch.float32, block=1024)  # no matrix has as many rows
    rewrite(folder, lambda name, t: t.reshape(()) if name.endswith("_scale_inv") else t)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["weight_block_size"] = None
    (folder / "config.json").write_text(json.dumps(config))
    assert_equal_tensors(stored_weights(fetch_weights(find_recipe(str(folder))).folder), true)


def test_deepseek_experts_are_stored_one_by_one_without_the_extra_layer(tmp_path):
    folder = tmp_path / "native"
    save("fp8", folder)
    weights = fetch_weights(find_recipe(str(folder)))
    names = stored_weights(weights.folder)
    assert "model.layers.2.mlp.experts.7.down_proj.weight" in names
    assert not [name for name in names if name.startswith("model.layers.3")]
    assert "model.layers.3.enorm.weight" in stored_weights(folder)


@pytest.mark.parametrize("method", ["mxfp4", "fp8"])
def test_folder_has_the_rest_of_the_model_but_no_quantisation(tmp_path, method):
    folder = tmp_path / "native"
    save(method, folder)
    (folder / "original.bin").write_bytes(b"not ours")
    weights = fetch_weights(find_recipe(str(folder)))
    config = json.loads((weights.folder / "config.json").read_text())
    original = json.loads((folder / "config.json").read_text())
    assert original.pop("quantization_config")["quant_method"] == method
    assert config == original
    small = {path.name for path in folder.glob("*.json")} | {"chat_template.jinja"}
    present = {path.name for path in weights.folder.iterdir()}
    assert small <= present
    assert "original.bin" not in present
    text = "عربي 1"
    assert load_tokenizer(weights.folder)(text) == load_tokenizer(folder)(text)


@pytest.mark.parametrize("method", ["mxfp4", "fp8"])
def test_float_load_scores(tmp_path, method):
    folder = tmp_path / "native"
    save(method, folder, torch.float32)
    model = load_base(fetch_weights(find_recipe(str(folder))).folder, four_bit=False)
    logits = model(input_ids=torch.arange(3, 40)[None]).logits
    assert torch.isfinite(logits).all()
