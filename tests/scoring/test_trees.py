from __future__ import annotations

import numpy as np
import pytest
import torch

from xling.models.adapters import attach_lora
from xling.models.loading import load_base, load_tokenizer
from xling.prompts import PromptFormat, render_prompts
from xling.scoring import InProcessEngine, batch_runner, option_orders, reorder
from xling.scoring.batch_plan import plan_batches
from xling.scoring.option_orders import ReorderedQuestion
from xling.scoring.prefix_forward import TRUSTED, can_share
from xling.scoring.prefix_trees import Request, common_prefix, lay_out, plan_rows

pytestmark = pytest.mark.slow

ARCHITECTURES = ["llama", "qwen2", "qwen3", "gemma3_text", "qwen3_moe", "gpt_oss", "deepseek_v3"]
ORDERS = option_orders("cyclic")
ITEMS = [
    ReorderedQuestion(
        "A passage about something. " * (1 + index % 4),
        f"Which of these is number {index}?",
        (f"the {'first ' * (index % 3)}one", "second", "a third that is long", "4th"),
    )
    for index in range(9)
]
PROMPTS = [f"{item.flores_passage}\n{item.question}\nAnswer:" for item in ITEMS]
CHOICES = [item.answers for item in ITEMS]


def variants(tokenizer, *, chat=False, orders=ORDERS):
    layout = PromptFormat(chat=chat)
    return [render_prompts([reorder(i, o) for o in orders], layout, tokenizer) for i in ITEMS]


def engine_of(folder, *, four_bit=False, chat=False, **options):
    options = {"batch_tokens": 700, **options}
    return InProcessEngine(
        load_base(folder, four_bit=four_bit),
        load_tokenizer(folder),
        add_special_tokens=not chat,
        **options,
    )


def plain_sum(model, tokenizer, context_ids, answer_ids):
    """One sequence, all its logits, no cache and no padding."""
    ids = torch.tensor([[*context_ids, *answer_ids]])
    with torch.inference_mode():
        logprobs = model(input_ids=ids).logits[0].double().log_softmax(-1)
    places = range(len(context_ids) - 1, ids.shape[1] - 1)
    return sum(float(logprobs[p, t]) for p, t in zip(places, answer_ids, strict=True))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("chat", [False, True])
def test_variants_equal_scoring_each_alone(tiny_model, architecture, chat):
    engine = engine_of(tiny_model(architecture), chat=chat)
    prompts = variants(engine._tokenizer, chat=chat)
    scores = engine.score_variants(prompts)
    assert scores.logprobs.shape == (9, 4, 4) and scores.n_tokens.shape == (9, 4)
    for index in range(len(ORDERS)):
        alone = engine.score([row[index] for row in prompts])
        assert scores.logprobs[:, index] == pytest.approx(alone.logprobs, abs=1e-4)
        assert scores.n_tokens[:, index].tolist() == alone.n_tokens.tolist()
    assert np.ptp(scores.logprobs, axis=1).max() > 0.01  # the orders do differ


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_choices_equal_plain_sums_of_log_probabilities(tiny_model, architecture):
    engine = engine_of(tiny_model(architecture))
    scores = engine.score_choices(PROMPTS, CHOICES)
    model, tok = engine._model, engine._tokenizer
    for row, (prompt, answers) in enumerate(zip(PROMPTS, CHOICES, strict=True)):
        before = tok(prompt)["input_ids"]
        assert scores.prompt_tokens[row] == len(before)
        for column, answer in enumerate(answers):
            ids = tok(" " + answer, add_special_tokens=False)["input_ids"]
            assert scores.n_tokens[row, column] == len(ids)
            assert scores.n_characters[row, column] == len(answer)
            for value, context in (
                (scores.total, before),
                (scores.unconditional, tok("Answer:")["input_ids"]),
                (scores.prior, [tok.bos_token_id]),
            ):
                expected = plain_sum(model, tok, context, ids)
                assert value[row, column] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("four_bit", [False, True])
def test_adapters_and_four_bits_score_the_same_shared_or_not(tiny_model, four_bit):
    base = load_base(tiny_model("gemma3_text"), four_bit=four_bit)
    tokenizer = load_tokenizer(tiny_model("gemma3_text"))
    names = [name for name, _ in base.named_modules() if name.endswith(("q_proj", "down_proj"))]
    plain = InProcessEngine(base, tokenizer, add_special_tokens=True).score_variants(
        variants(tokenizer)
    )
    adapted = attach_lora(base, modules=names, r=4, alpha=8, dropout=0.0, seed=1)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(2))
    adapted.eval()
    engines = [
        InProcessEngine(adapted, tokenizer, add_special_tokens=True, share_prefixes=share)
        for share in (True, False)
    ]
    shared, alone = (engine.score_variants(variants(tokenizer)).logprobs for engine in engines)
    assert shared == pytest.approx(alone, abs=1e-4)
    assert np.abs(shared - plain.logprobs).max() > 0.01  # the adapter was on
    shared, alone = (engine.score_choices(PROMPTS, CHOICES).total for engine in engines)
    assert shared == pytest.approx(alone, abs=1e-4)


