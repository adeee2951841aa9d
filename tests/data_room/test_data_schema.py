"""The checks of a row, and of languages against each other."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import warnings

import pytest

from xling.data import check_parallel, parse_row
from xling.data.parallel import make_data_set


def parse(made, code="eng_Latn"):
    return parse_row(made, where="f.jsonl:1", language=code)


def test_a_good_row(row) -> None:
    item = parse(row(3, correct_answer_num="2", question_number="3"))
    assert item.item_id == "https://example.org/2#3"
    assert item.passage_id == "https://example.org/2"
    assert item.answers == ("on the mat", "on the hat", "on the bat", "on the rat")
    assert (item.question_number, item.correct_answer_num, item.part) == (3, 2, "")
    with pytest.raises(dataclasses.FrozenInstanceError):
        item.part = "training"


def test_text_is_kept_exactly(row) -> None:
    passage = "  e\u0301\u200b zero width\u2028and a line separator \n"
    assert parse(row(flores_passage=passage)).flores_passage == passage


@pytest.mark.parametrize(
    ("split", "part"),
    [
        ("train", "training"),
        ("dev", "training"),
        ("validation", "training"),
        ("test", "heldout"),
        ("", ""),
        (None, ""),
    ],
)
def test_the_datas_own_split(row, split, part) -> None:
    assert parse(row(split=split)).part == part


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flores_passage": ""}, "flores_passage is empty"),
        ({"question": " \n"}, "question is empty"),
        ({"mc_answer3": "\u3000"}, "mc_answer3 is empty"),
        ({"link": ""}, "link is empty"),
        ({"question": None}, "question is None; it must be text"),
        ({"mc_answer1": 12}, "mc_answer1 is 12; it must be text"),
        ({"flores_passage": "a\0b"}, "flores_passage holds a null character"),
        ({"question": "a\ud800"}, "question holds half a surrogate pair"),
        ({"correct_answer_num": "0"}, "correct_answer_num is 0; it must be 1, 2, 3 or 4"),
        ({"correct_answer_num": 5}, "correct_answer_num is 5; it must be 1, 2, 3 or 4"),
        ({"correct_answer_num": "A"}, "correct_answer_num is 'A'; it must be a whole number"),
        ({"correct_answer_num": True}, "correct_answer_num is True; it must be a whole"),
        ({"correct_answer_num": 1.0}, "correct_answer_num is 1.0; it must be a whole"),
        ({"correct_answer_num": "²"}, "correct_answer_num is '²'; it must be a whole"),
        ({"question_number": None}, "question_number is None; it must be a whole number"),
        ({"dialect": "deu_Latn"}, "dialect is 'deu_Latn', but .*'eng_Latn' was asked"),
        ({"split": "held-out"}, "split is 'held-out'; it must be train, dev, validation, test"),
    ],
)
def test_a_bad_field_is_named_with_file_and_line(row, changes, message) -> None:
    with pytest.raises(ValueError, match=f"^f.jsonl:1: {message}"):
        parse(row(**changes))


def test_missing_fields_are_named(row) -> None:
    made = row()
    del made["question"], made["mc_answer4"]
    with pytest.raises(ValueError, match="f.jsonl:1: missing field question, mc_answer4"):
        parse(made)
    with pytest.raises(ValueError, match="this one has none"):
        parse({})


def items(row, code, numbers=(1, 2, 3), **changes):
    return tuple(parse(row(k, dialect=code, **changes), code) for k in numbers)


def test_order_is_the_first_languages(row) -> None:
    data = make_data_set(
        {"eng_Latn": items(row, "eng_Latn"), "deu_Latn": items(row, "deu_Latn", (3, 1, 2))},
        name="n",
        source="s",
        revision="r",
    )
    assert data.languages == ("eng_Latn", "deu_Latn")
    assert [i.item_id for i in data.items["deu_Latn"]] == list(data.item_ids)
    assert {i.dialect for i in data.items["deu_Latn"]} == {"deu_Latn"}


def test_select(row) -> None:
    data = make_data_set({"eng_Latn": items(row, "eng_Latn")}, name="n", source="s", revision="r")
    chosen = data.select("eng_Latn", [data.item_ids[2], data.item_ids[0]])
    assert [i.item_id for i in chosen] == [data.item_ids[0], data.item_ids[2]]
    with pytest.raises(ValueError, match="has no deu_Latn; it has eng_Latn"):
        data.select("deu_Latn", [])


def test_sha256_is_of_canonical_jsonl(row) -> None:
    rows = items(row, "eng_Latn")
    data = make_data_set({"eng_Latn": rows}, name="n", source="s", revision="r")
    lines = (
        json.dumps(dataclasses.asdict(i), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        for i in rows
    )
    wanted = hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()
    assert data.sha256_by_language() == {"eng_Latn": wanted}


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((1, 2), r"eng_Latn and deu_Latn are not parallel: 1 items of eng_Latn.*example.org/2#3"),
        ((1, 2, 3, 4), r"deu_Latn and eng_Latn are not parallel: 1 items of deu_Latn.*/2#4"),
    ],
)
def test_other_ids_are_an_error(row, numbers, message) -> None:
    with pytest.raises(ValueError, match=message):
        check_parallel(
            {"eng_Latn": items(row, "eng_Latn"), "deu_Latn": items(row, "deu_Latn", numbers)},
            source="here",
        )


def test_other_gold_answers_and_parts_are_an_error(row) -> None:
    english = items(row, "eng_Latn")
    for changes, said in (
        ({"correct_answer_num": "2"}, "gold 1 in eng_Latn, gold 2 in deu_Latn"),
        ({"split": "test"}, "gold 1 in eng_Latn, gold 1 in heldout in deu_Latn"),
    ):
        german = items(row, "deu_Latn", **changes)
        with pytest.raises(ValueError, match=f"3 items differ in the gold.*#1.*{said}"):
            check_parallel({"eng_Latn": english, "deu_Latn": german}, source="here")


def test_no_languages_no_items_and_an_item_twice_are_errors(row) -> None:
    with pytest.raises(ValueError, match="here: no languages were asked for"):
        check_parallel({}, source="here")
    with pytest.raises(ValueError, match="here: eng_Latn has no items"):
        check_parallel({"eng_Latn": ()}, source="here")
    with pytest.raises(ValueError, match=r"here: item .*/1#1 appears twice in eng_Latn"):
        check_parallel({"eng_Latn": items(row, "eng_Latn", (1, 1))}, source="here")


def test_equal_options_are_one_warning(row) -> None:
    given = {
        code: (*items(row, code), *items(row, code, (4,), mc_answer2="on the mat"))
        for code in ("eng_Latn", "deu_Latn")
    }
    with pytest.warns(UserWarning, match=r"here: 1 items .*/2#4 \(eng_Latn, deu_Latn\)"):
        make_data_set(given, name="n", source="here", revision="r")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_data_set({"eng_Latn": items(row, "eng_Latn")}, name="n", source="here", revision="r")
