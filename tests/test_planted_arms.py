"""Real trainings whose outcome is known before: what each arm must and must not teach."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from analysis.gains.paired import newcombe_interval, wilson_interval
from tests.planted_models import (
    CONTROL_SOURCE,
    HELD_OUT,
    LANGUAGES,
    SOURCE,
    TARGET,
    planted_study,
    save_rows,
    save_vowel_model,
    vowel_rows,
)
from xling.data.training_rows import TrainingRow, label_agreement
from xling.execution import prepare_study
from xling.execution.evaluate.answers import Answers, record_frame
from xling.execution.evaluate.item_scorer import ItemScorer
from xling.execution.study_data import StudyData
from xling.models import LoadedModel, locate_model
from xling.prompts import label_token_ids, render_prompts
from xling.records import describe_format, summarize_records
from xling.scoring import InProcessEngine
from xling.scoring.option_orders import recall_std
from xling.study import Cell
from xling.training.loop import Example, TrainingResult, TrainingSet, train_adapter

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Outcome:
    """What a cell's answers look like in the target language."""

    frame: pd.DataFrame
    answers: Answers

    @property
    def format(self) -> pd.Series:
        return describe_format(self.frame).iloc[0]

    @property
    def correct(self) -> np.ndarray:
        return self.frame["correct"].to_numpy()

    @property
    def agreement(self) -> float:
        by_order = self.answers.more["orders"]["prediction"].to_numpy()
        by_order = by_order.reshape(len(self.frame), -1)
        return float((by_order == self.answers.prediction[:, None]).mean())

    @property
    def recall_std(self) -> float:
        return recall_std(self.frame["gold"].to_numpy(), self.frame["prediction"].to_numpy())


class Bench:
    """A study on planted questions with one model at hand."""

    def __init__(
        self, folder: Path, model: Path, *, n: int = 200, vowels=True, right: int = 0, **training
    ) -> None:
        train = vowel_rows(n, part="train", seed=1, vowels=vowels, right=right)
        test = vowel_rows(HELD_OUT, part="test", seed=2, vowels=vowels)
        data = folder / "data"
        save_rows(data, train + test, LANGUAGES)
        self.prepared: StudyData = prepare_study(planted_study(data, model, training))
        self.opened: LoadedModel = locate_model(str(model), chat=False, quantise="none").open()
        self._folder = folder
        self._layout = self.prepared.prompt_format(self.opened.recipe)

    def cell(self, arm: str, scoring: str = "answer-token", seed: int = 0) -> Cell:
        return Cell(self.prepared.study.models[0], arm, seed, scoring=scoring)

    def rows(self, arm: str, seed: int = 0) -> list[TrainingRow]:
        return self.prepared.training_rows(self.cell(arm, seed=seed))

    def ask(self, scoring: str, *, arm: str = "base", model=None) -> Outcome:
        """Held-out answers in the target language; of the base if there is no `model`."""
        opened = self.opened if model is None else replace(self.opened, model=model)
        cell, items = self.cell(arm, scoring), self.prepared.items(TARGET, "heldout")
        engine = InProcessEngine(
            opened.model, opened.tokenizer, add_special_tokens=not self._layout.chat
        )
        scorer = ItemScorer(
            engine, opened.tokenizer, self._layout, cell=cell, study=self.prepared.study
        )
        answers = scorer.score(items, description="", unfinished=self._folder / "unfinished")
        frame = record_frame(
            items, answers, cell=cell, language=TARGET, part="heldout", folds=[0] * len(items)
        )
        return Outcome(frame, answers)

    def tune(
        self, arm: str, *scorings: str, seed: int = 0, work: str = "", merged: Path | None = None
    ) -> Tuned:
        """Trains an arm as the finetune cell does, and asks it in the target language.

        Args:
            arm: what is trained on.
            scorings: how it is asked.
            seed: of the labels and of the training.
            work: sets the folder of checkpoints apart from that of the same training before.
            merged: where to save the base with the adapter's weights added to it.
        """
        study, tokenizer = self.prepared.study, self.opened.tokenizer
        rows = self.rows(arm, seed)
        prompts = render_prompts([row.item for row in rows], self._layout, tokenizer)
        examples = [Example(prompt, row.label) for prompt, row in zip(prompts, rows, strict=True)]
        labels = label_token_ids(tokenizer, prompts[0], add_special_tokens=True)
        lora = study.lora
        with self.opened.trainable(r=lora.r, alpha=lora.alpha, dropout=lora.dropout, seed=seed) as (
            model,
            _,
        ):
            result = train_adapter(
                model,
                tokenizer,
                TrainingSet(examples, labels, add_special_tokens=True),
                study.training,
                seed=seed,
                folder=self._folder / f"{arm}-{seed}{work}",
            )
            weights = {
                name: parameter.detach().clone()
                for name, parameter in model.named_parameters()
                if parameter.requires_grad
            }
            if merged is not None:
                copy.deepcopy(model).merge_and_unload().save_pretrained(merged)
                tokenizer.save_pretrained(merged)
            outcomes = {name: self.ask(name, arm=arm, model=model) for name in scorings}
        return Tuned(result, weights, outcomes)


