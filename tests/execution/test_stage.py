"""Many languages in one stream: fewer, fuller batches, and the same files a language."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from xling.execution.cell_run import locate
from xling.execution.evaluate import by_language
from xling.execution.evaluate.answers import Answers
from xling.execution.evaluate.by_language import answer_by_language
from xling.execution.evaluate.item_scorer import ItemScorer
from xling.execution.study_data import StudyData, prepare_study
from xling.models import BaseModelCache
from xling.scoring import InProcessEngine
from xling.study import Cell, Study

CODES = ("arb_Arab", "heb_Hebr", "fra_Latn")
# Items of a language: held out, and of the base also from the training part.
HELD_OUT, BASELINE = 5, 2
EACH = HELD_OUT + BASELINE
LOGPROBS = [f"logprob_{label}" for label in range(1, 5)]
# Of one prompt in batches of other shapes.
CLOSE = 3e-5


class Counting(InProcessEngine):
    """The engine, which also says what it was asked."""

    calls: list[int]
    after: int | None = None

    def score(self, prompts: Any, *, description: str = "") -> Any:
        self.calls.append(len(prompts))
        return super().score(prompts, description=description)

    def score_variants(self, prompts: Any, *, description: str = "") -> Any:
        self.calls.append(len(prompts))
        return super().score_variants(prompts, description=description)

    def score_choices(self, prompts: Any, choices: Any, **more: Any) -> Any:
        self.calls.append(len(prompts))
        return super().score_choices(prompts, choices, **more)

    def generate(self, prompts: Any, keys: Any, sampling: Any, **more: Any) -> Iterator[Any]:
        self.calls.append(len(prompts))
        for batch in super().generate(prompts, keys, sampling, **more):
            if self.after is not None:
                if self.after == 0:
                    raise KeyboardInterrupt
                self.after -= 1
            yield batch


@pytest.fixture(scope="module")
def opened(tiny_model) -> Any:
    study = study_of(tiny_model("llama"))
    return BaseModelCache().open(locate(study.models[0]))


def study_of(folder: Path) -> Study:
    return Study.model_validate(
        {
            "name": "stream",
            "models": ({"id": str(folder), "name": "tiny", "quantise": "none"},),
            "data": {"source": "mini", "difficulties": (1,), "split": "given", "held_out": HELD_OUT,
                     "baseline_items": BASELINE},
            "languages": {"source": CODES[:1], "target": CODES[1:], "branch": "Semitic"},
            "reasoning": ("direct", "cot"),
            "scoring_modes": ("answer-token", "permuted", "cloze"),
            "chain_of_thought": {"max_tokens": 4, "arms": ("base",)},
            "scoring": {"orders": "cyclic"},
        }
    )  # fmt: skip


def answer(
    opened: Any, prepared: StudyData, cell: Cell, folder: Path, after: int | None = None
) -> list[int]:
    """Runs a stage; gives the numbers of items of the engine's calls."""
    located = locate(cell.model)
    engine = Counting(
        opened.model, opened.tokenizer, add_special_tokens=True, cache_file=folder / "batches.jsonl"
    )
    engine.calls, engine.after = [], after
    layout = prepared.prompt_format(located.recipe)
    scorer = ItemScorer(
        engine, opened.tokenizer, layout, cell=cell, study=prepared.study, model=opened.model
    )
    with suppress(KeyboardInterrupt):
        answer_by_language(prepared, cell, scorer, prepared.evaluated_items(cell), folder)
    return engine.calls


def files(folder: Path) -> dict[str, pd.DataFrame]:
    found = sorted(folder.rglob("*.parquet"))
    return {str(path.relative_to(folder)): pd.read_parquet(path) for path in found}


@pytest.mark.parametrize(
    ("reasoning", "scoring"),
    [
        ("direct", "answer-token"),
        ("direct", "permuted"),
        ("direct", "cloze"),
        ("cot", "answer-token"),
    ],
)
def test_one_call_gives_what_a_call_a_language_gave(
    reasoning: Any, scoring: Any, tiny_model, opened, tmp_path: Path, monkeypatch
) -> None:
    prepared = prepare_study(study_of(tiny_model("llama")))
    cell = Cell(prepared.study.models[0], "base", 0, reasoning, scoring)
    items = prepared.evaluated_items(cell)
    each = {code: sum(len(part[code]) for part in items.values()) for code in CODES}
    together = answer(opened, prepared, cell, tmp_path / "together")
    monkeypatch.setattr(by_language, "MOST_PROMPTS", 1)
    apart = answer(opened, prepared, cell, tmp_path / "apart")
    calls = 2 if reasoning == "cot" else 1
    assert together == [sum(each.values())] * calls
    assert apart == [n for n in each.values() for _ in range(calls)]
    one, other = files(tmp_path / "together"), files(tmp_path / "apart")
    tables = 1 if (reasoning, scoring) == ("direct", "answer-token") else 2
    assert len(one) == len(CODES) * tables
    assert one.keys() == other.keys()
    for name, frame in one.items():
        pd.testing.assert_frame_equal(frame, other[name], rtol=0, atol=CLOSE)
        assert set(frame["language"]) == {Path(name).stem}
    for code in CODES:
        frame = one[f"{code}.parquet"]
        assert len(frame) == each[code]
        assert (tmp_path / "together" / "prompts" / f"{code}.txt").read_text() == (
            tmp_path / "apart" / "prompts" / f"{code}.txt"
        ).read_text()
    heads = pd.concat([one[f"{code}.parquet"] for code in CODES]).drop_duplicates(LOGPROBS)
    assert len(heads) > len(CODES)  # answers of items, not of one item over and over


