"""Foreign results and half-finished work, damaged: read as what stands there, or refused."""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.reliability.fuzzing import (
    TEXTS,
    any_value,
    damaged,
    json_line,
    refused,
    sweep,
    write,
)
from tests.reliability.test_fuzz_records import check_frame
from xling.importing import ImportedResults, read_lm_eval, read_table
from xling.languages import belebele_codes
from xling.records import ARMS, REASONINGS, SCORINGS
from xling.scoring import Generation
from xling.scoring.answer_cache import AnswerCache, ReasoningFile, answer_key

FIXTURE = Path(__file__).resolve().parents[1] / "data" / "lm_eval" / "tiny-llama"
HEADER = "model,arm,language,accuracy,n_items,seed,reasoning,scoring"
LINES = 4


def check_results(results: ImportedResults) -> None:
    """Accepted results are of known arms and languages, with accuracies in proportion."""
    assert results.runs
    for run in results.runs:
        assert run.arm in ARMS and run.reasoning in REASONINGS and run.scoring in SCORINGS
        assert run.model and run.model.isprintable() and len(run.model) <= 500
        assert 0 <= run.seed < 2**63 and run.accuracy
        assert set(run.accuracy) <= set(belebele_codes())
        assert all(0 <= value <= 1 for value in run.accuracy.values())
        assert all(0 < count < 2**63 for count in run.n_items.values())
        assert run.name.encode() and all(str(value).encode() for value in run.params.values())
        if run.records is not None:
            check_frame(run.records)
            means = run.records.groupby("language")["correct"].mean()
            assert means.to_dict() == pytest.approx(dict(run.accuracy), abs=1e-9)


def good_table(rng: random.Random) -> list[list[str]]:
    model = rng.choice(("Qwen3-4B", *(text for text in TEXTS[:8] if text.isprintable())))
    rows = [HEADER.split(",")]
    for code in rng.sample(sorted(belebele_codes()), LINES):
        rows.append([model, "base", code, f"{rng.random():.4f}", "100", "0", "direct", ""])
    return rows


def as_csv(rows: list[list[str]], rng: random.Random) -> bytes:
    quoted = [
        ",".join(
            f'"{text.replace(chr(34), chr(34) * 2)}"' if set(text) & set(',"\n\r') else text
            for text in row
        )
        for row in rows
    ]
    mark = "\ufeff" if rng.random() < 0.3 else ""
    return (mark + rng.choice(("\n", "\r\n")).join(quoted)).encode("utf-8", "replace")


def test_tables_are_read_as_they_stand_or_refused(tmp_path: Path) -> None:
    odd = ("53", "0,5", "1e-400", "0_5", "nan", "inf", "-0", "٠.٥", "9" * 5000, "1.0000001", "50%")

    def check(rng: random.Random) -> str:
        rows = good_table(rng)
        kind = rng.randrange(3)
        if kind:
            row = rng.choice(rows)
            row[rng.randrange(len(row))] = str(rng.choice((any_value(rng), *odd)))[:200_000]
        raw = as_csv(rows, rng)
        path = write(tmp_path / "table.csv", damaged(rng, raw) if not kind else raw)
        try:
            results = read_table(path)
        except Exception as error:
            return refused(error, told=[str(path)])
        check_results(results)
        if kind:
            stored = {row[2].strip(): float(row[3]) for row in rows[1:]}
            if [cell.strip() for cell in rows[0]] == HEADER.split(","):
                assert {k: v for run in results.runs for k, v in run.accuracy.items()} == stored
        return "accepted"

    found = sweep("import-table", 800, check)
    assert found["accepted"] and found["refused"]


