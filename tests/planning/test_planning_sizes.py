from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.tiny_models import tiny_config
from xling.models.adapters import attach_lora, chosen_modules
from xling.models.loading import load_base
from xling.planning.configurations import shipped_configurations
from xling.planning.memory import Setting, nf4_bytes, weight_bytes
from xling.planning.sizes import (
    Sizes,
    four_bit_matrices,
    lora_matrices,
    lora_parameters,
    model_sizes,
)

DENSE = ["llama", "qwen2", "qwen3", "gemma3_text"]
MIXTURES = ["qwen3_moe", "deepseek_v3", "gpt_oss"]
# Published counts: of the checkpoints' safetensors, and of models.md for the first four.
COUNTS = {
    "Qwen/Qwen3-32B": 32_762_123_264,
    "openai/gpt-oss-20b": 20_914_757_184,
    "openai/gpt-oss-120b": 116_829_156_672,
    "deepseek-ai/DeepSeek-V3.1": 671_026_404_352,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-4B-Instruct-2507": 4_022_468_096,
    "Qwen/Qwen3-30B-A3B": 30_532_122_624,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "google/gemma-3-4b-pt": 3_880_263_168,
    "google/gemma-3-270m": 268_098_176,
}


def sizes_of(folder: Path) -> Sizes:
    return model_sizes(json.loads((folder / "config.json").read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", COUNTS)
def test_published_configurations_have_the_published_number_of_parameters(name: str) -> None:
    assert model_sizes(shipped_configurations()[name]).total == COUNTS[name]


@pytest.mark.parametrize("name", COUNTS)
def test_the_kinds_of_parameters_add_up_but_for_biases_and_sinks(name: str) -> None:
    sizes = model_sizes(shipped_configurations()[name])
    parts = sizes.linear + sizes.expert + sizes.router + sizes.embedding + sizes.head + sizes.norm
    rest = sizes.total - parts
    assert rest == 0 or (sizes.model_type == "gpt_oss" and 0 < rest < sizes.total / 1000)


def test_experts_of_gpt_oss_and_what_a_token_goes_through() -> None:
    sizes = model_sizes(shipped_configurations()["openai/gpt-oss-20b"])
    assert sizes.expert / 1e9 == pytest.approx(19.11, abs=0.005)
    # The model card's 3.61 billion count the output matrix, but not the embeddings.
    assert (sizes.active - sizes.embedding) / 1e9 == pytest.approx(3.61, abs=0.01)
    assert model_sizes(shipped_configurations()["Qwen/Qwen3-32B"]).active == 32_762_123_264


def test_cached_bytes_of_a_token() -> None:
    shipped = shipped_configurations()
    # 64 layers of 8 key and 8 value heads of 128 values, two bytes each.
    assert model_sizes(shipped["Qwen/Qwen3-32B"]).kv_bytes_per_token() == 64 * 2 * 8 * 128 * 2
    # 128 heads of 128 + 64 key and 128 value values, expanded from the latent ones.
    deepseek = model_sizes(shipped["deepseek-ai/DeepSeek-V3.1"])
    assert deepseek.kv_bytes_per_token() == 61 * 128 * (192 + 128) * 2


def test_a_multimodal_configuration_counts_its_text_model() -> None:
    text = {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34}
    config = {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", **text}}
    assert model_sizes(config).total == COUNTS["google/gemma-3-4b-pt"]


@pytest.mark.parametrize(
    ("config", "told"), [({}, "no model_type"), ({"model_type": "xx"}, "'xx'")]
)
def test_a_configuration_of_no_model_is_refused(config: dict[str, str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        model_sizes(config)


@pytest.mark.parametrize("architecture", [*DENSE, *MIXTURES])
def test_four_bit_and_lora_counts_equal_those_of_a_loaded_model(
    architecture: str, tiny_model
) -> None:
    from bitsandbytes.nn import Params4bit

    folder = tiny_model(architecture)
    model, sizes = load_base(folder), sizes_of(folder)
    quantised = [p for p in model.parameters() if isinstance(p, Params4bit)]
    real = sum(packed_bytes(p) for p in quantised)
    planned = four_bit_matrices(sizes)
    if architecture == "gpt_oss":  # its stacks are parametrised: their packed bytes are elsewhere
        quantised_names = {m.name for m in planned if not m.is_expert}
        planned = tuple(m for m in planned if m.name in quantised_names)
        real = sum(packed_bytes(p) for n, p in model.named_parameters()
                   if isinstance(p, Params4bit) and "experts" not in n)  # fmt: skip
    assert sum(m.copies * nf4_bytes(m.inputs * m.outputs) for m in planned) == real
    adapted = attach_lora(model, modules=chosen_modules(model), r=4, alpha=8, dropout=0.0, seed=0)
    count = lora_parameters(lora_matrices(sizes), 4)
    assert count == adapted.num_parameters(only_trainable=True)


def packed_bytes(parameter) -> int:
    """Bytes of a matrix in four bits, without the two tables that all share."""
    state = parameter.quant_state
    scales = state.absmax.nbytes + state.state2.absmax.nbytes
    return int(parameter.data.nbytes + scales)


def test_nf4_takes_4_127_bits_a_weight() -> None:
    assert 8 * nf4_bytes(2**24) / 2**24 == pytest.approx(4.127, abs=0.001)


def test_what_is_not_quantised_keeps_its_width() -> None:
    sizes = model_sizes(shipped_configurations()["Qwen/Qwen3-4B"])
    assert weight_bytes(sizes, Setting(quantise="none")) == 2 * sizes.total
    rest = sizes.total - sizes.linear
    four_bit = weight_bytes(sizes, Setting()) - 2 * rest
    assert 8 * four_bit / sizes.linear == pytest.approx(4.127, abs=0.001)


def test_a_pattern_of_the_study_wins_over_the_architectures() -> None:
    config = tiny_config("llama", 259).to_dict()
    matrices = lora_matrices(model_sizes(config), pattern=r"q_proj$")
    assert {m.name.rsplit(".", 1)[-1] for m in matrices} == {"q_proj"}