def test_languages_on_disk_are_not_computed_again(tiny_model, opened, tmp_path: Path) -> None:
    prepared = prepare_study(study_of(tiny_model("llama")))
    cell = Cell(prepared.study.models[0], "base", 0)
    answer(opened, prepared, cell, tmp_path)
    before, batches = files(tmp_path), (tmp_path / "batches.jsonl").read_bytes()
    kept = tmp_path / f"{CODES[0]}.parquet"
    when = kept.stat().st_mtime_ns
    (tmp_path / f"{CODES[2]}.parquet").unlink()
    answer(opened, prepared, cell, tmp_path)
    assert (tmp_path / "batches.jsonl").read_bytes() == batches  # none was computed anew
    assert kept.stat().st_mtime_ns == when
    assert answer(opened, prepared, cell, tmp_path) == []
    for name, frame in files(tmp_path).items():
        pd.testing.assert_frame_equal(frame, before[name], check_exact=True)


def test_reasonings_of_a_stream_that_was_cut_off_are_kept(
    tiny_model, opened, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr("xling.scoring.generation.plan_batches", one_by_one)
    prepared = prepare_study(study_of(tiny_model("llama")))
    cell = Cell(prepared.study.models[0], "base", 0, "cot")
    n = sum(len(rows) for part in prepared.evaluated_items(cell).values() for rows in part.values())
    assert answer(opened, prepared, cell, tmp_path, after=4) == [n]
    assert not files(tmp_path)
    assert len((tmp_path / by_language.UNFINISHED).read_text().splitlines()) == 4
    assert answer(opened, prepared, cell, tmp_path) == [n - 4, n]
    assert len(files(tmp_path)) == 2 * len(CODES)


def one_by_one(lengths: Any, *arguments: Any, **more: Any) -> list[Any]:
    return [np.array([row]) for row in range(len(lengths))]


def test_a_stream_is_no_larger_than_its_bound(tiny_model, opened, tmp_path, monkeypatch) -> None:
    prepared = prepare_study(study_of(tiny_model("llama")))
    cell = Cell(prepared.study.models[0], "base", 0, "direct", "permuted")
    monkeypatch.setattr(by_language, "MOST_PROMPTS", 2 * EACH * 4)
    assert answer(opened, prepared, cell, tmp_path) == [2 * EACH, EACH]


def test_a_mixture_whose_routing_is_recorded_is_asked_by_language_and_part(
    tiny_model, tmp_path: Path
) -> None:
    prepared = prepare_study(study_of(tiny_model("qwen3_moe")))
    cell = Cell(prepared.study.models[0], "base", 0)
    mixture = BaseModelCache().open(locate(cell.model))
    assert answer(mixture, prepared, cell, tmp_path / "direct") == [HELD_OUT, BASELINE] * len(CODES)
    assert {f"routing/{code}.parquet" for code in CODES} < set(files(tmp_path / "direct"))
    permuted = Cell(prepared.study.models[0], "base", 0, "direct", "permuted")
    assert answer(mixture, prepared, permuted, tmp_path / "permuted") == [EACH * len(CODES)]


def test_answers_are_split_with_their_tables() -> None:
    answers = Answers(
        prompts=["a", "b", "c"],
        logprobs=np.arange(12.0).reshape(3, 4),
        prediction=np.array([1, 2, 3], np.int8),
        answer_mass=np.ones(3),
        n_tokens=np.array([7, 8, 9], np.int32),
        more={"orders": pd.DataFrame({"item_id": ["a", "a", "b", "b", "c", "c"]})},
    )
    first, rest = answers.split([1, 2])
    assert first.prompts == ["a"] and rest.prompts == ["b", "c"]
    assert rest.n_tokens.tolist() == [8, 9] and rest.logprobs.shape == (2, 4)
    assert first.more["orders"]["item_id"].tolist() == ["a", "a"]
    assert rest.more["orders"]["item_id"].tolist() == ["b", "b", "c", "c"]
    with pytest.raises(ValueError, match="answers to 3 items"):
        answers.split([1, 1])
    uneven = Answers(**{**vars(answers), "more": {"orders": pd.DataFrame({"item_id": ["a"] * 4})}})
    with pytest.raises(ValueError, match="table orders has 4 rows"):
        uneven.split([1, 2])
