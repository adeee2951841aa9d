"""Quantised checkpoints go the whole way: four bits, adapter, training, saving and reloading."""

from __future__ import annotations

import pytest
import torch

from tests.native_checkpoints import save_fp8_model, save_mxfp4_model
from xling.models import locate_model
from xling.models.loading import four_bit_share
from xling.prompts import label_token_ids
from xling.study.settings import TrainingSettings
from xling.training.loop import Example, TrainingSet, train_adapter

EXAMPLES = [Example(f"The key is {n % 4 + 1}. Answer: (", n % 4 + 1) for n in range(24)]
IDS = torch.arange(3, 40)[None]


@pytest.fixture(params=["mxfp4", "fp8"])
def native(request, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "native"
    if request.param == "mxfp4":
        save_mxfp4_model(folder, dtype=torch.bfloat16)
    else:
        save_fp8_model(folder, dtype=torch.bfloat16, block=128)
    return folder


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


def test_four_bits_adapter_training_and_reload(native, tmp_path):
    located = locate_model(str(native))
    assert located.weights.folder != native
    opened = located.open()
    assert four_bit_share(opened.model).of_blocks > 0.75
    with opened.trainable(r=4, alpha=8, dropout=0.0, seed=0) as (adapted, modules):
        assert not any(name.endswith(("router", "mlp.gate")) for name in modules)
        per_expert = any(".experts.7." in name for name in modules)
        assert per_expert == (located.weights.precision == "fp8")
        result = train(located, adapted, tmp_path / "work")
        losses = [row["loss"] for row in result.curve]
        assert losses[-1] < 0.75 * losses[0], losses
        live = adapted(input_ids=IDS).logits
        adapted.save_pretrained(tmp_path / "adapter")

    fresh = locate_model(str(native), expected_identity=located.weights.identity).open()
    base = fresh.model(input_ids=IDS).logits
    with fresh.adapted(tmp_path / "adapter") as reloaded:
        assert torch.equal(reloaded.model(input_ids=IDS).logits, live)
    assert not torch.allclose(live, base)
