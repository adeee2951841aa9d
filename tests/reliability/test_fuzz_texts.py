"""Properties of any text: what is right comes back as it was put in, sign by sign."""

from __future__ import annotations

import csv
import io
import json
import random
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from tests.reliability.fuzzing import BLANKS, as_many
from tests.reliability.test_fuzz_records import good_frame
from xling.data import Item, parse_row
from xling.data.schema import is_blank, look_of, sha256_of_items
from xling.files.strict_json import parse_json
from xling.importing import read_table
from xling.messages.values import format_name, format_value, join_names
from xling.prompts import fill_template
from xling.records import read_records, records_sha256, write_records
from xling.study import Study
from xling.study.load import load_study, parse_study

many = settings(
    max_examples=as_many(150),
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=60)
SEEN = TEXT.map(lambda text: f"א{text}")
UNSEEN = st.text(st.sampled_from("".join(BLANKS)), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


def make_row(texts: list[str]) -> dict[str, Any]:
    names = ("flores_passage", "question", *(f"mc_answer{k}" for k in range(1, 5)))
    fixed = {"link": "x", "question_number": 1, "correct_answer_num": 2, "dialect": "heb_Hebr"}
    return {**fixed, **dict(zip(names, texts, strict=True))}


@many
@given(st.lists(SEEN, min_size=6, max_size=6))
def test_a_row_becomes_its_item_and_its_prompt(texts: list[str]) -> None:
    item = parse_row(make_row(texts), where="here")
    assert [item.flores_passage, item.question, *item.answers] == texts
    assert fill_template(item, "{passage}{question}{answer1}{answer2}{answer3}{answer4}") == (
        "".join(texts)
    )
    again = Item(**json.loads(json.dumps(vars(item))))
    assert sha256_of_items([again]) == sha256_of_items([item])


@many
@given(UNSEEN)
def test_only_what_is_unseen_is_blank(text: str) -> None:
    assert is_blank(text) and not is_blank(text + "ድ" + text)
    with pytest.raises(ValueError, match="here: question is empty"):
        parse_row(make_row(["a", text, "a", "b", "c", "d"]), where="here")


@many
@given(SEEN, st.data())
def test_texts_that_differ_unseen_look_alike(text: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(text)))
    unseen = data.draw(st.sampled_from("\u200b\u200d\u202e\u2060\ufeff\u00ad"))
    assert look_of(look_of(text)) == look_of(text)
    assert look_of(text[:place] + unseen + text[place:]) in (look_of(text), *_rejoined(text, place))
    assert look_of(unicodedata.normalize("NFD", text)) == look_of(text)


def _rejoined(text: str, place: int) -> tuple[str, ...]:
    """An unseen sign can part letters that would be composed; they look alike even so."""
    return (look_of(text[:place]) + look_of(text[place:]), look_of(text[:place] + text[place:]))


@many
@example("a", "\x85")  # PyYAML reads what it writes of this sign as a space
@example("one\u2028two\x85 three\n\n", "\ufeff\n\x85")
@given(TEXT, TEXT)
def test_a_study_with_any_text_is_written_and_read(words: str, prefix: str) -> None:
    study = load_study("demo")
    content = study.model_dump()
    content["description"] = words
    content["prompt"]["answer_prefix"] = prefix
    content["chain_of_thought"]["instruction"] = f"Think. {words}"
    made = Study.model_validate(content).model_copy(update={"origin": "here"})
    assert parse_study(made.to_yaml(), where="here") == made


@many
@given(JSON)
def test_json_is_read_as_it_was_written(value: Any) -> None:
    assert parse_json(json.dumps(value).encode()) == value
    assert parse_json(json.dumps(value, ensure_ascii=False).encode()) == value


@many
@given(st.dictionaries(TEXT, JSON, min_size=1, max_size=3), st.data())
def test_json_with_a_key_twice_is_refused(value: dict[str, Any], data: st.DataObject) -> None:
    key = json.dumps(data.draw(st.sampled_from(sorted(value))))
    text = json.dumps(value)[:-1] + f", {key}: 1}}"
    with pytest.raises(ValueError, match="twice"):
        parse_json(text.encode())


@many
@given(st.one_of(JSON, st.text(), st.binary(), st.integers(10**3000, 10**5000)))
def test_a_shown_value_is_short_and_one_line(value: Any) -> None:
    for words in (
        format_value(value),
        format_name(str(value)[:9000]) if not _is_huge(value) else "",
    ):
        assert len(words.splitlines()) <= 1 and words.isprintable() and words.encode() is not None
    assert len(format_value(value)) < 3000
    if isinstance(value, str):
        assert len(format_value(value)) < 140 and len(format_name(value)) < 140
        assert len(join_names([value] * 50)) < 1500


def _is_huge(value: object) -> bool:
    return isinstance(value, int) and abs(value) > 10**4000


@settings(many, max_examples=as_many(50))  # each waits for the disk
@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=40))
def test_records_of_any_names_are_written_and_read(tmp_path: Path, name: str) -> None:
    frame = good_frame(random.Random(1)).assign(model=name, passage_id=name)
    write_records(frame, tmp_path / "records.parquet")
    again = read_records(tmp_path / "records.parquet")
    assert set(again["model"]) == set(again["passage_id"]) == {name}
    assert records_sha256(again) == records_sha256(frame)


@many
@given(TEXT, st.floats(0, 1))
def test_tables_of_any_model_are_read(tmp_path: Path, model: str, accuracy: float) -> None:
    assume(model.isprintable() and model.strip() == model)
    sink = io.StringIO()
    writer = csv.writer(sink)
    writer.writerows(
        [["model", "arm", "language", "accuracy"], [model, "base", "heb_Hebr", repr(accuracy)]]
    )
    path = tmp_path / "table.csv"
    path.write_text(sink.getvalue(), encoding="utf-8", newline="")
    (run,) = read_table(path).runs
    assert (run.model, run.accuracy) == (model, {"heb_Hebr": accuracy})