def test_batches_do_not_matter_and_repeat_exactly(tiny_model, monkeypatch):
    folder = tiny_model("gemma3_text")
    scores = [
        engine_of(folder, batch_tokens=tokens).score_choices(PROMPTS, CHOICES).total
        for tokens in (1, 400, 4000, 4000)
    ]
    assert np.array_equal(scores[2], scores[3])
    assert scores[0] == pytest.approx(scores[2], abs=1e-4)
    assert scores[1] == pytest.approx(scores[2], abs=1e-4)
    monkeypatch.setattr(batch_runner, "MAX_LOGITS", 30_000)
    bounded = engine_of(folder, batch_tokens=4000).score_choices(PROMPTS, CHOICES).total
    assert bounded == pytest.approx(scores[2], abs=1e-4)


def passes_of(engine):
    """Shapes of what the model is given from now on."""
    computed = []
    engine._model.register_forward_pre_hook(
        lambda _, args, kwargs: computed.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    return computed


@pytest.mark.parametrize("architecture", TRUSTED)
@pytest.mark.parametrize("four_bit", [False, True])
def test_questions_on_one_passage_are_scored_as_each_alone(tiny_model, architecture, four_bit):
    passages = [f"{n}. A passage about {'something and ' * n}nothing." for n in (4, 6, 5)]
    prompts = [
        f"{passages[k % 3]}\nQuestion {'really ' * (k % 4)}{k}?\nAnswer: (" for k in range(10)
    ]
    folder = tiny_model(architecture)
    shared = engine_of(folder, four_bit=four_bit)
    computed = passes_of(shared)
    together = shared.score(prompts)
    alone = engine_of(folder, four_bit=four_bit, share_prefixes=False).score(prompts)
    assert together.logprobs == pytest.approx(alone.logprobs, abs=2e-4)
    assert together.n_tokens.tolist() == alone.n_tokens.tolist()
    assert sum(rows for rows, _ in computed) == 3
    assert sum(rows * length for rows, length in computed) < 0.75 * alone.n_tokens.sum()


def test_what_is_shared_is_computed_once(tiny_model):
    engine = engine_of(tiny_model("llama"), batch_tokens=100_000)
    computed = passes_of(engine)
    prompts = [[f"{i}{'long and shared ' * 20}{end}" for end in ("a (", "bcd (", "ef (", "g (")]
               for i in range(3)]  # fmt: skip
    engine.score_variants(prompts)
    shared = 2 + len("long and shared " * 20)  # with the beginning-of-text token
    ends = len("a (bcd (ef (g (")
    assert computed == [(3, shared + ends)]


def test_identical_prompts_are_computed_once(tiny_model):
    engine = engine_of(tiny_model("llama"))
    scores = engine.score([PROMPTS[0], PROMPTS[1], PROMPTS[0]])
    assert np.array_equal(scores.logprobs[0], scores.logprobs[2])
    assert scores.logprobs[0] == pytest.approx(engine.score(PROMPTS[:1]).logprobs[0], abs=1e-4)


def untrusted(tiny_model, hook):
    """An engine of an architecture that is not known, whose passes a hook changes."""
    engine = engine_of(tiny_model("llama"))
    engine._model.config.model_type = "unknown"
    engine._model.register_forward_pre_hook(hook, with_kwargs=True)
    return engine


def lose_trees(_, args, kwargs):
    mask = kwargs["attention_mask"]
    if mask is not None:  # as a model that makes a causal mask whatever it is given
        kwargs["attention_mask"] = torch.ones_like(mask).tril()
    return args, kwargs


def refuse_trees(_, args, kwargs):
    if kwargs["attention_mask"] is not None:
        raise ValueError("too many values to unpack")


@pytest.mark.parametrize(
    ("hook", "reason"), [(lose_trees, "they differ by"), (refuse_trees, "too many values")]
)
def test_an_unknown_model_that_cannot_compute_trees_scores_each_alone(
    tiny_model, caplog, hook, reason
):
    prompts = [*variants(None), [PROMPTS[0]] * 4]  # the last ones are no test of a mask
    expected = engine_of(tiny_model("llama"), share_prefixes=False).score_variants(prompts)
    scores = untrusted(tiny_model, hook).score_variants(prompts)
    assert "each is computed alone" in caplog.text and reason in caplog.text
    assert scores.logprobs == pytest.approx(expected.logprobs, abs=1e-4)


def test_an_unknown_model_that_computes_trees_is_tried_once_and_shares(tiny_model, caplog):
    engine = untrusted(tiny_model, lambda *_: None)
    computed = passes_of(engine)
    scores = engine.score([f"{'shared words ' * 9}{end}" for end in ("a (", "bc (", "bd (")])
    shared = 1 + len("shared words " * 9)
    assert computed == [(2, shared + 4), (1, shared + 10), (1, shared + 10)]
    assert scores.logprobs.shape == (3, 4) and not caplog.text


def test_a_row_holds_a_tree_depth_first():
    requests = [Request(tokens, len(tokens) - 1) for tokens in ([1, 2, 3, 4], [1, 2, 5], [1, 2, 3])]
    row = lay_out(requests, [2, 0, 1])
    assert row.tokens.tolist() == [1, 2, 3, 4, 5]
    assert row.positions.tolist() == [0, 1, 2, 3, 2]
    assert row.ends.tolist() == [5, 5, 4, 4, 5]
    assert row.repeats.tolist() == [3, 3, 2, 1, 1]
    assert row.sequences == (2, 0, 1) and [each.tolist() for each in row.reads] == [[2], [3], [4]]
    assert row.read_places.tolist() == [2, 3, 4]


def test_every_token_of_a_row_sees_its_own_sequence_and_nothing_else():
    rng = np.random.default_rng(0)
    for _ in range(50):
        requests = [Request(rng.integers(0, 3, size=rng.integers(1, 9)).tolist(), 0)
                    for _ in range(rng.integers(1, 8))]  # fmt: skip
        chosen = sorted(range(len(requests)), key=lambda k: tuple(requests[k].tokens))
        row = lay_out(requests, chosen)
        places = np.arange(len(row.tokens))
        sees = (places[None] <= places[:, None]) & (row.ends[None] > places[:, None])
        for index, read in zip(row.sequences, row.reads, strict=True):
            tokens = requests[index].tokens
            for position, place in enumerate(read):
                assert row.tokens[sees[place]].tolist() == list(tokens[: position + 1])
                assert row.positions[place] == position
        assert len(row.tokens) == len({tuple(r.tokens[:n]) for r in requests
                                       for n in range(1, len(r.tokens) + 1)})  # fmt: skip


def test_rows_hold_each_sequence_once_and_join_what_pays():
    passage, other = list(range(100)), list(range(500, 600))
    tokens = [[*passage, 1000 + k] for k in range(4)] + [[*other, 7], [*other, 8], [0, *other]]
    requests = [Request(each, len(each) - 1) for each in tokens]
    rows = plan_rows(requests, share=True, longest=1000, max_reads=100)
    assert sorted(sorted(row.sequences) for row in rows) == [[0, 1, 2, 3], [4, 5], [6]]
    short = plan_rows(requests, share=True, longest=102, max_reads=100)
    assert sorted(len(row.sequences) for row in short) == [1, 2, 2, 2]
    assert all(
        len(r.sequences) == 1 for r in plan_rows(requests, share=False, longest=1000, max_reads=100)
    )
    # A few shared words are not worth a row in which all questions are compared with all others.
    preamble = [Request([1, 2, 3, *range(k, k + 200)], 202) for k in range(10, 2000, 200)]
    assert len(plan_rows(preamble, share=True, longest=10_000, max_reads=100)) == 10


def test_common_prefix():
    assert common_prefix([1, 2, 3], [1, 2, 4]) == 2
    assert common_prefix([1, 2], [1, 2, 4]) == 2
    assert common_prefix([], [1]) == 0


def test_batches_hold_each_row_once_and_keep_both_bounds():
    rng = np.random.default_rng(0)
    lengths, reads = rng.integers(1, 200, size=300), rng.integers(1, 60, size=300)
    batches = plan_batches(lengths, 1500, reads=reads, max_reads=100)
    assert sorted(np.concatenate(batches).tolist()) == list(range(300))
    for chosen in batches:
        assert len(chosen) == 1 or lengths[chosen].max() * len(chosen) <= 1500
        assert len(chosen) == 1 or reads[chosen].sum() <= 100
    assert all(len(b) == 1 for b in plan_batches(lengths, 10**6, reads=reads, max_reads=1))


def test_memory_that_runs_out_halves_batches_and_loses_nothing(tiny_model, caplog):
    folder = tiny_model("gemma3_text")
    prompts = [f"{index} {prompt}" for index, prompt in enumerate(PROMPTS)]
    expected = engine_of(folder, batch_tokens=2000).score(prompts)
    engine = engine_of(folder, batch_tokens=2000)

    def run_out(_, args, kwargs):
        if kwargs["input_ids"].numel() > 400:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    engine._model.register_forward_pre_hook(run_out, with_kwargs=True)
    assert engine.score(prompts).logprobs == pytest.approx(expected.logprobs, abs=1e-4)
    assert "memory ran out on a batch of" in caplog.text
    llama = engine_of(tiny_model("llama"), batch_tokens=2000)
    llama._model.register_forward_pre_hook(run_out, with_kwargs=True)
    joint = [f"{'shared ' * 30}{end}{' end' * 20}" for end in "abcdefg"]
    alone = engine_of(tiny_model("llama"), share_prefixes=False).score(joint)
    assert llama.score(joint).logprobs == pytest.approx(alone.logprobs, abs=1e-4)
    with pytest.raises(RuntimeError, match="memory ran out on a single prompt of 501 tokens"):
        llama.score(["x" * 500])


def test_other_errors_of_a_pass_are_not_taken_for_memory(tiny_model):
    engine = engine_of(tiny_model("llama"))

    def fail(*_):
        raise RuntimeError("another reason")

    engine._model.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="another reason"):
        engine.score(PROMPTS)


