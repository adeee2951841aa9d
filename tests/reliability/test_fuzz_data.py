"""Folders of questions, damaged: what is loaded is what stands there, the rest is refused."""

from __future__ import annotations

import json
import random
import unicodedata
import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SHARED
from tests.reliability.fuzzing import (
    BLANKS,
    BROKEN,
    TEXTS,
    any_value,
    damaged,
    json_line,
    refused,
    sweep,
    write,
)
from xling.data import DataSet, load_folder
from xling.prompts import PromptFormat, render_prompts

CODES = ("arb_Arab", "amh_Ethi")
FIELDS = ("link", "flores_passage", "question", *(f"mc_answer{k}" for k in range(1, 5)))
REQUIRED = (*FIELDS, "question_number", "correct_answer_num", "dialect")

Rows = dict[str, list[dict[str, Any]]]


def good_rows(rng: random.Random, items: int = 3) -> Rows:
    """Parallel rows of two languages, with text of all kinds."""
    gold = [rng.randint(1, 4) for _ in range(items)]
    return {
        code: [
            {
                "link": f"https://example.org/{number // 2}",
                "question_number": rng.choice((number, str(number), f" {number} ")),
                "flores_passage": rng.choice(TEXTS),
                "question": rng.choice(TEXTS[:-2]),
                **{f"mc_answer{k}": f"{k} {rng.choice(TEXTS[:-2])}" for k in range(1, 5)},
                "correct_answer_num": rng.choice((gold[number], str(gold[number]))),
                "dialect": code,
            }
            for number in range(items)
        ]
        for code in CODES
    }


def as_bytes(rows: list[dict[str, Any]], rng: random.Random) -> bytes:
    """One language's file: any line ends, blank lines, byte order mark, order of keys."""
    end = rng.choice((b"\n", b"\r\n", b"\n\n", b"\n \n"))
    lines = []
    for row in rows:
        keys = list(row)
        rng.shuffle(keys)
        lines.append(json_line({key: row[key] for key in keys}, rng))
    mark = b"\xef\xbb\xbf" if rng.random() < 0.3 else b""
    return mark + end.join(lines) + rng.choice((b"", end))


def load(folder: Path) -> DataSet:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return load_folder(folder, languages=CODES)


def visible(text: str) -> bool:
    """Whether a letter, number, mark or sign of a text can be seen; for what the tests write."""
    unseen = "\u2800\u3164\u115f\u1160\uffa0\u034f\ufe0f"
    return any(unicodedata.category(sign)[0] in "LNPSM" and sign not in unseen for sign in text)


def read_apart(path: Path) -> list[dict[str, Any]]:
    """The rows of a file, read without the package."""
    lines = path.read_bytes().decode("utf-8-sig").split("\n")
    return [json.loads(line) for line in lines if line.strip()]


def check_loaded(data: DataSet, folder: Path) -> None:
    """What was loaded is what the files hold, sign by sign, and can be asked."""
    ids = data.item_ids
    assert ids and len(set(ids)) == len(ids)
    for code in CODES:
        assert tuple(item.item_id for item in data.items[code]) == ids
        rows = read_apart(folder / f"{code}.jsonl")
        stored = {f"{row['link']}#{int(row['question_number'])}": row for row in rows}
        assert len(rows) == len(stored) == len(ids)
        for item in data.items[code]:
            row = stored[item.item_id]
            for field in FIELDS:
                text = getattr(item, field)
                assert text == row[field] and visible(text)
                assert "\0" not in text and text.encode()
            assert item.dialect == row["dialect"] == code
            assert item.correct_answer_num == int(row["correct_answer_num"]) in (1, 2, 3, 4)
    golds = {tuple(item.correct_answer_num for item in items) for items in data.items.values()}
    assert len(golds) == 1
    check_prompts(data)
    assert load(folder).sha256_by_language() == data.sha256_by_language()


def check_prompts(data: DataSet) -> None:
    """A prompt is the texts and what the template puts between them, and nothing else."""
    for items in data.items.values():
        prompts = render_prompts(items, PromptFormat(), tokenizer=None)  # type: ignore[arg-type]
        for item, prompt in zip(items, prompts, strict=True):
            options = "".join(f"\n({k}) {text}" for k, text in enumerate(item.answers, start=1))
            assert prompt == f"{item.flores_passage}\n{item.question}{options}\nAnswer: ("


def test_text_of_every_kind_is_loaded_as_it_stands(tmp_path: Path) -> None:
    def check(rng: random.Random) -> str:
        rows = good_rows(rng)
        rows[CODES[1]].sort(key=lambda row: rng.random())
        for code in CODES:
            write(tmp_path / f"{code}.jsonl", as_bytes(rows[code], rng))
        check_loaded(load(tmp_path), tmp_path)
        return "accepted"

    assert set(sweep("data-good", 250, check)) == {"accepted"}


