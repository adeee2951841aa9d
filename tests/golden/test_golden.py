"""Today's results are the recorded ones; see ``python -m tests.golden`` for when to record anew."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.golden.comparing import close_calls, differences, read_golden, write_golden
from tests.golden.results import (
    CHAT_TEMPLATES,
    EMBEDDED,
    SCORED,
    TRAINED,
    Models,
    Results,
    embedded_results,
    embedded_training_results,
    evaluate,
    golden_study,
    open_model,
    prepare_results,
    results_sha256,
    row_names,
    score_results,
    train,
    train_results,
)
from xling.execution import prepare_study
from xling.models import LoadedModel

on_a_cpu = pytest.mark.skipif(
    torch.cuda.is_available(), reason="recorded in float32 on a CPU; a GPU computes in bfloat16"
)
STAGES = ("prepare", "score", "train", "embedded")


@pytest.fixture(scope="module")
def prepared() -> Results:
    return prepare_results()


@pytest.mark.parametrize("section", ["data", "splits", "folds", "rows", "evaluated", "prompts"])
def test_prepare_gives_the_recorded_data_rows_and_prompts(prepared: Results, section: str) -> None:
    assert differences(read_golden("prepare")[section], prepared[section]) == []


def test_nothing_is_recorded_or_computed_alone(prepared: Results) -> None:
    assert prepared.keys() == read_golden("prepare").keys()
    assert set(read_golden("score")) == set(SCORED)
    assert set(read_golden("train")) == set(TRAINED)
    assert set(read_golden("embedded")) == {*EMBEDDED, "training"}
    assert len(prepared["prompts"]) == 4 * (1 + len(CHAT_TEMPLATES))


@on_a_cpu
@pytest.mark.parametrize("name", SCORED)
def test_tiny_models_score_as_recorded(tiny_model: Models, name: str) -> None:
    found = score_results(tiny_model, [name])[name]
    assert differences(read_golden("score")[name], found) == []


@on_a_cpu
@pytest.mark.parametrize("name", TRAINED)
def test_tiny_models_train_as_recorded(tiny_model: Models, name: str) -> None:
    found = train_results(tiny_model, [name])[name]
    assert differences(read_golden("train")[name], found) == []


@on_a_cpu
@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_models_score_as_recorded(name: str) -> None:
    assert differences(read_golden("embedded")[name], embedded_results(name)) == []


@on_a_cpu
@pytest.mark.slow
@pytest.mark.weights
def test_the_smaller_embedded_model_trains_as_recorded() -> None:
    assert differences(read_golden("embedded")["training"], embedded_training_results()) == []


def test_the_same_data_twice_is_the_same_to_the_last_byte(prepared: Results) -> None:
    study = golden_study()
    rows = [row_names(prepare_study(study), "shuffled-labels", 0) for _ in range(2)]
    assert rows[0] == rows[1] == prepared["rows"]["shuffled-labels/seed-0"]


@pytest.mark.parametrize("way", ["answer-token", "chain-of-thought"])
def test_the_same_scoring_twice_is_the_same_to_the_last_digit(tiny_model: Models, way: str) -> None:
    study, opened = opened_for(tiny_model, "qwen3_moe")
    hashes = {results_sha256(evaluate(study, way, opened)) for _ in range(2)}
    assert len(hashes) == 1


def test_the_same_training_twice_is_the_same_to_the_last_digit(tiny_model: Models) -> None:
    """With dropout, whose draws are the same here, though not on every machine."""
    study, opened = opened_for(tiny_model, "llama")
    hashes = {results_sha256(train(study, "finetuned", opened, dropout=0.1)) for _ in range(2)}
    assert len(hashes) == 1
    assert hashes != {results_sha256(train(study, "finetuned", opened))}


def test_no_recorded_choice_could_be_turned_by_rounding() -> None:
    close = {name: close_calls(results) for name, results in read_golden("score").items()}
    assert close == {name: [] for name in SCORED}


# From here on: the comparison sees what it is there for.


def opened_for(models: Models, architecture: str) -> tuple[Any, LoadedModel]:
    folder = str(models(architecture))
    return golden_study(folder), open_model(folder)


@contextmanager
def shifted_logit(opened: LoadedModel, token: str, by: float) -> Iterator[None]:
    """As if scoring had changed a little: one token's logit is moved."""
    (number,) = opened.tokenizer(token, add_special_tokens=False)["input_ids"]

    def shift(_module: Any, _inputs: Any, logits: torch.Tensor) -> torch.Tensor:
        moved = logits.clone()
        moved[..., number] += by
        return moved

    handle = opened.model.get_output_embeddings().register_forward_hook(shift)
    try:
        yield
    finally:
        handle.remove()