def test_finished_batches_are_kept_and_not_computed_again(tiny_model, tmp_path):
    kept = tmp_path / "stage" / "batches.jsonl"
    options = {"batch_tokens": 300, "cache_file": None}
    whole = engine_of(tiny_model("gemma3_text"), **options).score(PROMPTS)
    options["cache_file"] = kept
    engine = engine_of(tiny_model("gemma3_text"), **options)
    passes = []

    def cut_off(*_):
        passes.append(1)
        if len(passes) == 2:
            raise KeyboardInterrupt

    engine._model.register_forward_pre_hook(cut_off)
    with pytest.raises(KeyboardInterrupt):
        engine.score(PROMPTS)
    finished = len(kept.read_text().splitlines())
    assert finished >= 1
    again = engine_of(tiny_model("gemma3_text"), **options)
    computed = passes_of(again)
    assert np.array_equal(again.score(PROMPTS).logprobs, whole.logprobs)
    total = len(kept.read_text().splitlines())
    assert len(computed) == total - finished > 0


def test_too_long_answer_is_an_error_before_any_batch_and_named(tiny_model):
    engine = engine_of(tiny_model("llama"))
    engine._model.register_forward_pre_hook(lambda *_: pytest.fail("a batch was run"))
    choices = [CHOICES[0], ("a", "b", "c" * 500, "d")]
    message = r"option 3 of prompt 1 has 5\d\d tokens with its prompt \(\d+ without\); .* is 512"
    with pytest.raises(ValueError, match=message):
        engine.score_choices(PROMPTS[:2], choices)
    with pytest.raises(ValueError, match=r"prompt 1, variant 2, has 60\d tokens"):
        engine.score_variants([["a (", "b (", "c ("], ["a (", "b (", "x" * 600 + " ("]])