def every_place(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each container and key of a JSON value."""
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(entries):
        yield value, key
        if isinstance(inner, dict | list):
            yield from every_place(inner)


def test_samples_are_read_as_they_stand_or_refused(tmp_path: Path) -> None:
    folder = tmp_path / "tiny-llama"
    folder.mkdir()
    (results_file,) = FIXTURE.glob("results_*.json")
    (samples_file,) = FIXTURE.glob("samples_belebele_heb_Hebr_*.jsonl")
    wholes = {path.name: path.read_bytes() for path in (results_file, samples_file)}

    def check(rng: random.Random) -> str:
        for name, raw in wholes.items():
            write(folder / name, raw)
        name = rng.choice(sorted(wholes))
        if rng.random() < 0.5:
            write(folder / name, damaged(rng, wholes[name]))
        elif name == results_file.name:
            content = json.loads(wholes[name])
            known = [content, content["results"], content["results"]["belebele_heb_Hebr"]]
            known.append(content["config"])
            container = rng.choice(known)
            keys = ("model_name", "results", "acc,none", "lm_eval_version", "model_args", "config")
            container[rng.choice(keys)] = any_value(rng)
            write(folder / name, json_line(content, rng))
        else:
            lines = wholes[name].splitlines()
            place = rng.randrange(len(lines))
            row = json.loads(lines[place])
            container, key = rng.choice(list(every_place(row)))
            container[key] = any_value(rng)
            lines[place] = json_line(row, rng)
            write(folder / name, b"\n".join(lines))
        try:
            results = read_lm_eval(folder)
        except Exception as error:
            return refused(error, told=[str(folder)])
        check_results(results)
        return "accepted"

    found = sweep("import-samples", 500, check)
    assert found["accepted"] and found["refused"]


@pytest.mark.parametrize("said", [math.nan, 2, -1, 10**400])
def test_an_accuracy_that_is_none_is_not_taken_as_agreeing(said: float, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(FIXTURE, tmp_path / "tiny-llama"))
    (path,) = folder.glob("results_*.json")
    content = json.loads(path.read_text())
    content["results"]["belebele_heb_Hebr"]["acc,none"] = said
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="acc,none of belebele_heb_Hebr is") as caught:
        read_lm_eval(folder)
    refused(caught.value, told=[str(path)])


def test_kept_answers_are_those_that_were_put_or_refused(tmp_path: Path) -> None:
    def check(rng: random.Random) -> str:
        path = write(tmp_path / "kept.jsonl", b"")
        kept = AnswerCache(path)
        stored = {
            answer_key("label", [number]): {
                "logprobs": [-1.5, -math.inf],
                "text": rng.choice(TEXTS),
            }
            for number in range(3)
        }
        for key, answer in stored.items():
            kept.put(key, answer)
        raw = path.read_bytes()
        if rng.random() < 0.3:
            raw += json_line(any_value(rng), rng) + b"\n"
            raw += json_line({"key": any_value(rng), "text": "x"}, rng) + b"\n"
        else:
            raw = damaged(rng, raw)
        write(path, raw)
        try:
            again = AnswerCache(path)
        except Exception as error:
            return refused(error, told=[str(path), "line "])
        *whole, _ = path.read_bytes().split(b"\n")
        keys = [json.loads(json.loads(line)["content"])["key"] for line in whole]
        again.put("new", {"text": "y"})
        *lines, left = path.read_bytes().split(b"\n")
        assert lines[:-1] == whole and not left
        after = AnswerCache(path)
        assert after["new"] == {"text": "y"}
        assert all(after[key] == again[key] for key in keys)
        return "accepted"

    found = sweep("kept-answers", 600, check)
    assert found["accepted"] and found["refused"]


def test_kept_reasonings_are_those_that_were_put_or_refused(tmp_path: Path) -> None:
    def check(rng: random.Random) -> str:
        path = write(tmp_path / "reasonings.jsonl", b"")
        file = ReasoningFile(path)
        batch = {
            f"{number}": Generation(rng.choice(TEXTS), number, rng.random() < 0.5)
            for number in range(3)
        }
        file.append(batch)
        assert file.done() == batch
        raw = path.read_bytes()
        if rng.random() < 0.4:
            row = {"key": "k", "text": "t", "n_tokens": 3, "truncated": False}
            row[rng.choice(sorted(row))] = any_value(rng)
            raw += json_line(rng.choice((row, any_value(rng))), rng) + b"\n"
        else:
            raw = damaged(rng, raw)
        write(path, raw)
        try:
            done = file.done()
        except Exception as error:
            return refused(error, told=[str(path), "line "])
        for key, written in done.items():
            assert isinstance(key, str) and written.text.encode() is not None
            assert written.n_tokens >= 0 and isinstance(written.truncated, bool)
        file.append({"new": Generation("y", 1, False)})
        assert file.done()["new"] == Generation("y", 1, False)
        return "accepted"

    found = sweep("kept-reasonings", 600, check)
    assert found["accepted"] and found["refused"]
