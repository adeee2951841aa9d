from __future__ import annotations

import numpy as np
import pytest

from xling.scoring import ChoiceScores, cloze_predictions
from xling.scoring.answer_spans import answer_spans

# One item on which the normalisations disagree.
SCORES = ChoiceScores(
    total=np.array([[-4.0, -6.0, -10.0, -7.0]]),
    n_tokens=np.array([[1, 2, 5, 2]], np.int32),
    n_characters=np.array([[2, 3, 10, 13]], np.int32),
    unconditional=np.array([[-4.0, -12.0, -11.0, -7.5]]),
    prior=np.array([[-3.0, -7.0, -15.0, -7.0]]),
    prompt_tokens=np.array([20], np.int32),
)


def test_each_normalisation_by_its_formula():
    assert SCORES.per_token[0] == pytest.approx([-4, -3, -2, -3.5])
    assert SCORES.norm[0] == pytest.approx([-2, -2, -1, -7 / 13])
    assert SCORES.per_char[0] == pytest.approx([-4 / 3, -1.5, -10 / 11, -0.5])
    assert SCORES.uncond[0] == pytest.approx([0, 6, 1, 0.5])
    assert SCORES.mutual_info[0] == pytest.approx([-1, 1, 5, 0])


def test_predictions_by_each_name():
    assert {name: int(row[0]) for name, row in cloze_predictions(SCORES).items()} == {
        "acc_raw": 1,
        "acc_per_token": 3,
        "acc_per_char": 4,
        "acc_norm": 4,
        "acc_uncond": 2,
        "acc_mutual_info": 3,
    }
    assert "acc_per_token" in cloze_predictions(SCORES)


def test_the_two_per_character_normalisations_differ_by_the_space():
    scores = ChoiceScores(
        total=np.array([[-1.0, -1.9, -9.0, -9.0]]),
        n_tokens=np.ones((1, 4), np.int32),
        n_characters=np.array([[1, 2, 1, 1]], np.int32),
        unconditional=np.zeros((1, 4)),
        prior=np.zeros((1, 4)),
        prompt_tokens=np.array([3], np.int32),
    )
    predictions = cloze_predictions(scores)
    assert predictions["acc_norm"].tolist() == [2]  # -1/1 against -1.9/2
    assert predictions["acc_per_char"].tolist() == [1]  # -1/2 against -1.9/3


def test_an_answer_that_merges_with_the_prompt_is_split_where_the_tokens_part():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {token: k for k, token in enumerate(["a", ":", " ", "b", ": ", ": b"])}
    core = Tokenizer(models.BPE(vocab=words, merges=[(":", " "), (": ", "b")]))
    core.pre_tokenizer = pre_tokenizers.Split("a", behavior="isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core)
    ((span,),) = answer_spans(tokenizer, ["a:"], [["b"]], add_special_tokens=False, context=None)
    assert span.tokens == (words["a"], words[": b"]) and span.prompt_tokens == 2
    assert span.answer == (words[": b"],)
