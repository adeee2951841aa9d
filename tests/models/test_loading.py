from __future__ import annotations

import logging

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from xling.models.adapters import (
    attach_lora,
    chosen_modules,
    linear_routers,
    load_adapter,
    lora_pattern,
    matching_modules,
)
from xling.models.architectures import DENSE_PROJECTIONS
from xling.models.loaded import check_derivable
from xling.models.loading import (
    compute_dtype,
    default_device_map,
    four_bit_share,
    load_base,
    load_tokenizer,
)

PROJECTIONS = 2 * 7


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "gemma3_text"])
def test_dense_models_are_four_bit_and_adapted_everywhere(tiny_model, architecture):
    model = load_base(tiny_model(architecture))
    share = four_bit_share(model)
    full = AutoModelForCausalLM.from_pretrained(tiny_model(architecture))
    projections = sum(
        module.weight.numel()
        for name, module in full.named_modules()
        if isinstance(module, torch.nn.Linear) and "lm_head" not in name
    )
    assert share.quantised == projections
    assert share.total == full.num_parameters()
    assert share.of_blocks > 0.98
    assert not any(parameter.requires_grad for parameter in model.parameters())
    pattern = lora_pattern(model.config.model_type)
    modules = matching_modules(model, pattern)
    assert len(modules) == PROJECTIONS
    assert not any("lm_head" in name for name in modules)


def test_fused_experts_of_an_unknown_architecture_are_refused_by_name(tiny_model):
    folder = tiny_model("qwen2_moe")
    message = r"only \d\d\.\d% of the block.*mlp\.experts\.gate_up_proj \(\d+.*quantise: none"
    with pytest.raises(ValueError, match=message):
        load_base(folder)
    with pytest.raises(ValueError, match=message):  # from config.json alone
        check_derivable(folder, name="owner/model")
    assert chosen_modules(load_base(folder, four_bit=False))


def test_architecture_in_no_table_gets_all_linear_layers_of_its_blocks(tiny_model, caplog):
    caplog.set_level(logging.DEBUG, logger="xling")
    folder = tiny_model("phi3")
    check_derivable(folder, name="owner/model")
    model = load_base(folder)
    modules = chosen_modules(model)
    endings = ["mlp.down_proj", "mlp.gate_up_proj", "self_attn.o_proj", "self_attn.qkv_proj"]
    assert sorted(modules) == [
        f"model.layers.{layer}.{ending}" for layer in (0, 1) for ending in endings
    ]
    assert "99.6% of the block parameters are in four bits" in caplog.text
    assert "'phi3' is in no recipe: LoRA on all 8 linear layers" in caplog.text
    assert "down_proj, gate_up_proj, o_proj, qkv_proj" in caplog.text


def test_linear_routers_of_an_unknown_architecture_stay_as_they_are(tiny_model, monkeypatch):
    monkeypatch.setattr("xling.models.four_bit.MIN_FOUR_BIT_SHARE", 0.0)
    folder = tiny_model("qwen2_moe")
    model = AutoModelForCausalLM.from_pretrained(folder)
    routers = linear_routers(model)
    assert routers == [f"model.layers.{layer}.mlp.shared_expert_gate" for layer in (0, 1)]
    assert not set(routers) & set(chosen_modules(model))
    quantised = load_base(folder)
    for name in [*routers, "lm_head"]:
        original = model.get_submodule(name).weight
        assert torch.equal(quantised.get_submodule(name).weight, original)
    assert quantised.get_submodule("model.layers.0.self_attn.q_proj").weight.dtype == torch.uint8


