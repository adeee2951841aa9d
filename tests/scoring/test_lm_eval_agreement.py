from __future__ import annotations

import json

import numpy as np
import pytest

from tests.data.lm_eval_scores.make_scores import SCORES, save_drawn_model
from xling.models.loading import load_base, load_tokenizer
from xling.scoring import InProcessEngine, cloze_predictions

HARNESS = json.loads(SCORES.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    save_drawn_model(folder)
    model, tokenizer = load_base(folder, four_bit=False).float(), load_tokenizer(folder)
    return InProcessEngine(model, tokenizer, add_special_tokens=True)


def rows_of(kind: str) -> list[dict]:
    rows = [row for row in HARNESS["items"] if row["kind"] == kind]
    assert len(rows) == 24 and len({row["language"] for row in rows}) == 4
    return rows


def agrees(predictions: np.ndarray, rows: list[dict], metric: str) -> bool:
    correct = predictions - 1 == [row["gold"] for row in rows]
    return correct.tolist() == [row[metric] == 1.0 for row in rows]


def test_the_numbers_are_of_the_harness_that_is_named():
    assert HARNESS["lm_eval"] == "0.4.13" and HARNESS["model"] == "drawn"


def test_label_log_probabilities_agree_on_every_item(engine):
    rows = rows_of("token")
    scores = engine.score([row["prompt"] for row in rows])
    expected = np.array([row["loglikelihood"] for row in rows])
    assert scores.logprobs == pytest.approx(expected, abs=1e-4)
    assert agrees(scores.predictions, rows, "acc")
    assert len(set(scores.predictions)) > 1


def test_variants_agree_on_every_item(engine):
    rows = rows_of("token")
    scores = engine.score_variants([[row["prompt"], row["prompt"]] for row in rows])
    expected = np.array([[row["loglikelihood"]] * 2 for row in rows])
    assert scores.logprobs == pytest.approx(expected, abs=1e-4)


def test_answer_log_likelihoods_agree_on_every_item(engine):
    rows = rows_of("cloze")
    scores = engine.score_choices([r["prompt"] for r in rows], [r["choices"] for r in rows])
    assert scores.total == pytest.approx(np.array([r["loglikelihood"] for r in rows]), abs=1e-4)
    assert scores.prior == pytest.approx(np.array([r["without_context"] for r in rows]), abs=1e-4)


def test_each_metric_of_the_harness_agrees_on_every_item(engine):
    rows = rows_of("cloze")
    scores = engine.score_choices([r["prompt"] for r in rows], [r["choices"] for r in rows])
    predictions = cloze_predictions(scores)
    assert agrees(predictions["acc_raw"], rows, "acc")
    assert agrees(predictions["acc_norm"], rows, "acc_norm")
    assert agrees(predictions["acc_mutual_info"], rows, "acc_mutual_info")
    # They are three different metrics on these items, so that a mix-up would show.
    kinds = {tuple(row[name] for row in rows) for name in ("acc", "acc_norm", "acc_mutual_info")}
    assert len(kinds) == 3
