import pytest
import torch
from transformers import AutoModelForCausalLM

from xling.models.adapters import (
    attach_lora,
    load_adapter,
    lora_pattern,
    matching_modules,
)
from xling.models.architectures import DENSE_PROJECTIONS
from xling.models.loading import four_bit_share, load_base, load_tokenizer

PROJECTIONS = 2 * 7


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma3_text"])
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


def test_fused_experts_are_refused_and_the_share_is_named(tiny_model):
    with pytest.raises(ValueError, match=r"only \d+\.\d% of the block parameters.*fused experts"):
        load_base(tiny_model("qwen3_moe"))


def test_unquantised_load_has_no_four_bit_share(tiny_model):
    model = load_base(tiny_model("llama"), four_bit=False)
    assert four_bit_share(model).quantised == 0


def test_unknown_architecture_needs_a_pattern():
    with pytest.raises(ValueError, match=r"'qwen3_moe'.*known: .*llama.*lora_modules"):
        lora_pattern("qwen3_moe")
    assert lora_pattern("qwen3_moe", pattern="q_proj$") == "q_proj$"


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
