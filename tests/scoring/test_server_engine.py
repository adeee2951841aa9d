"""A server's answers against those of the same model in this process, and what goes wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.server_engines import CHOICES, PROMPTS, engine_of, settings_of
from xling.models.adapters import load_adapter
from xling.models.loading import load_base
from xling.scoring import InProcessEngine, Sampling
from xling.scoring.server import (
    Transport,
    find_served_models,
    served_adapter,
)

pytestmark = pytest.mark.slow

ABILITIES = {
    "by id": ({"by_id": True}, "by id"),
    "token numbers, few listed": ({"most_listed": 3}, "top, echo"),
    "text": ({"takes_tokens": False}, "top, echo"),
    "text without a first token": (
        {"takes_tokens": False, "text_gets_first": False},
        "top, echo",
    ),
    "chat form, all listed": ({"form": "chat", "echo": False, "most_listed": 300}, "by id"),
    "no extensions": ({"strict": True}, "top, echo"),
    "no counts": ({"counts": False, "takes_tokens": False}, "top, echo"),
}


@pytest.mark.parametrize("name", ABILITIES)
def test_labels_are_those_of_the_model_in_this_process(server, local, name):
    behaviour, answers = ABILITIES[name]
    server.reset(**behaviour)
    engine = engine_of(server, top_logprobs=20 if "few" in name or "by id" in name else 300)
    assert engine.capabilities.answers == answers
    assert engine.capabilities.prompt_form.as_tokens == ("takes_tokens" not in behaviour)
    here, there = local.score(PROMPTS), engine.score(PROMPTS)
    assert np.abs(here.logprobs - there.logprobs).max() < 1e-6
    assert not there.censored.any()
    assert (here.n_tokens == there.n_tokens).all()
    assert (there.tries >= 1).all() and (name == "by id") <= (there.tries == 1).all()


def test_a_label_after_which_the_server_hides_an_end_of_text_is_asked_for(server, local):
    engine = engine_of(server)
    server.behaviour.hide_end = True
    there = engine.score(PROMPTS)
    assert np.abs(local.score(PROMPTS).logprobs - there.logprobs).max() < 1e-6
    assert (there.tries == 5).all()


def test_variants_and_answers_texts_are_the_same_too(server, local):
    tolerance = 5e-6  # a text that is computed in two parts differs in float32's last digits
    variants = [[prompt, "So: " + prompt] for prompt in PROMPTS]
    for behaviour in ({}, {"takes_tokens": False}, {"by_id": True}):
        server.reset(**behaviour)
        engine = engine_of(server)
        here, there = local.score_variants(variants), engine.score_variants(variants)
        assert np.abs(here.logprobs - there.logprobs).max() < tolerance
        assert there.tries.shape == (6, 2)
        ours, theirs = (
            each.score_choices([f"{p[:-3]}:" for p in PROMPTS], CHOICES) for each in (local, engine)
        )
        for field in ("total", "unconditional", "prior", "n_tokens", "n_characters"):
            gap = np.abs(getattr(ours, field) - getattr(theirs, field)).max()
            assert gap < tolerance, (field, behaviour)
        assert (ours.prompt_tokens == theirs.prompt_tokens).all()


@pytest.mark.parametrize("stop", ["", "e"])
@pytest.mark.parametrize("strict", [False, True])
def test_continuations_are_the_same(server, local, stop, strict):
    server.reset(strict=strict)
    keys = [f"item {n}" for n in range(len(PROMPTS))]
    written = [
        {
            key: (made.text, made.truncated)
            for batch in engine.generate(PROMPTS, keys, Sampling(8), stop=stop)
            for key, made in batch.items()
        }
        for engine in (local, engine_of(server))
    ]
    if strict:  # such a server leaves special tokens out of the text
        for key, (text, cut) in written[0].items():
            for token in server.tokenizer.all_special_tokens:
                text = text.replace(token, "")
            written[0][key] = (text, cut)
    assert written[0] == written[1]


def test_draws_depend_on_the_item_and_the_seed(server):
    engine = engine_of(server)

    def drawn(seed: int, order: int = 1):
        keys = [f"item {n}" for n in range(6)][::order]
        return {
            key: made
            for batch in engine.generate(
                PROMPTS[::order], keys, Sampling(6, temperature=1.0, seed=seed)
            )
            for key, made in batch.items()
        }

    assert drawn(1) == drawn(1, -1) != drawn(2)
    seeds = {body.get("seed") for body in server.seen.bodies if body["max_tokens"] == 6}
    assert len(seeds) == 12


# The second as llama.cpp's llama-server: numbers in the chat form, and no repeated prompts.
@pytest.mark.parametrize(("form", "listed"), [("legacy", 3), ("chat", 20)])
def test_labels_that_are_not_listed_are_bounded_and_flagged(server, local, form, listed):
    server.reset(echo=False, most_listed=listed, form=form)
    engine, here = engine_of(server), local.score(PROMPTS)
    assert engine.capabilities.answers == "top, bound" and not engine.capabilities.by_id
    with pytest.raises(ValueError, match="gives no log-probabilities of a prompt's tokens"):
        engine.check_scoring("cloze")
    there = engine.score(PROMPTS)
    assert there.censored.any()
    known = ~there.censored
    assert np.abs(there.logprobs - here.logprobs)[known].max(initial=0) < 1e-6
    assert (there.logprobs >= here.logprobs - 1e-6).all()  # bounds are above
    rows = there.censored.any(axis=1)
    assert (there.answer_mass[rows] >= here.answer_mass[rows] - 1e-6).all()
    assert (there.answer_mass <= 1).all()


def test_adapters_are_found_by_name_or_handed_over(server, tiny_model, adapter):
    opened = load_base(tiny_model("llama"), four_bit=False)
    tuned = InProcessEngine(
        load_adapter(opened, adapter), server.tokenizer, add_special_tokens=True, batch_tokens=1
    )
    want = tuned.score(PROMPTS).logprobs
    assert np.abs(engine_of(server).score(PROMPTS).logprobs - want).max() > 0.01
    there = engine_of(server, adapter="tuned").score(PROMPTS)
    assert np.abs(there.logprobs - want).max() < 1e-6
    transport = Transport(settings_of(server, retries=0))
    served = find_served_models(transport, model="", study_model="any")
    with (
        pytest.raises(ValueError, match="'tiny' is the base model, not an adapter"),
        served_adapter(transport, served, "tiny", adapter),
    ):
        pass
    with (
        pytest.raises(ValueError, match="be handed adapter 'run-1', and 'tuned' there need not"),
        served_adapter(transport, served, "tuned", adapter, asked_for="run-1"),
    ):
        pass
    other = replace(served, parents={"tuned": "another"})
    with (
        pytest.raises(ValueError, match="'tuned' is an adapter of 'another', not .* of 'tiny'"),
        served_adapter(transport, other, "tuned", adapter),
    ):
        pass
    words = "adapter 'mine'; it serves tiny, tuned.*--enable-lora --lora-modules mine=.*adapter"
    with (
        pytest.raises(ValueError, match=words),
        served_adapter(transport, served, "mine", adapter),
    ):
        pass
    server.behaviour.loads = True
    with served_adapter(transport, served, "mine", adapter) as name:
        assert name.startswith("mine-") and name in server.models
        there = engine_of(server, adapter=name).score(PROMPTS)
        assert np.abs(there.logprobs - want).max() < 1e-6
        with served_adapter(transport, served, "tuned", adapter, asked_for="run-1") as second:
            assert second.startswith("tuned-") and second in server.models
        with served_adapter(transport, served, "mine", adapter) as third:
            assert third != name
            del server.models[third]  # taken back already: no reason to fail
        assert name in server.models
    assert list(server.models) == ["tiny", "tuned"]


def test_sglang_is_asked_for_base_and_adapter(server):
    server.reset(owner="sglang")
    engine_of(server, adapter="tuned").score(PROMPTS[:1])
    assert {body["model"] for body in server.seen.bodies} == {"tiny:tuned"}