def test_a_changed_value_is_loaded_as_it_stands_or_refused(tmp_path: Path) -> None:
    def check(rng: random.Random) -> str:
        rows = good_rows(rng)
        code, number = rng.choice(CODES), rng.randrange(3)
        row = rows[code][number]
        field = rng.choice(REQUIRED)
        if rng.random() < 0.1:
            del row[field]
        else:
            row[rng.choice((field, field, field, "split"))] = any_value(rng)
        for each in CODES:
            lines = b"\n".join(json_line(row, rng) for row in rows[each])
            write(tmp_path / f"{each}.jsonl", lines)
        try:
            data = load(tmp_path)
        except Exception as error:
            return refused(error, told=[str(tmp_path)])
        check_loaded(data, tmp_path)
        return "accepted"

    found = sweep("data-value", 1000, check)
    assert found["accepted"] and found["refused"]


def test_damaged_files_are_loaded_as_they_stand_or_refused(tmp_path: Path) -> None:
    def check(rng: random.Random) -> str:
        rows = good_rows(rng)
        spoilt = rng.choice(CODES)
        for code in CODES:
            raw = as_bytes(rows[code], rng)
            write(tmp_path / f"{code}.jsonl", damaged(rng, raw) if code == spoilt else raw)
        try:
            data = load(tmp_path)
        except Exception as error:
            return refused(error, told=[str(tmp_path)])
        check_loaded(data, tmp_path)
        return "accepted"

    found = sweep("data-bytes", 1000, check)
    assert found["accepted"] and found["refused"]


@pytest.mark.parametrize("field", ["link", "flores_passage", "mc_answer4"])
@pytest.mark.parametrize("text", BLANKS + BROKEN, ids=ascii)
def test_text_that_cannot_be_read_names_file_line_and_field(
    text: str, field: str, tmp_path: Path
) -> None:
    rows = good_rows(random.Random(0))
    rows[CODES[0]][1][field] = text
    for code in CODES:
        lines = "\n".join(json.dumps(row) for row in rows[code])
        write(tmp_path / f"{code}.jsonl", lines.encode())
    with pytest.raises(ValueError) as caught:
        load(tmp_path)
    refused(caught.value, told=[f"{tmp_path / CODES[0]}.jsonl:2", field])


@pytest.mark.parametrize("raw", [b"", b"\n\n", b"\xef\xbb\xbf", b" \r\n\t\n"])
def test_a_language_without_items_is_named(raw: bytes, tmp_path: Path) -> None:
    write(tmp_path / f"{CODES[0]}.jsonl", as_bytes(good_rows(random.Random(0))[CODES[0]], random))
    write(tmp_path / f"{CODES[1]}.jsonl", raw)
    with pytest.raises(ValueError, match="amh_Ethi.jsonl: the file is empty"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (lambda good: good.replace(b'"question"', b'"link": "x", "question"', 1), "'link' twice"),
        (lambda good: good.replace(b'"dialect"', b'"n": ' + b"9" * 5000 + b', "dialect"', 1), ":1"),
        (lambda good: good.decode().encode("utf-16"), "not UTF-8"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(lines: Any, told: str, tmp_path: Path) -> None:
    for code, rows in good_rows(random.Random(0)).items():
        good = "\n".join(json.dumps(row) for row in rows).encode()
        write(tmp_path / f"{code}.jsonl", lines(good))
    with pytest.raises(ValueError) as caught:
        load(tmp_path)
    refused(caught.value, told=[str(tmp_path), told])


@pytest.mark.parametrize(
    ("one", "other"),
    [("same", "same"), ("same", "sa\u200bme"), ("caf\u00e9", "cafe\u0301"), ("\u202bאב", "אב ")],
)
def test_options_that_look_alike_are_warned_of(one: str, other: str, tmp_path: Path) -> None:
    rows = good_rows(random.Random(0))
    for code in CODES:
        rows[code][2] |= {"mc_answer1": one, "mc_answer3": other}
        write(tmp_path / f"{code}.jsonl", "\n".join(map(json.dumps, rows[code])).encode())
    with pytest.warns(UserWarning, match="1 items have options that are not all different"):
        data = load_folder(tmp_path, languages=CODES)
    assert data.items[CODES[0]][2].answers[2] == other  # kept as it stands


@pytest.mark.skipif(not (SHARED / "belebele").is_dir(), reason="the real data is not here")
def test_real_questions_survive_being_written_again_and_again(tmp_path: Path) -> None:
    codes = ("eng_Latn", "deu_Latn")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        data = load_folder(SHARED / "belebele", languages=codes)
        for code in codes:
            rows = [{**vars(item)} for item in data.items[code]]
            for row in rows:
                del row["part"]
            write(tmp_path / f"{code}.jsonl", as_bytes(rows, random.Random(code)))
        again = load_folder(tmp_path, languages=codes)
    assert again.sha256_by_language() == data.sha256_by_language()
    check_prompts(again)
