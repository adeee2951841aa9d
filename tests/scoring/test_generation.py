"""Free continuations: batches change nothing, draws are the item's own and truly drawn."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from xling.models.adapters import attach_lora
from xling.models.loading import load_base, load_tokenizer
from xling.scoring.context import ANSWER_ROOM
from xling.scoring.generation import cut_at, generate
from xling.scoring.protocol import Generation
from xling.scoring.sampling import Sampling, draw_tokens, uniform_draws

pytestmark = pytest.mark.slow

PROMPTS = [f"{'Some words. ' * (1 + index % 5)}Number {index}?" for index in range(12)]
KEYS = [f"item {index}" for index in range(12)]


@pytest.fixture(scope="module")
def llama(tiny_model):
    folder = tiny_model("llama")
    return load_base(folder, four_bit=False), load_tokenizer(folder)


def run(
    opened, prompts=PROMPTS, keys=KEYS, *, stop="", batch_tokens=500, **sampling
) -> dict[str, Generation]:
    model, tokenizer = opened
    return {
        key: made
        for batch in generate(
            model,
            tokenizer,
            prompts,
            keys,
            Sampling(**({"max_tokens": 12} | sampling)),
            add_special_tokens=True,
            stop=stop,
            batch_tokens=batch_tokens,
        )
        for key, made in batch.items()
    }


def plain_greedy(model, tokenizer, prompt, n) -> str:
    """No cache, no padding, no generate()."""
    ids = tokenizer(prompt)["input_ids"]
    start = len(ids)
    for _ in range(n):
        with torch.inference_mode():
            token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if token == tokenizer.eos_token_id:
            break
        ids.append(token)
    written = [token for token in ids[start:] if token != tokenizer.pad_token_id]
    text: str = tokenizer.decode(written).rstrip("\ufffd")
    return text


@pytest.mark.parametrize("four_bit", [False, True])
@pytest.mark.parametrize("architecture", ["llama", "gemma3_text"])
def test_batches_write_what_one_prompt_alone_does(tiny_model, architecture, four_bit):
    folder = tiny_model(architecture)
    opened = load_base(folder, four_bit=four_bit), load_tokenizer(folder)
    together = run(opened)
    assert together == run(opened, PROMPTS[::-1], KEYS[::-1], batch_tokens=1)
    texts = [together[key].text for key in KEYS[:6]]
    assert texts == [plain_greedy(*opened, prompt, 12) for prompt in PROMPTS[:6]]
    assert len(set(texts)) > 2


def test_an_adapter_decides_what_is_written(tiny_model):
    folder = tiny_model("llama")
    model, tokenizer = load_base(folder, four_bit=True), load_tokenizer(folder)
    before = run((model, tokenizer))
    modules = [name for name, _ in model.named_modules() if name.endswith("q_proj")]
    adapted = attach_lora(model, modules=modules, r=4, alpha=8, dropout=0.0, seed=0)
    adapted.eval()
    assert run((adapted, tokenizer)) == before  # a new adapter does nothing
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.5)
    changed = run((adapted, tokenizer))
    assert changed != before
    assert changed[KEYS[0]].text == plain_greedy(adapted, tokenizer, PROMPTS[0], 12)


def test_draws_depend_on_seed_and_key_and_on_nothing_else(llama):
    drawn = run(llama, temperature=1.0, top_p=0.9, seed=5)
    assert drawn == run(llama, temperature=1.0, top_p=0.9, seed=5)
    alone = {
        key: run(llama, [prompt], [key], temperature=1.0, top_p=0.9, seed=5)[key]
        for prompt, key in zip(PROMPTS[::-1], KEYS[::-1], strict=True)
    }
    assert drawn == alone
    other = run(llama, temperature=1.0, top_p=0.9, seed=6)
    assert all(drawn[key].text != other[key].text for key in KEYS)
    renamed = run(llama, keys=[f"{key}!" for key in KEYS], temperature=1.0, top_p=0.9, seed=5)
    assert all(drawn[key].text != renamed[f"{key}!"].text for key in KEYS)


def test_greedy_uses_no_seed_and_a_tiny_temperature_is_greedy(llama):
    greedy = run(llama)
    assert greedy == run(llama, seed=9) == run(llama, temperature=1e-4)
    assert greedy == run(llama, temperature=3.0, top_p=1e-6)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (1.0, 0.6), (1.7, 0.8)])
def test_draws_are_as_frequent_as_multinomial_ones(temperature, top_p):
    logits = torch.tensor([[0.0, 2.0, 1.0, -1.0, 1.5, -torch.inf]])
    n = 40_000
    draws = np.concatenate([uniform_draws(3, str(item), 100) for item in range(n // 100)])
    tokens = draw_tokens(
        logits.expand(n, -1), torch.from_numpy(draws), temperature=temperature, top_p=top_p
    )
    expected = (logits[0].double() / temperature).softmax(-1)
    # the nucleus, token by token: a token stays while those before it have not reached top_p
    kept, reached = torch.zeros_like(expected), 0.0
    for token in expected.argsort(descending=True).tolist():
        if reached < top_p:
            kept[token] = expected[token]
            reached += float(expected[token])
    reference = torch.multinomial(
        kept, n, replacement=True, generator=torch.Generator().manual_seed(1)
    )
    ours, theirs = (torch.bincount(t, minlength=6).double() / n for t in (tokens, reference))
    assert set(ours.nonzero().flatten().tolist()) == set(kept.nonzero().flatten().tolist())
    assert torch.allclose(ours, kept / kept.sum(), atol=5 * 0.5 / n**0.5)
    assert torch.allclose(ours, theirs, atol=7 * 0.5 / n**0.5)


def test_extreme_draws_never_take_an_impossible_token():
    logits = torch.tensor([[-torch.inf, 0.0, 1.0, -torch.inf]]).expand(2, -1)
    draws = torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64)
    assert draw_tokens(logits, draws, temperature=1.0, top_p=1.0).tolist() == [1, 2]


def test_a_model_draws_first_tokens_as_often_as_it_finds_them_likely(llama):
    model, tokenizer = llama
    n = 2000
    keys = [str(index) for index in range(n)]
    made = run(llama, ["ab"] * n, keys, temperature=0.3, max_tokens=1, batch_tokens=4000)
    with torch.inference_mode():
        logits = model(**tokenizer("ab", return_tensors="pt")).logits[0, -1].double()
    likely = int(logits.argmax())
    share = float((logits / 0.3).softmax(-1)[likely])
    text = tokenizer.decode([likely]).rstrip("\ufffd")
    assert 0.05 < share < 0.95 and text
    found = np.mean([each.text == text for each in made.values()])
    assert abs(found - share) < 5 * (share * (1 - share) / n) ** 0.5


class Script:
    """A forward hook that makes the model write given tokens, one a step."""

    def __init__(self, ids):
        self.ids = ids
        self.step = 0

    def __call__(self, module, args, output):
        output.logits[:] = -50.0
        output.logits[..., self.ids[min(self.step, len(self.ids) - 1)]] = 50.0
        self.step += 1


@pytest.mark.parametrize(
    ("written", "settings", "expected"),
    [
        ("one two</s>", {}, Generation("one two", 7, False)),
        ("one two</s>", {"max_tokens": 8}, Generation("one two", 7, False)),
        ("one two</s>", {"max_tokens": 7}, Generation("one two", 7, True)),
        ("</s>", {}, Generation("", 0, False)),
        ("<s>one<pad>\n</s>", {}, Generation("<s>one\n", 6, False)),
        ("éé</s>", {"max_tokens": 3}, Generation("é", 3, True)),
        ("\n\none\ntwo\n\nthree</s>", {"stop": "\n\n"}, Generation("\n\none\ntwo", 11, False)),
        ("one</s>", {"stop": "\n\n"}, Generation("one", 3, False)),
        ("one\ntwo", {"stop": "\n\n", "max_tokens": 6}, Generation("one\ntw", 6, True)),
    ],
)
def test_ends_limits_and_stops(tiny_model, written, settings, expected):
    folder = tiny_model("llama")
    model, tokenizer = load_base(folder, four_bit=False), load_tokenizer(folder)
    ids = tokenizer(written, add_special_tokens=False)["input_ids"]
    model.register_forward_hook(Script(ids))
    made = run((model, tokenizer), ["a", "bcd"], ["1", "2"], **({"max_tokens": 30} | settings))
    assert made == {"1": expected, "2": expected}


def test_a_models_own_settings_neither_leak_in_nor_get_lost(tiny_model):
    folder = tiny_model("llama")
    model, tokenizer = load_base(folder, four_bit=False), load_tokenizer(folder)
    before = run((model, tokenizer))
    preset = model.generation_config
    preset.repetition_penalty, preset.do_sample, preset.top_k = 5.0, True, 3
    preset.eos_token_id = [2, tokenizer.convert_tokens_to_ids("z")]
    assert {k: v.text.split("z")[0] for k, v in before.items()} == {
        k: v.text for k, v in run((model, tokenizer)).items()
    }
    assert model.generation_config is preset and preset.repetition_penalty == 5.0


def test_generation_warns_of_nothing(llama, caplog, recwarn):
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        run(llama, temperature=0.7)
        run(llama)
    finally:
        logger.removeHandler(caplog.handler)
    assert not caplog.records and not recwarn.list


def test_batches_come_one_by_one_so_that_work_can_stop_and_resume(llama):
    model, tokenizer = llama
    settings = {"add_special_tokens": True, "batch_tokens": 150}
    batches = generate(model, tokenizer, PROMPTS, KEYS, Sampling(12, temperature=1.0), **settings)
    done = next(batches)
    batches.close()
    assert 0 < len(done) < len(PROMPTS)
    left = [row for row, key in enumerate(KEYS) if key not in done]
    rest = run(llama, [PROMPTS[r] for r in left], [KEYS[r] for r in left], temperature=1.0)
    assert done | rest == run(llama, temperature=1.0)


def test_a_prompt_without_room_is_an_error_before_the_first_batch(llama):
    model, tokenizer = llama
    long = "x" * 300  # 301 tokens of a context of 512
    settings = {"add_special_tokens": True}
    room = 512 - 301 - ANSWER_ROOM
    message = (
        rf"item 'second' has 301 tokens; with {room + 1} tokens of reasoning .* context of 512; "
        rf"set chain_of_thought.max_tokens to {room} or less"
    )
    with pytest.raises(ValueError, match=message):
        generate(model, tokenizer, ["a", long], ["first", "second"], Sampling(room + 1), **settings)
    generate(model, tokenizer, ["a", long], ["first", "second"], Sampling(room), **settings)
    with pytest.raises(ValueError, match="shorten the passage"):
        generate(model, tokenizer, ["x" * 600], ["1"], Sampling(1), **settings)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"max_tokens": 0}, "max_tokens must be 1 or more"),
        ({"temperature": -0.1}, "temperature must be 0 or more"),
        ({"temperature": float("nan")}, "temperature must be 0 or more"),
        ({"top_p": 0.0}, "top_p must be in"),
        ({"keys": KEYS[:-1]}, "12 prompts need as many keys"),
        ({"keys": [*KEYS[:-1], KEYS[0]]}, "repeated: item 0"),
    ],
)
def test_wrong_settings_are_errors(llama, changed, message):
    with pytest.raises(ValueError, match=message):
        run(llama, **changed)


def test_no_prompts_give_no_batches(llama):
    assert run(llama, [], []) == {}


def test_a_stop_cuts_after_the_leading_blanks():
    assert cut_at("\n\n a\n\nb\n\nc", "\n\n") == "\n\n a"
    assert cut_at("a\nb", "\n\n") == "a\nb"
    assert cut_at("\n\n", "\n\n") == "\n\n"
