from __future__ import annotations

import pytest

from tests.serving import TinyServer
from xling.models.adapters import attach_lora
from xling.models.loading import load_base, load_tokenizer
from xling.scoring import InProcessEngine


@pytest.fixture(scope="module")
def adapter(tiny_model, tmp_path_factory):
    """A LoRA adapter that changes answers."""
    import torch

    model = load_base(tiny_model("llama"), four_bit=False)
    modules = [name for name, _ in model.named_modules() if name.endswith("q_proj")]
    adapted = attach_lora(model, modules=modules, r=4, alpha=8, dropout=0.0, seed=0)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.5)
    folder = tmp_path_factory.mktemp("adapter")
    adapted.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def started(tiny_model, adapter):
    with TinyServer(tiny_model("llama"), {"tuned": adapter}).running() as server:
        yield server


@pytest.fixture
def server(started):
    started.reset()
    return started


@pytest.fixture(scope="module")
def local(tiny_model):
    folder = tiny_model("llama")
    # Prompt by prompt, as the server computes them: batches move the last digits.
    return InProcessEngine(
        load_base(folder, four_bit=False),
        load_tokenizer(folder),
        add_special_tokens=True,
        batch_tokens=1,
        share_prefixes=False,
    )