@on_a_cpu
def test_a_scoring_that_is_off_by_a_thousandth_is_noticed(tiny_model: Models) -> None:
    study, opened = opened_for(tiny_model, "llama")
    recorded = read_golden("score")["llama/answer-token"]
    with shifted_logit(opened, "1", 1e-3):
        found = differences(recorded, evaluate(study, "answer-token", opened))
    assert len(found) >= len(recorded["records"]["item_id"])
    assert all("logprob_1" in line for line in found if line.startswith("/records/logprob"))
    assert differences(recorded, evaluate(study, "answer-token", opened)) == []


@on_a_cpu
@pytest.mark.parametrize("way", ["answer-token", "cloze", "permuted"])
def test_another_prompt_is_noticed(tiny_model: Models, way: str) -> None:
    folder = str(tiny_model("llama"))
    prompt = {"answer_prefix": "\nAnswer  (", "cloze_prefix": "\nAnswer :"}
    changed = evaluate(golden_study(folder, prompt=prompt), way, open_model(folder))
    found = differences(read_golden("score")[f"llama/{way}"], changed)
    assert {"records/logprob_2", "records/prompt_sha256"} <= {tail_of(line) for line in found}


@on_a_cpu
@pytest.mark.parametrize(
    ("changes", "seen"),
    [
        ({"learning_rate": 1.02e-2}, {"curve/learning_rate", "curve/loss", "weight/first"}),
        ({"weight_decay": 0.0}, {"weight/abs_sum"}),
        ({"warmup_steps": 0}, {"curve/learning_rate", "curve/loss"}),
        ({"max_grad_norm": 1e-5}, {"curve/loss", "weight/first"}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_another_training_is_noticed(
    tiny_model: Models, changes: dict[str, Any], seen: set[str]
) -> None:
    study, opened = opened_for(tiny_model, "llama")
    changed = train(study, "finetuned", opened, **changes)
    found = differences(read_golden("train")["llama/finetuned"], changed)
    assert seen <= {tail_of(line) for line in found}


def test_another_seed_or_row_is_noticed(prepared: Results) -> None:
    rows, recorded = prepared["rows"], read_golden("prepare")["rows"]
    assert differences(recorded["shuffled-labels/seed-0"], rows["shuffled-labels/seed-1"])
    assert differences(recorded["finetuned/seed-0"], rows["control-source/seed-0"])
    assert differences(recorded["finetuned/seed-0"], rows["finetuned/seed-0"][:-1])


@pytest.mark.parametrize("stage", STAGES)
def test_every_recorded_value_is_compared(stage: str) -> None:
    """A change of any one number, text or flag is told, and told where it is."""
    recorded = read_golden(stage)
    assert differences(recorded, recorded) == []
    changed = copy.deepcopy(recorded)
    n = change_all(changed)
    assert n > 10
    assert len(differences(recorded, changed)) == n
    for key in recorded:
        less = {other: value for other, value in recorded.items() if other != key}
        assert differences(recorded, less) == [f"/{key}: recorded, but not found"]
        assert differences(less, recorded) == [f"/{key}: found, but not recorded"]


def test_what_is_written_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.golden import comparing

    monkeypatch.setattr(comparing, "GOLDEN", tmp_path)
    results = {"a": [{"b": [1, 2.5, "nan", True]}, {"c": -1.23456789012}], "d": {}, "e": []}
    path = write_golden("some", results)
    assert json.loads(path.read_text(encoding="utf-8")) == read_golden("some")
    assert read_golden("some") == {**results, "a": [results["a"][0], {"c": -1.234568}]}


def change_all(results: Any) -> int:
    """Changes every value in place, numbers by a hundredth; returns how many there were."""
    pairs = results.items() if isinstance(results, dict) else enumerate(results)
    n = 0
    for key, value in list(pairs):
        if isinstance(value, dict | list):
            n += change_all(value)
            continue
        changed: Callable[[Any], Any] = {
            bool: lambda flag: not flag,
            int: lambda number: number + 1,
            float: lambda number: number + 0.01 * (1 + abs(number)),
            str: lambda text: text + " ",
        }[type(value)]
        results[key] = changed(value)
        n += 1
    return n


def tail_of(line: str) -> str:
    """The last two names of a difference's place, such as ``curve/loss``."""
    names = [name for name in line.split(": ")[0].split("/") if name and not name.isdigit()]
    return "/".join(name.rpartition(".")[2] for name in names[-2:])
