from __future__ import annotations

import numpy as np
import pytest
import torch

from xling.models.loading import load_base, load_tokenizer
from xling.scoring import InProcessEngine, Scores
from xling.scoring.batch_plan import plan_batches

PROMPTS = [
    f"{'A passage about something. ' * (1 + index % 7)}\nQuestion {index}?\nAnswer: ("
    for index in range(30)
]


def reference_logprobs(model, tokenizer, prompts) -> np.ndarray:
    """All logits, one prompt at a time, no padding: slow and plain."""
    labels = [tokenizer(label, add_special_tokens=False)["input_ids"][0] for label in "1234"]
    rows = []
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            logits = model(input_ids=ids).logits[0, -1].double()
        rows.append(logits.log_softmax(-1)[labels].numpy())
    return np.array(rows)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "gemma3_text"])
@pytest.mark.parametrize("four_bit", [True, False])
def test_scores_equal_plain_full_logits(tiny_model, architecture, four_bit):
    folder = tiny_model(architecture)
    model, tokenizer = load_base(folder, four_bit=four_bit), load_tokenizer(folder)
    engine = InProcessEngine(model, tokenizer, add_special_tokens=True, batch_tokens=300)
    scores = engine.score(PROMPTS)
    expected = reference_logprobs(model, tokenizer, PROMPTS)
    assert scores.logprobs == pytest.approx(expected, abs=1e-4)
    assert scores.n_tokens.tolist() == [len(tokenizer(p)["input_ids"]) for p in PROMPTS]
    assert scores.answer_mass == pytest.approx(np.exp(expected).sum(axis=1), abs=1e-4)
    assert set(scores.predictions) <= {1, 2, 3, 4}


def test_order_and_batch_size_do_not_matter(tiny_model):
    folder = tiny_model("gemma3_text")
    model, tokenizer = load_base(folder), load_tokenizer(folder)

    def score(prompts, batch_tokens):
        engine = InProcessEngine(
            model, tokenizer, add_special_tokens=True, batch_tokens=batch_tokens
        )
        return engine.score(prompts).logprobs

    alone = score(PROMPTS, 1)
    assert score(PROMPTS[::-1], 2000)[::-1] == pytest.approx(alone, abs=1e-4)


def test_same_batches_give_identical_numbers(tiny_model):
    folder = tiny_model("llama")
    engine = InProcessEngine(load_base(folder), load_tokenizer(folder), add_special_tokens=True)
    assert np.array_equal(engine.score(PROMPTS).logprobs, engine.score(PROMPTS).logprobs)


def test_too_long_prompt_is_an_error_before_any_batch(tiny_model):
    folder = tiny_model("llama")
    engine = InProcessEngine(load_base(folder), load_tokenizer(folder), add_special_tokens=True)
    with pytest.raises(ValueError, match=r"prompt 1 has 60\d tokens; the model's context is 512"):
        engine.score(["short (", "x" * 600])


def test_no_prompts_give_no_scores(tiny_model):
    folder = tiny_model("llama")
    engine = InProcessEngine(load_base(folder), load_tokenizer(folder), add_special_tokens=True)
    assert engine.score([]).logprobs.shape == (0, 4)


def test_predictions_count_from_one_and_ties_go_to_the_first():
    scores = Scores(
        np.log([[0.1, 0.2, 0.3, 0.4], [0.2, 0.2, 0.1, 0.1]]), np.array([3, 3], np.int32)
    )
    assert scores.predictions.tolist() == [4, 1]
    assert scores.answer_mass == pytest.approx([1.0, 0.6])


def test_batches_hold_each_row_once_and_keep_the_bound():
    lengths = np.random.default_rng(0).integers(1, 200, size=500).astype(np.int32)
    batches = plan_batches(lengths, 1000)
    assert sorted(np.concatenate(batches).tolist()) == list(range(500))
    assert all(lengths[rows].max() * len(rows) <= 1000 for rows in batches)
    assert plan_batches(np.array([5000, 1], np.int32), 1000)[0].tolist() == [0]
