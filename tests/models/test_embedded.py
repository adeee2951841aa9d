"""The embedded models themselves: fetched, converted, and scoring as they did when pinned."""

from __future__ import annotations

import re

import numpy as np
import pytest

from xling.data import build_mini
from xling.models import catalog, locate_model
from xling.models.loading import compute_dtype, four_bit_share
from xling.prompts import PromptFormat, render_prompts
from xling.scoring import InProcessEngine

# float32 on CPU, torch 2.13, transformers 5.23, bitsandbytes 0.50: mini/1/training/0000 in
# English, four-bit SmolLM2-135M-Instruct through its chat template.
PINNED_LOGPROBS = [-1.61849, -2.01291, -1.12431, -1.79371]

pytestmark = [pytest.mark.slow, pytest.mark.weights]


def test_smollm2_loads_in_four_bits_and_scores_as_pinned():
    located = locate_model("smollm2-135m-instruct")
    assert located.weights.identity == f"sha256:{located.recipe.weights.sha256}"
    opened = located.open()
    assert four_bit_share(opened.model).of_blocks > 0.99
    (item, *_) = build_mini(languages=["eng_Latn"], difficulties=[1]).items["eng_Latn"]
    (prompt,) = render_prompts([item], PromptFormat(chat=True), opened.tokenizer)
    assert prompt.startswith("<|im_start|>system") and prompt.endswith("assistant\nAnswer: (")
    engine = InProcessEngine(opened.model, opened.tokenizer, add_special_tokens=False)
    scores = engine.score([prompt])
    tolerance = 1e-3 if str(compute_dtype()) == "torch.float32" else 0.1
    assert scores.logprobs[0] == pytest.approx(np.array(PINNED_LOGPROBS), abs=tolerance)


def test_every_catalog_model_is_pinned_by_content_and_version():
    for recipe in catalog().values():
        if recipe.weights is None:
            assert re.fullmatch("[0-9a-f]{40}", recipe.revision)
            continue
        assert len(recipe.weights.sha256) == 64
        assert all("==" in requirement for requirement in recipe.weights.requirements)
        assert len(recipe.weights.requirements) == len(recipe.weights.files)
