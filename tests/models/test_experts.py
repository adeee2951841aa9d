"""Mixtures of experts: set apart or quantised as stacks, equal to the fused model."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

from xling.models.adapters import attach_lora, chosen_modules, load_adapter
from xling.models.loading import four_bit_share, load_base, load_tokenizer
from xling.routing import recording_routing
from xling.scoring import InProcessEngine

UNFUSED = ["qwen3_moe", "deepseek_v3", "mixtral", "olmoe"]
MIXTURES = [*UNFUSED, "gpt_oss"]
IDS = torch.arange(3, 99).reshape(2, 48)
QUESTIONS = [f"Passage {n}. {'Some words. ' * n}What is so? 1) a 2) b Answer: (" for n in range(5)]


def fused(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.parametrize("architecture", MIXTURES)
def test_unquantised_model_equals_the_fused_one(tiny_model, architecture):
    folder = tiny_model(architecture)
    reference, model = fused(folder), load_base(folder, four_bit=False)
    with torch.no_grad():
        expected = reference(input_ids=IDS).logits
        # Not exactly: with two threads, products of other shapes are summed in another order.
        assert (model(input_ids=IDS).logits - expected).abs().max() <= 1e-6
        model.train()  # where every expert runs, on whatever tokens it has
        assert (model(input_ids=IDS).logits - expected).abs().max() <= 1e-5
    assert model.num_parameters() == reference.num_parameters()


@pytest.mark.parametrize("architecture", UNFUSED)
def test_gradients_equal_those_of_the_fused_model(tiny_model, architecture):
    folder = tiny_model(architecture)
    reference, model = fused(folder), load_base(folder, four_bit=False)
    gradients = []
    for each in (reference, model):
        rows = each.get_input_embeddings()(IDS).detach().requires_grad_()
        each(inputs_embeds=rows).logits[:, -1].log_softmax(-1)[:, 5].sum().backward()
        gradients.append(rows.grad)
    assert gradients[0].abs().max() > 1e-4
    assert (gradients[0] - gradients[1]).abs().max() <= 1e-5


@pytest.mark.parametrize("architecture", MIXTURES)
def test_experts_are_in_four_bits_and_routers_are_not(tiny_model, architecture):
    folder = tiny_model(architecture)
    model, reference = load_base(folder), fused(folder)
    share = four_bit_share(model)
    stacks = ("experts.gate_up_proj", "experts.down_proj")
    experts = sum(p.numel() for n, p in reference.named_parameters() if n.endswith(stacks))
    linear = sum(
        module.weight.numel()
        for name, module in reference.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    )
    assert experts > linear
    assert share.quantised == experts + linear
    assert share.total == reference.num_parameters()
    assert share.of_blocks > 0.95
    gates = {
        name: parameter
        for name, parameter in model.named_parameters()
        if name.endswith(("mlp.gate.weight", "mlp.router.weight"))
    }
    originals = dict(reference.named_parameters())
    assert gates
    assert all(torch.equal(gate, originals[name]) for name, gate in gates.items())


@pytest.mark.parametrize("architecture", UNFUSED)
def test_experts_in_four_bits_hold_what_bitsandbytes_makes_of_each(tiny_model, architecture):
    import bitsandbytes.functional as F

    folder = tiny_model(architecture)
    model, plain = load_base(folder), load_base(folder, four_bit=False)
    for name, parameter in plain.named_parameters():
        if ".experts." in name:
            quantised = model.get_parameter(name)
            made, state = F.quantize_4bit(parameter, quant_type="nf4", compress_statistics=True)
            again = F.dequantize_4bit(quantised.data, quantised.quant_state)
            assert torch.equal(again, F.dequantize_4bit(made, state))


def test_stacks_in_four_bits_are_near_the_originals_and_dequantised_on_use(tiny_model):
    folder = tiny_model("gpt_oss")
    model, reference = load_base(folder), fused(folder)
    for layer, original in zip(model.model.layers, reference.model.layers, strict=True):
        for name in ("gate_up_proj", "down_proj"):
            stack, true = getattr(layer.mlp.experts, name), getattr(original.mlp.experts, name)
            assert stack.shape == true.shape and stack.dtype == torch.float32
            assert 0 < (stack - true).abs().mean() < 0.1 * true.abs().mean()
            assert layer.mlp.experts.parametrizations[name].original.dtype == torch.uint8
    assert str(model.quantization_method.value) == "bitsandbytes"


@pytest.mark.parametrize("four_bit", [True, False])
@pytest.mark.parametrize("architecture", MIXTURES)
def test_prefixes_are_shared_in_scoring(tiny_model, architecture, four_bit):
    folder = tiny_model(architecture)
    model, tokenizer = load_base(folder, four_bit=four_bit), load_tokenizer(folder)
    variants = [[f"{text}{end}(" for end in ("", " now ", " so ")] for text in QUESTIONS]
    whole, shared = (
        InProcessEngine(
            model, tokenizer, add_special_tokens=True, share_prefixes=share
        ).score_variants(variants)
        for share in (False, True)
    )
    assert shared.logprobs == pytest.approx(whole.logprobs, abs=1e-4)


@pytest.mark.parametrize("architecture", MIXTURES)
def test_routing_is_recorded_as_of_the_fused_model(tiny_model, architecture):
    folder = tiny_model(architecture)
    counts = []
    for model in (fused(folder), load_base(folder, four_bit=False)):
        with recording_routing(model) as counter, torch.inference_mode():
            model(input_ids=IDS)
        counts.append(counter.counts())
    assert counts[0].sum() == IDS.numel() * 2 * len(counter.layers)
    assert (counts[0] == counts[1]).all()
    quantised = load_base(folder)
    with recording_routing(quantised) as counter, torch.inference_mode():
        quantised(input_ids=IDS)
    assert counter.counts().sum() == counts[0].sum()


@pytest.mark.parametrize("architecture", UNFUSED)
def test_conversion_mapping_is_as_before_also_after_an_error(tiny_model, tmp_path, architecture):
    before = get_checkpoint_conversion_mapping(architecture)
    folder = tiny_model(architecture)
    load_base(folder)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(OSError, match="safetensors"):
        load_base(tmp_path)
    after = get_checkpoint_conversion_mapping(architecture)
    assert [str(vars_of(entry)) for entry in after] == [str(vars_of(entry)) for entry in before]
    assert load_is_fused(folder)


def vars_of(conversion):
    return [conversion.source_patterns, conversion.target_patterns]


def load_is_fused(folder):
    names = [name for name, _ in fused(folder).named_parameters()]
    return any(name.endswith("experts.gate_up_proj") for name in names)


def test_a_checkpoint_with_fused_experts_is_refused(tiny_model, tmp_path):
    model = fused(tiny_model("qwen3_moe"))
    model._weight_conversions = None  # transformers would set them apart again
    model.save_pretrained(tmp_path, save_original_format=False)
    with pytest.raises(ValueError, match=r"lack 24 of the model's weights.*read one by one"):
        load_base(tmp_path)


def test_adapter_of_another_base_is_refused(tiny_model, tmp_path):
    model = load_base(tiny_model("qwen3_moe"))
    adapted = attach_lora(model, modules=chosen_modules(model), r=2, alpha=4, dropout=0.0, seed=0)
    adapted.save_pretrained(tmp_path)
    other = load_base(tiny_model("qwen3"))
    with pytest.raises(ValueError, match=r"experts\.0\.down_proj.*tiny-qwen3_moe.*tiny-qwen3'"):
        load_adapter(other, tmp_path)
    # fused, as a plain load has it: peft would leave the experts' adapters out with a warning
    with pytest.raises(ValueError, match=r"48 such weights"):
        load_adapter(fused(tiny_model("qwen3_moe")), tmp_path)
