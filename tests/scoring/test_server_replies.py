"""The forms of servers' answers, and the settings of a server, read on their own."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from xling.scoring import Scores
from xling.scoring.server.responses import (
    Listed,
    echoed,
    identifies_labels,
    label_logprobs,
    prompt_tokens,
    read_positions,
)
from xling.study.settings import ModelSettings, ServerSettings


def answer(logprobs, prompt_tokens: int = 3, completion_tokens: int = 1):
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return {"choices": [{"text": "", "logprobs": logprobs}], "usage": usage}


def legacy(*tops, tokens=None):
    tokens = tokens or [next(iter(top)) for top in tops]
    return {
        "tokens": tokens,
        "token_logprobs": [top[token] for top, token in zip(tops, tokens, strict=True)],
        "top_logprobs": list(tops),
    }


@pytest.mark.parametrize(
    "logprobs",
    [
        legacy({"2": -0.5, "1": -2.0, "x": -3.0}),
        legacy({"token_id:12": -0.5, "token_id:11": -2.0, "token_id:99": -3.0}),
        legacy({"bytes:\\x32": -0.5, "bytes:\\x31": -2.0, "bytes:\\xe2\\x96": -3.0}),
        {
            "content": [
                {
                    "token": "?",
                    "id": 12,
                    "logprob": -0.5,
                    "top_logprobs": [
                        {"token": "?", "id": 12, "logprob": -0.5},
                        {"token": "?", "id": 11, "logprob": -2.0},
                    ],
                }
            ]
        },
        {
            "content": [
                {
                    "token": "2",
                    "bytes": [50],
                    "logprob": -0.5,
                    "top_logprobs": [
                        {"token": "2", "bytes": [50], "logprob": -0.5},
                        {"token": "1", "bytes": [49], "logprob": -2.0},
                    ],
                }
            ]
        },
    ],
    ids=["text", "numbers", "bytes", "chat form with numbers", "chat form with bytes"],
)
def test_labels_are_found_in_every_form(logprobs):
    (position,) = read_positions(answer(logprobs))
    values, bounded = label_logprobs(position.top, (11, 12, 13, 14), ("1", "2", "3", "4"))
    assert values[:2] == [-2.0, -0.5] and bounded == [False, False, True, True]


def test_numbers_decide_where_texts_are_the_same():
    top = (Listed(-0.1, text="1", token=7), Listed(-1.0, text="1", token=11))
    assert label_logprobs(top, (11,), ("1",)) == ([-1.0], [False])


def test_bound_is_the_smaller_of_the_least_listed_and_what_is_left():
    top = (Listed(math.log(0.6), "a"), Listed(math.log(0.3), "b"))
    assert label_logprobs(top, (1,), ("1",))[0][0] == pytest.approx(math.log(0.1), abs=2e-5)
    top = (Listed(math.log(0.5), "a"), Listed(math.log(0.01), "b"))
    assert label_logprobs(top, (1,), ("1",))[0][0] == pytest.approx(math.log(0.01))
    assert label_logprobs((), (1,), ("1",)) == ([-math.log(2)], [True])


def test_bounds_hold_for_confident_models_and_lose_ties():
    sure = (Listed(math.log(1 - 1e-9), "a"), Listed(math.log(1e-9), "b"))
    assert label_logprobs(sure, (1,), ("1",))[0][0] == pytest.approx(math.log(1e-9))
    alone = (Listed(0.0, "a"),)
    assert label_logprobs(alone, (1,), ("1",))[0][0] == pytest.approx(math.log(1e-6))
    tied = (Listed(-1.0, "x"), Listed(-2.0, "2"))
    (first, second), bounded = label_logprobs(tied, (1, 2), ("1", "2"))
    assert bounded == [True, False] and second == -2.0 and -2.001 < first < -2.0


def test_mass_is_no_more_than_what_is_listed_and_left():
    logprobs = np.log([[0.5, 0.1, 0.1, 0.1]])
    bounded = np.array([[False, True, True, True]])
    one = np.ones(1, np.int32)
    assert Scores(logprobs, one, bounded, one, np.array([0.1])).answer_mass == pytest.approx([0.6])
    assert Scores(logprobs, one, bounded, one, np.array([0.9])).answer_mass == pytest.approx([0.8])


def test_texts_tell_labels_apart_where_no_other_token_has_them():
    pieces = ["<unk>", "1", "2", "▁1", "<0x31>"]
    core = Tokenizer(models.WordLevel({piece: n for n, piece in enumerate(pieces)}, "<unk>"))
    core.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")
    text, raw = (Listed(-1.0, "1"),), (Listed(-1.0, "1", raw=b"1"),)
    assert not identifies_labels(tokenizer, [1], ["1"], text)
    assert identifies_labels(tokenizer, [1], ["1"], (Listed(-1.0, "1", token=1),))
    core.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")
    assert identifies_labels(tokenizer, [1], ["1"], text)
    assert not identifies_labels(tokenizer, [1], ["1"], raw)
    assert identifies_labels(tokenizer, [2], ["2"], raw)


@pytest.mark.parametrize("first", [True, False], ids=["first token", "left out"])
@pytest.mark.parametrize("written", [0, 1])
def test_without_counts_written_tokens_are_found_by_the_first(first, written):
    tokens = ["<s>"] * first + ["a", "b", "new"][: 2 + written]
    values = [None] * first + [-1.0, -2.0, -3.0][: 2 + written]
    body = answer({"tokens": tokens, "token_logprobs": values, "top_logprobs": None})
    del body["usage"]
    positions = echoed(body, 3)
    assert [each.chosen and each.chosen.logprob for each in positions] == [None, -1.0, -2.0]


@pytest.mark.parametrize(
    "logprobs",
    [
        {"tokens": ["a"], "token_logprobs": [-1.0], "top_logprobs": [["x", 1]]},
        {"tokens": ["a"], "token_logprobs": [[]], "top_logprobs": None},
        {"content": [{"token": "a"}]},
        {"content": ["a"]},
        {"content": [{"token": "a", "logprob": float("nan")}]},
    ],
)
def test_answers_of_another_shape_are_refused(logprobs):
    with pytest.raises(ValueError, match="the answer's log-probabilit"):
        read_positions(answer(logprobs))
    body = {**answer(None), "usage": "none"}
    assert prompt_tokens(body) is None
    (position,) = read_positions(answer({"content": [{"token": "a", "logprob": None}]}))
    assert position.chosen is None


def test_prompts_tokens_are_counted_from_the_end():
    first = {"tokens": ["<s>"], "token_logprobs": [None], "top_logprobs": [None]}
    rest = legacy({"a": -1.0}, {"b": -2.0}, {"written": -3.0})
    whole = {key: first[key] + rest[key] for key in first}
    for logprobs in (whole, rest):  # the second as llama-cpp-python has it
        positions = echoed(answer(logprobs), 3)
        assert [each.chosen and each.chosen.logprob for each in positions] == [None, -1.0, -2.0]
    with pytest.raises(ValueError, match="has log-probabilities of 2 tokens of a prompt of 5"):
        echoed(answer(rest), 5)
    assert read_positions(answer(None)) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"url": "http://me:secret@host/v1"}, "must hold no user name, password"),
        ({"url": "http://host/v1?api_key=secret"}, "must hold no user name, password"),
        ({"url": "host:8000/v1"}, "must begin with http"),
        ({"url": "http://host:secret/v1"}, "must have a port"),
        ({"url": "http://host:8000"}, "must end in /v1, such as"),
        ({"adapter": "{model}-{rank}"}, "placeholder {rank}; valid: {study}, {model}"),
        ({"adapter": "{model"}, "is not a format string"),
        ({"adapter": " "}, "must name the adapter"),
        ({"key_variable": "not a name"}, "key_variable"),
    ],
)
def test_wrong_server_settings_are_refused(change, words):
    with pytest.raises(ValueError) as caught:
        ServerSettings(**({"url": "http://host/v1"} | change))
    (problem,) = caught.value.errors()
    assert words in problem["msg"] or words in str(problem["loc"])
    assert "secret" not in problem["msg"]


def test_a_server_needs_its_engine_and_an_engine_its_server():
    assert ServerSettings(url="https://host/api/v1/").url == "https://host/api/v1"
    with pytest.raises(ValueError, match="engine 'server' needs `server"):
        ModelSettings(id="m", engine="server")
    with pytest.raises(ValueError, match="the engine is in-process"):
        ModelSettings(id="m", server=ServerSettings(url="http://host/v1"))