@pytest.mark.parametrize(
    ("prompts", "choices", "message"),
    [
        (["a", "b"], [("1", "2", "3", "4")], "2 prompts and answers to 1"),
        (["a"], [("1", "2", "3")], "prompt 0 has 3 answers"),
        (["a "], [("1", "2", "3", "4")], "prompt 0 ends in a space"),
        (["a"], [("1", " ", "3", "4")], "option 2 of prompt 0 is empty"),
    ],
)
def test_unfit_answers_are_refused(tiny_model, prompts, choices, message):
    with pytest.raises(ValueError, match=message):
        engine_of(tiny_model("llama")).score_choices(prompts, choices)


def test_answers_without_a_token_before_them_are_refused(tiny_model):
    engine = engine_of(tiny_model("llama"), chat=True)  # no special tokens
    with pytest.raises(ValueError, match="no token comes before option 1 of prompt 0"):
        engine.score_choices([""], [("1", "2", "3", "4")])


def test_items_need_equally_many_variants(tiny_model):
    with pytest.raises(ValueError, match="item 1 has 1 variants of its prompt, item 0 has 2"):
        engine_of(tiny_model("llama")).score_variants([["a (", "b ("], ["a ("]])


def test_nothing_to_score(tiny_model):
    engine = engine_of(tiny_model("llama"))
    assert engine.score_variants([]).logprobs.shape == (0, 0, 4)
    assert engine.score_choices([], []).total.shape == (0, 4)


def test_models_with_other_layers_than_attention_do_not_share(tiny_model):
    model = load_base(tiny_model("gemma3_text"), four_bit=False)
    assert can_share(model)
    model.config.layer_types = ["sliding_attention", "linear_attention"]
    assert not can_share(model)
    model.config.layer_types = ["sliding_attention", "full_attention"]
    model.config._attn_implementation = "flash_attention_2"
    assert not can_share(model)
