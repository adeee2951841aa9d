"""The mini set: its words, its balance, and that parts and options are what they claim."""

from __future__ import annotations

import unicodedata
from collections import Counter
from itertools import permutations

import pytest

from xling.data import DataSet, build_mini, difficulty_of, mini_languages
from xling.data.mini.draws import draw_items
from xling.data.mini.words import PARTS, pool, variety

SCRIPTS = {
    "Arab": ("ARABIC",),
    "Hebr": ("HEBREW",),
    "Ethi": ("ETHIOPIC",),
    "Latn": ("LATIN",),
    "Jpan": ("HIRAGANA", "KATAKANA", "CJK"),
    "Hang": ("HANGUL",),
}
CODES = mini_languages()


@pytest.fixture(scope="module")
def data() -> DataSet:
    return build_mini(languages=CODES)


def keys_of(part: str) -> set[tuple[str, str]]:
    """Keys of all words that a part may use."""
    drawn = pool(part)
    return {
        *(("country", country) for country, _ in drawn.places),
        *(("language", language) for _, language in drawn.places),
        *(("month", str(month)) for month in drawn.months),
        *(("weekday", str(day)) for day in drawn.weekdays),
        *(("name", f"{part}/{k}") for k in range(drawn.people)),
    }


def test_there_are_14_varieties_with_400_items_a_difficulty(data: DataSet) -> None:
    assert len(CODES) == 14
    for items in data.items.values():
        counts = Counter((difficulty_of(item), item.part) for item in items)
        assert counts == {
            (difficulty, part): count
            for difficulty in (1, 2, 3)
            for part, count in (("training", 300), ("heldout", 100))
        }
    first = data.items["arb_Arab"][0]
    assert (first.item_id, first.dialect) == ("mini/1/training/0000#1", "arb_Arab")


@pytest.mark.parametrize("code", CODES)
def test_every_word_is_in_its_script(code: str) -> None:
    allowed = SCRIPTS[code.split("_")[1]]
    for word in variety(code).words.values():
        letters = [c for c in word if c.isalpha()]
        assert letters
        assert all(unicodedata.name(c).startswith(allowed) for c in letters), word


@pytest.mark.parametrize("code", CODES)
def test_words_differ_and_both_parts_have_words_of_their_own(code: str) -> None:
    words = variety(code).words
    assert set(words) == keys_of("training") | keys_of("heldout")
    assert len(set(words.values())) == len(words)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("part", PARTS)
def test_names_do_not_hold_each_other(code: str, part: str) -> None:
    names = [variety(code).word("name", f"{part}/{k}") for k in range(pool(part).people)]
    assert not [(a, b) for a, b in permutations(names, 2) if a in b]


def test_heldout_items_use_no_word_of_training() -> None:
    used: dict[str, set[tuple[str, str]]] = {part: set() for part in PARTS}
    for difficulty in (1, 2, 3):
        for part in PARTS:
            for draw in draw_items(difficulty, part, 0):
                used[part].update((draw.kind, key) for key in draw.options)
                for sentence in (*draw.passage, draw.question):
                    used[part].update(sentence.keys.items())
    assert used["training"] == keys_of("training")
    assert used["heldout"] == keys_of("heldout")
    assert not used["training"] & used["heldout"]


@pytest.mark.parametrize("code", CODES)
def test_heldout_text_shares_nothing_with_training(data: DataSet, code: str) -> None:
    parts = {
        part: [item for item in data.items[code] if item.part == part]
        for part in ("training", "heldout")
    }
    for field in ("flores_passage", "question", "answers"):
        seen = [
            {
                text
                for item in parts[part]
                for text in ((getattr(item, field),) if field != "answers" else item.answers)
            }
            for part in ("training", "heldout")
        ]
        assert not seen[0] & seen[1], field


@pytest.mark.parametrize("code", CODES)
def test_what_the_passage_names(data: DataSet, code: str) -> None:
    wanted = {1: (1, True), 2: (2, True), 3: (1, False)}
    for item in data.items[code]:
        named = [answer in item.flores_passage for answer in item.answers]
        gold = named[item.correct_answer_num - 1]
        assert (sum(named), gold) == wanted[difficulty_of(item)], item
        assert len(set(item.answers)) == 4
        assert "{" not in item.flores_passage + item.question