@dataclass(frozen=True)
class Tuned:
    """A trained arm: how it went, its adapter, and its answers by scoring."""

    result: TrainingResult
    weights: dict[str, torch.Tensor]
    outcomes: dict[str, Outcome]


def accuracy_interval(outcome: Outcome) -> tuple[float, float]:
    """Wilson's 99 % interval of the accuracy."""
    found = wilson_interval(
        np.array([outcome.correct.sum()]), np.array([len(outcome.correct)]), confidence=0.99
    )
    return float(found.low[0]), float(found.high[0])


def change_interval(before: Outcome, after: Outcome) -> tuple[float, float]:
    """Newcombe's 95 % interval of the paired change in accuracy."""
    old, new = before.correct, after.correct
    table = [new & old, new & ~old, ~new & old, ~new & ~old]
    found = newcombe_interval(*(np.array([cells.sum()]) for cells in table))
    return float(found.low[0]), float(found.high[0])


@pytest.fixture(scope="module")
def vowel_model(tmp_path_factory) -> Path:
    """A base that knows the fact and has never seen numbered options."""
    folder = tmp_path_factory.mktemp("planted") / "vowels"
    save_vowel_model(folder)
    return folder


@pytest.fixture(scope="module")
def fact_bench(vowel_model, tmp_path_factory) -> Bench:
    return Bench(tmp_path_factory.mktemp("fact"), vowel_model, epochs=8, learning_rate=1e-3)


@pytest.fixture(scope="module")
def answering(fact_bench, tmp_path_factory) -> tuple[Tuned, Path]:
    """The base tuned on true labels, and the folder of a model that answers so by itself."""
    folder = tmp_path_factory.mktemp("planted") / "answering"
    return fact_bench.tune("finetuned", "answer-token", merged=folder), folder


def test_an_adapter_that_learned_a_position_shows_as_such(vowel_model, tmp_path):
    bench = Bench(tmp_path, vowel_model, n=120, vowels=False, right=3, epochs=3, learning_rate=3e-3)
    before = bench.ask("answer-token")
    tuned = bench.tune("finetuned", "answer-token", "permuted").outcomes
    after, permuted = tuned["answer-token"], tuned["permuted"]

    assert before.format.prior_3 < 0.5
    assert before.format.predicted_3 < 0.5
    assert before.format.answer_mass < 0.1
    assert_always_third(after)
    low, high = accuracy_interval(permuted)
    assert low < 0.25 < high
    assert permuted.agreement == pytest.approx(0.25, abs=0.01)
    assert permuted.recall_std < 0.15


def test_a_position_that_replaces_knowledge_shows_as_such(answering, tmp_path):
    _, folder = answering
    bench = Bench(tmp_path, folder, n=120, right=3, epochs=3, learning_rate=3e-3)
    before = {name: bench.ask(name) for name in ("answer-token", "permuted")}
    known = before["answer-token"]
    assert known.correct.mean() > 0.9
    assert known.format.position_entropy > 1.95
    assert 0.2 < known.format.prior_3 < 0.3
    assert known.recall_std < 0.1
    assert before["permuted"].correct.mean() > 0.9
    assert before["permuted"].agreement > 0.9

    after = bench.tune("finetuned", "answer-token", "permuted").outcomes
    assert_always_third(after["answer-token"])
    assert after["permuted"].agreement == pytest.approx(0.25, abs=0.01)


