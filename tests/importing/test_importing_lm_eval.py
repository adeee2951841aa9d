"""Samples of lm-evaluation-harness: a true run (tests/data/lm_eval), and files that are wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xling.data import load_data
from xling.importing import read_lm_eval, read_results
from xling.prompts import prompt_sha256
from xling.records import LOGPROB_COLUMNS

FIXTURE = Path(__file__).resolve().parents[1] / "data" / "lm_eval" / "tiny-llama"
CODES = ("fra_Latn", "heb_Hebr", "mlt_Latn")
(RESULTS,) = FIXTURE.glob("results_*.json")
SAID = json.loads(RESULTS.read_text(encoding="utf-8"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the true run, to be spoilt."""
    return Path(shutil.copytree(FIXTURE, tmp_path / "tiny-llama"))


def samples_of(folder: Path, code: str = "heb_Hebr") -> Path:
    (path,) = folder.glob(f"samples_belebele_{code}_*.jsonl")
    return path


def rewrite(path: Path, change: Callable[[dict[str, Any]], None], line: int = 3) -> None:
    """Changes one line of a samples file, counted from 1."""
    lines = path.read_text(encoding="utf-8").splitlines()
    row = json.loads(lines[line - 1])
    change(row)
    lines[line - 1] = json.dumps(row, ensure_ascii=False)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


# The true run


def test_accuracies_are_the_harness_own() -> None:
    (run,) = read_lm_eval(FIXTURE).runs
    said = {code: SAID["results"][f"belebele_{code}"]["acc,none"] for code in CODES}
    assert len(set(said.values())) > 1
    assert run.accuracy == pytest.approx(said, abs=1e-12)
    assert run.records is not None
    means = run.records.groupby("language")["correct"].mean()
    assert means.to_dict() == pytest.approx(said, abs=1e-12)


def test_the_run_is_named_by_the_results_file() -> None:
    results = read_lm_eval(FIXTURE, arm="finetuned", seed=4, reasoning="cot")
    (run,) = results.runs
    assert (run.model, run.arm, run.seed) == ("tiny-llama", "finetuned", 4)
    assert (run.reasoning, run.scoring) == ("cot", "answer-token")
    assert run.params == {"base_model": "./tiny-llama", "engine": "lm-evaluation-harness 0.4.13"}
    assert results.languages == CODES


def test_records_are_the_questions_and_scores_of_the_samples() -> None:
    (run,) = read_lm_eval(FIXTURE).runs
    assert run.records is not None
    data = load_data("mini", languages=CODES, difficulties=(1,))
    for code in CODES:
        rows = run.records[run.records["language"] == code].set_index("item_id")
        items = [item for item in data.items[code] if item.part == "heldout"][: len(rows)]
        assert list(rows.index) == [item.item_id for item in items]
        assert list(rows["passage_id"]) == [item.passage_id for item in items]
        assert list(rows["gold"]) == [item.correct_answer_num for item in items]
    logprobs = run.records[list(LOGPROB_COLUMNS)].to_numpy()
    assert np.array_equal(run.records["prediction"], logprobs.argmax(axis=1) + 1)
    assert np.allclose(run.records["answer_mass"], np.exp(logprobs).sum(axis=1))
    assert set(run.records["part"]) == {"heldout"}
    assert set(run.records["n_tokens"]) == {0}


def test_logprobs_and_prompt_are_those_of_the_line() -> None:
    line = json.loads(samples_of(FIXTURE).read_text(encoding="utf-8").splitlines()[0])
    (run,) = read_lm_eval(samples_of(FIXTURE)).runs
    assert run.records is not None
    first = run.records.iloc[0]
    assert [first[name] for name in LOGPROB_COLUMNS] == [
        float(pair[0]) for pair in line["filtered_resps"]
    ]
    assert first["prompt_sha256"] == prompt_sha256(line["arguments"]["gen_args_0"]["arg_0"])


# What varies


def test_numbered_labels_and_plain_lists_are_read(folder: Path) -> None:
    def older(row: dict[str, Any]) -> None:
        pairs = row["arguments"].values()
        row["arguments"] = [[pair["arg_0"], f" {n}"] for n, pair in enumerate(pairs, start=1)]
        row["filtered_resps"] = [[float(pair[0]), False] for pair in row["filtered_resps"]]

    before = read_lm_eval(folder).runs[0].records
    for line in range(1, 13):
        rewrite(samples_of(folder), older, line)
    assert before is not None
    assert before.equals(read_lm_eval(folder).runs[0].records)


def test_the_first_of_equal_options_is_taken(folder: Path) -> None:
    def tie(row: dict[str, Any]) -> None:
        row["filtered_resps"] = [["-2.0", "False"]] * 4
        row["doc"]["correct_answer_num"], row["acc"] = "1", 1.0

    for code in CODES:
        rewrite(samples_of(folder, code), tie)
    (folder / RESULTS.name).write_text(json.dumps({"model_name": "x"}))
    records = read_lm_eval(folder).runs[0].records
    assert records is not None
    assert list(records.groupby("language").nth(2)["prediction"]) == [1, 1, 1]


def test_several_models_folders_make_a_run_each(tmp_path: Path) -> None:
    for name in ("Org__One", "Org__Two"):
        copied = Path(shutil.copytree(FIXTURE, tmp_path / name))
        (copied / RESULTS.name).write_text(
            json.dumps(SAID | {"model_name": name.replace("__", "/")})
        )
    names = {"Org/Two": "the-other"}
    assert [run.model for run in read_lm_eval(tmp_path, names=names).runs] == ["one", "the-other"]
    with pytest.raises(ValueError, match="2 folders, so one model name does not do"):
        read_lm_eval(tmp_path, model="mine")


