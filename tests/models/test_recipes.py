"""Every architecture of the catalog: four bits, adapter, training, saving and reloading."""

from __future__ import annotations

import re

import pytest
import torch

from tests.tiny_models import save_tiny_gemma3
from xling.models import ModelFiles, Weights, find_recipe
from xling.models.adapters import chosen_modules, matching_modules
from xling.models.architectures import architectures
from xling.models.catalog import Recipe, catalog
from xling.models.loading import four_bit_share
from xling.prompts import label_token_ids
from xling.study.settings import TrainingSettings
from xling.training.loop import Example, TrainingSet, train_adapter

pytestmark = pytest.mark.slow

ATTENTION = [f"self_attn.{name}_proj" for name in "qkvo"]
MLP = ["gate_proj", "up_proj", "down_proj"]
DENSE = [*ATTENTION, *(f"mlp.{name}" for name in MLP)]
LATENT = [
    f"self_attn.{name}"
    for name in ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj")
]


def experts(count):
    return [f"mlp.experts.{expert}.{name}" for expert in range(count) for name in MLP]


# What each layer's adapters sit on, written out.
LAYERS = {
    "llama": [DENSE, DENSE],
    "qwen2": [DENSE, DENSE],
    "qwen3": [DENSE, DENSE],
    "gemma3_text": [DENSE, DENSE],
    "gemma3": [DENSE, DENSE],
    "qwen3_moe": [ATTENTION + experts(4)] * 2,
    "gpt_oss": [ATTENTION, ATTENTION],
    "deepseek_v3": [
        LATENT + [f"mlp.{name}" for name in MLP],
        *[LATENT + experts(8) + [f"mlp.shared_experts.{name}" for name in MLP]] * 2,
    ],
}
EXAMPLES = [Example(f"The key is {n % 4 + 1}. Answer: (", n % 4 + 1) for n in range(24)]


@pytest.fixture(params=LAYERS)
def located(request, tiny_model, tmp_path):
    if request.param == "gemma3":
        folder = tmp_path / "gemma3"
        save_tiny_gemma3(folder)
    else:
        folder = tiny_model(request.param)
    return ModelFiles(Recipe("tiny", repository=str(folder)), Weights(folder, ""), "nf4")


def test_four_bits_adapter_training_and_reload(located, tmp_path):
    model_type = located.architecture.model_type
    opened = located.open()
    assert four_bit_share(opened.model).of_blocks > 0.75
    assert located.needs_gradient_checkpointing == (model_type == "gpt_oss")
    ids = torch.arange(3, 40)[None]
    base = opened.model(input_ids=ids).logits
    with opened.trainable(r=4, alpha=8, dropout=0.0, seed=0) as (adapted, modules):
        expected = {
            f"model.layers.{layer}.{name}"
            for layer, names in enumerate(LAYERS[model_type])
            for name in names
        }
        assert set(modules) == expected and len(modules) == len(expected)
        assert not any(re.search(r"router|gate$|lm_head|embed", name) for name in modules)
        trained = {
            name.split(".lora_")[0].removeprefix("base_model.model.")
            for name, parameter in adapted.named_parameters()
            if parameter.requires_grad
        }
        assert trained == expected
        result = train(located, adapted, tmp_path / "work")
        losses = [row["loss"] for row in result.curve]
        assert losses[-1] < 0.75 * losses[0], losses
        live = adapted(input_ids=ids).logits
        adapted.save_pretrained(tmp_path / "adapter")
    assert torch.equal(opened.model(input_ids=ids).logits, base)
    fresh = located.open()
    with fresh.adapted(tmp_path / "adapter") as reloaded:
        assert torch.equal(reloaded.model(input_ids=ids).logits, live)
    assert not torch.allclose(live, base)


def train(located, adapted, work):
    labels = label_token_ids(located.tokenizer(), EXAMPLES[0].prompt, add_special_tokens=True)
    return train_adapter(
        adapted,
        located.tokenizer(),
        TrainingSet(EXAMPLES, labels, add_special_tokens=True),
        TrainingSettings(
            epochs=4,
            batch_size=8,
            learning_rate=1e-2,
            warmup_steps=1,
            gradient_checkpointing=located.needs_gradient_checkpointing,
            checkpoints=1,
        ),
        seed=0,
        folder=work,
    )


def test_catalog_holds_the_studies_models_at_pinned_revisions():
    hub = {name: recipe for name, recipe in catalog().items() if recipe.weights is None}
    assert len(hub) == 10
    for name, recipe in hub.items():
        assert recipe.name == recipe.repository == name
        assert re.fullmatch("[0-9a-f]{40}", recipe.revision)
        assert find_recipe(name) == recipe
        assert find_recipe(name, revision="main").revision == "main"
    precisions = {name: recipe.precision for name, recipe in hub.items()}
    assert {name for name, precision in precisions.items() if precision == "mxfp4"} == {
        "openai/gpt-oss-20b",
        "openai/gpt-oss-120b",
    }
    assert precisions["deepseek-ai/DeepSeek-V3.1"] == "fp8"
    assert hub["openai/gpt-oss-120b"].gpus == 2
    assert hub["deepseek-ai/DeepSeek-V3.1"].gpus == 8


def test_no_architecture_adapts_a_router(tiny_model):
    routers = ("mlp.gate", "mlp.router", "block_sparse_moe.gate", "mlp.shared_expert_gate")
    for architecture in architectures().values():
        for router in routers:
            assert not re.search(architecture.lora_modules, f"model.layers.0.{router}")


def test_recipe_pattern_reaches_single_experts(tiny_model):
    folder = tiny_model("qwen3_moe")
    recipe = Recipe("tiny", repository=str(folder), lora_modules=r"experts\.2\.up_proj$")
    opened = ModelFiles(recipe, Weights(folder, ""), "nf4").open()
    with opened.trainable(r=2, alpha=4, dropout=0.0, seed=0) as (_, modules):
        assert modules == tuple(f"model.layers.{n}.mlp.experts.2.up_proj" for n in (0, 1))
    assert matching_modules(opened.model, recipe.lora_modules) == modules
    assert len(chosen_modules(opened.model)) == 2 * (4 + 12)