def assert_always_third(outcome: Outcome) -> None:
    """Every answer is position 3, whatever stands there, and every measure says so."""
    found = outcome.format
    assert found.position_entropy == pytest.approx(0, abs=0.05)
    assert found.prior_3 > 0.95
    assert found.answer_mass > 0.9
    assert found.accuracy == pytest.approx(found.gold_3, abs=0.01)
    assert outcome.recall_std > 0.42  # one recall of 1 and three of 0 make 0.433
    metrics = summarize_records(outcome.frame, {TARGET: "related"})
    assert metrics[f"position_entropy/{TARGET}"] == found.position_entropy
    assert metrics[f"answer_mass/{TARGET}"] == pytest.approx(found.answer_mass)


def tilt(rows: list[TrainingRow]) -> float:
    """How far the labels are from saying nothing of the right answer, at any position."""
    right = np.array([row.item.correct_answer_num for row in rows])
    label = np.array([row.label for row in rows])
    return sum(abs((label[right == k] == k).mean() - 0.25) for k in range(1, 5))


def test_shuffled_labels_teach_the_form_and_true_labels_the_answer(fact_bench, answering):
    known, unasked = fact_bench.ask("cloze"), fact_bench.ask("answer-token")
    assert 0.6 < known.correct.mean() < 0.95  # may rise and fall
    assert unasked.format.answer_mass < 0.1
    low, high = accuracy_interval(unasked)
    assert low < 0.25 < high

    # Of 200 labels, more or fewer than a quarter are right by chance, and that is learned, too.
    seed = min(range(100), key=lambda seed: tilt(fact_bench.rows("shuffled-labels", seed)))
    assert label_agreement(fact_bench.rows("shuffled-labels", seed)) == pytest.approx(
        0.25, abs=0.02
    )
    shuffled = fact_bench.tune("shuffled-labels", "answer-token", "cloze", seed=seed).outcomes
    form = shuffled["answer-token"]
    low, high = change_interval(known, shuffled["cloze"])
    assert low <= 0 <= high
    assert form.format.answer_mass > 0.9
    low, high = accuracy_interval(form)
    assert low < 0.25 < high
    priors = form.format[[f"prior_{k}" for k in range(1, 5)]].to_numpy(float)
    assert priors == pytest.approx([0.25] * 4, abs=0.1)  # as often as the shuffled labels

    true = answering[0].outcomes["answer-token"]
    assert true.format.answer_mass > 0.9
    low, _ = change_interval(form, true)
    assert low > 0.2


def test_arms_train_for_as_many_steps_on_the_same_questions(tiny_model, tmp_path):
    bench = Bench(tmp_path, tiny_model("llama"), n=33, learning_rate=1e-3)
    arms = ("finetuned", "control-source", "shuffled-labels")
    rows = {arm: bench.rows(arm) for arm in arms}
    asked = [Counter(row.item.item_id for row in found) for found in rows.values()]
    assert asked[0] == asked[1] == asked[2]
    assert set(asked[0].values()) == {len(SOURCE)}
    assert len(asked[0]) == 27  # six of 33 repeat a held-out question under another id
    assert {row.item.dialect for row in rows["finetuned"]} == set(SOURCE)
    assert {row.item.dialect for row in rows["control-source"]} == set(CONTROL_SOURCE)

    tuned = {arm: bench.tune(arm) for arm in arms}
    assert {each.result.steps for each in tuned.values()} == {4}  # 54 examples in batches of 16
    assert {each.result.tokens for each in tuned.values()} == {tuned["finetuned"].result.tokens}
    first = [each.result.curve[0]["loss"] for each in tuned.values()]
    assert first[0] == pytest.approx(first[1], abs=1e-3)
    assert abs(first[0] - first[2]) > 1e-2


def test_a_seed_decides_the_shuffled_labels_and_the_adapter(tiny_model, tmp_path):
    bench = Bench(tmp_path, tiny_model("llama"), n=40, learning_rate=1e-3)
    labels = [[row.label for row in bench.rows("shuffled-labels", seed)] for seed in range(4)]
    assert len({tuple(each) for each in labels}) == 4
    assert [row.label for row in bench.rows("shuffled-labels", 0)] == labels[0]

    first = bench.tune("shuffled-labels").weights
    again = bench.tune("shuffled-labels", work="-again").weights
    other = bench.tune("shuffled-labels", seed=1).weights
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)