def test_a_model_can_be_named_where_no_results_file_does(folder: Path) -> None:
    (folder / RESULTS.name).unlink()
    with pytest.raises(ValueError, match=r"says which model this is; add it, or give `model`"):
        read_lm_eval(folder)
    assert read_lm_eval(folder, model="Mine").runs[0].model == "Mine"


def test_the_digest_follows_the_content(folder: Path) -> None:
    before = read_lm_eval(folder).sha256
    assert before == read_lm_eval(FIXTURE).sha256
    rewrite(samples_of(folder), lambda row: row.update(target="x"))
    assert read_lm_eval(folder).sha256 != before


# What is wrong


def answers(row: dict[str, Any]) -> None:
    for number, pair in enumerate(row["arguments"].values(), start=1):
        pair["arg_1"] = " " + row["doc"][f"mc_answer{number}"]


def swap(row: dict[str, Any]) -> None:
    arguments = row["arguments"]
    arguments["gen_args_0"], arguments["gen_args_1"] = (
        arguments["gen_args_1"],
        arguments["gen_args_0"],
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (answers, "not the answer labels A to D or 1 to 4.*means per token"),
        (swap, "the scored choices are ' B', ' A', ' C', ' D', not the answer labels"),
        (lambda row: row.update(acc=1.0 - row["acc"]), "acc is .*, but the likeliest option is"),
        (lambda row: row.update(acc="yes"), "acc is 'yes'"),
        (lambda row: row["doc"].pop("link"), "doc: missing field link"),
        (lambda row: row["doc"].update(dialect="arb_Arab"), "dialect is 'arb_Arab'"),
        (lambda row: row.update(doc="text"), "doc is 'text'; it must hold Belebele's fields"),
        (lambda row: row.pop("filtered_resps"), "missing filtered_resps"),
        (lambda row: row["filtered_resps"].pop(), "must hold four pairs"),
        (lambda row: row.update(filtered_resps=[["nan", "False"]] * 4), "finite log-probability"),
        (lambda row: row.update(filtered_resps=[["0.3", "False"]] * 4), "at most 0"),
        (lambda row: row["arguments"].pop("gen_args_3"), "3 scored choices; it must be 4"),
        (lambda row: row["arguments"]["gen_args_2"].update(arg_0="x"), "different contexts"),
    ],
)
def test_a_wrong_line_names_file_and_line(
    change: Callable[[dict[str, Any]], None], told: str, folder: Path
) -> None:
    path = samples_of(folder)
    rewrite(path, change)
    with pytest.raises(ValueError, match=told) as caught:
        read_lm_eval(folder)
    assert str(caught.value).startswith(f"{path}, line 3")


def test_a_line_that_is_cut_off_is_named(folder: Path) -> None:
    path = samples_of(folder)
    data = path.read_bytes()
    path.write_bytes(data[:-300])
    with pytest.raises(ValueError, match="line 12: not JSON, or cut off"):
        read_lm_eval(folder)


def test_a_question_twice_is_refused(folder: Path) -> None:
    path = samples_of(folder)
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join([*lines, lines[0]]), encoding="utf-8")
    with pytest.raises(ValueError, match="line 13: question .* is in line 1 already"):
        read_lm_eval(folder)


def test_missing_lines_contradict_the_results_file(folder: Path) -> None:
    path = samples_of(folder)
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    wrong = [line for line in lines if json.loads(line)["acc"] == 0.0]
    path.write_text("".join(line for line in lines if line != wrong[-1]), encoding="utf-8")
    with pytest.raises(ValueError, match=r"0\.272727 over its 11 lines, but 0\.250000 in the"):
        read_lm_eval(folder)


def test_languages_with_other_questions_are_refused(folder: Path) -> None:
    (folder / RESULTS.name).unlink()
    path = samples_of(folder)
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[1:]), encoding="utf-8")
    with pytest.raises(ValueError, match=r"(?s)heb_Hebr.*mini/1/heldout/0000"):
        read_lm_eval(folder, model="x")


def test_two_files_of_one_language_are_refused(folder: Path) -> None:
    shutil.copy(
        samples_of(folder), folder / "samples_belebele_heb_Hebr_2027-01-01T00-00-00.000001.jsonl"
    )
    with pytest.raises(ValueError, match="samples of heb_Hebr are in .* too"):
        read_lm_eval(folder)


def test_a_task_without_a_language_is_named(folder: Path) -> None:
    samples_of(folder).rename(folder / "samples_arc_easy_2026-01-01T00-00-00.0.jsonl")
    with pytest.raises(ValueError, match=r"arc_easy.*ends with a Belebele code"):
        read_lm_eval(folder)


def test_an_adapter_is_not_the_base_arm(folder: Path) -> None:
    config = SAID["config"] | {"model_args": {"pretrained": "x", "peft": "my/adapter"}}
    (folder / RESULTS.name).write_text(json.dumps(SAID | {"config": config}))
    with pytest.raises(ValueError, match=r"adapter was loaded \(my/adapter\), so the arm is not"):
        read_lm_eval(folder)
    assert read_lm_eval(folder, arm="finetuned").runs[0].arm == "finetuned"


def test_a_folder_without_samples_says_how_to_make_them(folder: Path) -> None:
    for path in folder.glob("samples_*"):
        path.unlink()
    with pytest.raises(ValueError, match="run lm_eval with --log_samples"):
        read_results(folder)
    with pytest.raises(
        ValueError, match="is not a table; of lm-evaluation-harness give the folder"
    ):
        read_results(folder / RESULTS.name)