def test_weights_that_are_not_in_the_files_are_not_drawn_at_random(tiny_model, tmp_path):
    folder = tiny_model("llama")
    save_file({}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(ValueError, match=r"lack 21 of the model's weights.*lm_head"):
        load_base(tmp_path)


def test_a_type_without_a_language_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(ValueError, match="'clip' is not a causal language model"):
        load_base(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "made_up"}')
    with pytest.raises(ValueError, match=r"(?s)made_up.*trust_remote_code"):
        load_base(tmp_path)


def test_unquantised_load_has_no_four_bit_share(tiny_model):
    model = load_base(tiny_model("llama"), four_bit=False)
    assert four_bit_share(model).quantised == 0


def test_recipe_pattern_wins_and_unknown_types_have_none():
    assert lora_pattern("qwen3_moe", pattern="q_proj$") == "q_proj$"
    assert lora_pattern("qwen3_moe_unfused") == lora_pattern("qwen3_moe") != ""
    assert lora_pattern("phi3") == ""


@pytest.mark.parametrize("architecture", ["qwen3_moe", "gpt_oss", "deepseek_v3"])
@pytest.mark.parametrize("pattern", [r"mlp\.(gate|router)$", r"\.mlp\."])
def test_patterns_that_hit_routers_of_mixtures_are_refused(tiny_model, architecture, pattern):
    model = load_base(tiny_model(architecture), four_bit=False)
    with pytest.raises(ValueError, match=r"hits the routers \['model\.layers\.\d\.mlp\.(gate|r)"):
        matching_modules(model, pattern)


@pytest.mark.parametrize("pattern", ["nothing_like_this$", r"(router|\.gate)$"])
def test_pattern_that_hits_nothing_or_routers_is_refused(tiny_model, pattern):
    model = load_base(tiny_model("llama"), four_bit=False)
    if "router" in pattern:
        model.model.layers[0].mlp.router = torch.nn.Linear(4, 4)
    with pytest.raises(ValueError, match="LoRA pattern") as caught:
        matching_modules(model, pattern)
    assert "q_proj" in str(caught.value)


def test_seed_decides_the_adapter_and_unload_gives_the_base_back(tiny_model):
    model = load_base(tiny_model("llama"))
    modules = matching_modules(model, DENSE_PROJECTIONS)
    ids = torch.arange(3, 40)[None]
    before = model(input_ids=ids).logits

    def adapter_weights(seed: int) -> dict[str, torch.Tensor]:
        adapted = attach_lora(model, modules=modules, r=4, alpha=8, dropout=0.0, seed=seed)
        weights = {
            name: parameter.detach().clone()
            for name, parameter in adapted.named_parameters()
            if parameter.requires_grad
        }
        adapted.unload()
        return weights

    first, again, other = adapter_weights(0), adapter_weights(0), adapter_weights(1)
    assert len(first) == 2 * len(modules)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
    assert torch.equal(before, model(input_ids=ids).logits)


def test_adapter_reloads_to_equal_logits_on_a_fresh_base(tiny_model, tmp_path):
    folder = tiny_model("qwen3")
    model = load_base(folder)
    adapted = attach_lora(
        model, modules=matching_modules(model, DENSE_PROJECTIONS), r=4, alpha=8, dropout=0.0, seed=0
    )
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    ids = torch.arange(3, 40)[None]
    live = adapted(input_ids=ids).logits
    adapted.save_pretrained(tmp_path / "adapter")
    reloaded = load_adapter(load_base(folder), tmp_path / "adapter")
    assert torch.equal(live, reloaded(input_ids=ids).logits)
    assert not torch.allclose(live, load_base(folder)(input_ids=ids).logits)


def test_adapter_folder_without_weights_is_named(tiny_model, tmp_path):
    with pytest.raises(ValueError, match="adapter_config.json"):
        load_adapter(load_base(tiny_model("llama"), four_bit=False), tmp_path)


def test_tokenizer_pads_on_the_left(tiny_model):
    tokenizer = load_tokenizer(tiny_model("llama"))
    padded = tokenizer(["a", "abc"], padding=True)["input_ids"]
    assert padded[0][0] == tokenizer.pad_token_id
    assert padded[0][-1] != tokenizer.pad_token_id


def test_without_a_gpu_everything_is_on_the_cpu(tiny_model, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    folder = tiny_model("llama")
    if not torch.cuda.is_available():
        assert default_device_map(folder, four_bit=True) == {"": "cpu"}
    assert load_base(folder, device_map={"": "cpu"}).device.type == "cpu"


@pytest.mark.parametrize(
    ("rank", "gpus", "size", "expected"),
    [
        ("1", 2, 10**12, {"": 1}),
        (None, 2, 10**12, "auto"),
        (None, 2, 10**10, {"": "cuda"}),
        (None, 1, 10**12, {"": "cuda"}),
    ],
)
def test_gpus_are_chosen_by_rank_and_size(monkeypatch, tmp_path, rank, gpus, size, expected):
    """The decision alone, with numbers of a machine with 80 GB GPUs in place of this one's."""
    with (tmp_path / "model.safetensors").open("wb") as weights:
        weights.truncate(size)  # sparse: takes no room
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(
        torch.cuda,
        "get_device_properties",
        lambda _: type("Properties", (), {"total_memory": 80 * 10**9}),
    )
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert default_device_map(tmp_path, four_bit=True) == expected


def test_a_cpu_computes_in_single_precision_whatever_it_has(tiny_model, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: True)
    assert compute_dtype() == torch.float32
    model = load_base(tiny_model("llama"))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32, torch.uint8}


def test_four_bit_layers_keep_their_layout_on_every_cpu(tiny_model):
    layer = load_base(tiny_model("llama")).model.layers[0].mlp.up_proj
    assert layer.support_avx512bf16_for_cpu is False
    before = layer.weight.data.clone()
    with torch.inference_mode():
        assert layer(torch.zeros(0, layer.in_features)).shape == (0, layer.out_features)
        layer(torch.zeros(3, layer.in_features))
    assert torch.equal(layer.weight.data, before)