def test_the_inference_is_right(data: DataSet) -> None:
    months = [variety("eng_Latn").word("month", str(month)) for month in range(1, 13)]
    shifts = {"by one month": 1, "by two months": 2, "one month earlier": -1}
    for item in data.items["eng_Latn"]:
        if difficulty_of(item) == 3:
            (start,) = (k for k, month in enumerate(months) if month in item.flores_passage)
            (shift,) = (n for said, n in shifts.items() if said in item.flores_passage)
            assert item.answers[item.correct_answer_num - 1] == months[start + shift]
            assert months[start] in item.answers


def test_the_right_person_is_asked_for(data: DataSet) -> None:
    names = [w for (kind, _), w in variety("eng_Latn").words.items() if kind == "name"]
    for item in data.items["eng_Latn"]:
        if difficulty_of(item) == 2:
            (asked,) = (name for name in names if name in item.question)
            (fact,) = (s for s in item.flores_passage.split(".") if asked in s)
            assert item.answers[item.correct_answer_num - 1] in fact


def test_gold_positions_are_equal_in_number(data: DataSet) -> None:
    counts = Counter(
        (difficulty_of(item), item.part, item.correct_answer_num) for item in data.items["jpn_Jpan"]
    )
    assert all(n == (75 if part == "training" else 25) for (_, part, _), n in counts.items())
    assert len(counts) == 24


def test_options_are_the_same_words_in_every_language(data: DataSet) -> None:
    key_of = {
        code: {(kind, word): key for (kind, key), word in variety(code).words.items()}
        for code in CODES
    }
    kinds = ("country", "language", "month")
    for items in zip(*data.items.values(), strict=True):
        told = {
            tuple(
                next(key for k in kinds if (key := key_of[item.dialect].get((k, answer))))
                for answer in item.answers
            )
            for item in items
        }
        assert len(told) == 1


def test_no_item_stands_twice(data: DataSet) -> None:
    for items in data.items.values():
        assert len({(i.flores_passage, i.question, i.answers) for i in items}) == len(items)


def test_the_arabic_varieties_differ(data: DataSet) -> None:
    arabic = [code for code in CODES if code.endswith("_Arab")]
    assert len(arabic) == 6
    for items in zip(*(data.items[code] for code in arabic), strict=True):
        assert len({item.flores_passage + item.question for item in items}) == 6


def test_korean_particles_fit_every_word() -> None:
    words = variety("kor_Hang").words
    for (kind, _), word in words.items():
        open_syllable = (ord(word[-1]) - 0xAC00) % 28 == 0
        if kind in ("name", "language"):  # 는 and 를 follow a vowel
            assert open_syllable, word
        if kind == "month":  # 로 follows a vowel or ㄹ
            assert word.endswith("월")


def test_french_names_need_no_elision() -> None:
    words = variety("fra_Latn").words
    assert all(
        w[0] not in "AEIOUYHÉ" or w == "Yasmina" for (k, _), w in words.items() if k == "name"
    )


def test_content_depends_on_neither_language_order_nor_other_difficulties(data: DataSet) -> None:
    turned = build_mini(languages=["mlt_Latn", "arb_Arab"], difficulties=(3, 1))
    for code in ("mlt_Latn", "arb_Arab"):
        wanted = [item for item in data.items[code] if difficulty_of(item) in (1, 3)]
        assert list(turned.items[code]) == wanted


def test_same_seed_same_set_and_another_seed_another() -> None:
    again = [build_mini(languages=["eng_Latn"], difficulties=[1], seed=s) for s in (5, 5, 6)]
    assert again[0] == again[1]
    assert again[0].items != again[2].items
    assert again[0].revision != again[2].revision


def test_the_set_is_pinned(data: DataSet) -> None:
    """A change of words or patterns must be meant: it changes every number of the demo."""
    assert data.sha256_by_language()["eng_Latn"][:16] == "86dd87fe93d27c23"
    assert data.sha256_by_language()["arb_Arab"][:16] == "1b08117268d83add"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"languages": ["arb_Arab", "deu_Latn"]}, "has no deu_Latn; it has arb_Arab, arz_Arab"),
        ({"languages": []}, "has no empty list of languages"),
        ({"difficulties": [1, 4]}, "difficulties: 4; the mini set has 1, 2 and 3"),
        ({"difficulties": []}, "difficulties: none given"),
        ({"seed": -1}, "seed: -1; it must be 0 or more"),
    ],
)
def test_bad_requests(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_mini(**{"languages": ["arb_Arab"], **changes})


def test_only_items_of_the_mini_set_have_a_difficulty(data: DataSet) -> None:
    import dataclasses

    item = dataclasses.replace(data.items["arb_Arab"][0], link="https://example.org/1")
    with pytest.raises(ValueError, match="is not of the mini set"):
        difficulty_of(item)
