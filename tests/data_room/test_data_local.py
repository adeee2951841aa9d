"""Folders of JSONL, good and bad, and the real ones where they are present."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

from xling.data import load_folder

SHARED = Path(__file__).parents[3] / "shared" / "data"


def two(row):
    return {code: [row(k) for k in (1, 2, 3)] for code in ("eng_Latn", "deu_Latn")}


def test_a_good_folder(row, folder) -> None:
    place = folder(two(row))
    data = load_folder(place, languages=["deu_Latn", "eng_Latn"])
    assert data.languages == ("deu_Latn", "eng_Latn")
    assert (data.name, data.source) == ("data", f"folder:{place}")
    assert len(data.item_ids) == 3


def test_revision_is_of_the_content_alone(row, folder) -> None:
    place = folder(two(row))
    before = load_folder(place, languages=["eng_Latn", "deu_Latn"])
    turned = load_folder(place, languages=["deu_Latn", "eng_Latn"])
    assert before.revision == turned.revision
    assert len(before.revision) == 64
    changed = two(row)
    changed["deu_Latn"][0]["question"] = "Wo?"
    after = load_folder(folder(changed), languages=["eng_Latn", "deu_Latn"])
    assert before.revision != after.revision
    same, other = before.sha256_by_language(), after.sha256_by_language()
    assert same["eng_Latn"] == other["eng_Latn"]
    assert same["deu_Latn"] != other["deu_Latn"]


def test_line_separators_byte_order_mark_and_blank_lines(row, folder) -> None:
    place = folder({"eng_Latn": [row(1, question="one\u2028two\x85?"), row(2)]})
    file = place / "eng_Latn.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n\r\n"))
    data = load_folder(place, languages=["eng_Latn"])
    assert [i.question[:3] for i in data.items["eng_Latn"]] == ["one", "Whe"]


def test_missing_folder_and_files(row, folder, tmp_path) -> None:
    with pytest.raises(ValueError, match="nowhere does not exist"):
        load_folder(tmp_path / "nowhere", languages=["eng_Latn"])
    place = folder(two(row))
    with pytest.raises(ValueError, match="is a file, not a folder"):
        load_folder(place / "eng_Latn.jsonl", languages=["eng_Latn"])
    with pytest.raises(
        ValueError,
        match=r"lacks heb_Hebr.jsonl, mlt_Latn.jsonl. It has deu_Latn.jsonl, eng_Latn.jsonl",
    ):
        load_folder(place, languages=["eng_Latn", "heb_Hebr", "mlt_Latn"])
    (tmp_path / "bare").mkdir()
    with pytest.raises(ValueError, match="It has no .jsonl file"):
        load_folder(tmp_path / "bare", languages=["eng_Latn"])
    with pytest.raises(ValueError, match="no languages were asked for"):
        load_folder(place, languages=[])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{not json", r"eng_Latn.jsonl:2: not JSON .*one whole JSON object"),
        (b'{"a": 1} {"b": 2}', r"eng_Latn.jsonl:2: not JSON"),
        (b"[" * 100_000, r"eng_Latn.jsonl:2: not JSON"),
        (b"[1, 2]", r"eng_Latn.jsonl:2: a list; each line must be a JSON object"),
        (b"{}", r"eng_Latn.jsonl:2: missing field link"),
        (b'{"link": "\xff"}', r"eng_Latn.jsonl:2: not UTF-8 \(byte 11 of the line\)"),
    ],
)
def test_malformed_lines_name_file_and_line(row, folder, line, message) -> None:
    place = folder({"eng_Latn": [row(1)]})
    with (place / "eng_Latn.jsonl").open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(ValueError, match=message):
        load_folder(place, languages=["eng_Latn"])


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_file(folder, content) -> None:
    place = folder({})
    (place / "eng_Latn.jsonl").write_text(content)
    with pytest.raises(ValueError, match=r"eng_Latn.jsonl: the file is empty"):
        load_folder(place, languages=["eng_Latn"])


def test_rows_of_another_language(row, folder) -> None:
    place = folder({"eng_Latn": [row(1)]})
    (place / "deu_Latn.jsonl").write_text(json.dumps(row(1)))
    with pytest.raises(ValueError, match=r"deu_Latn.jsonl:1: dialect is 'eng_Latn'"):
        load_folder(place, languages=["deu_Latn"])


def test_languages_that_are_not_parallel(row, folder) -> None:
    rows = two(row)
    del rows["deu_Latn"][1]
    with pytest.raises(ValueError, match="not parallel: 1 items of eng_Latn are not in deu_Latn"):
        load_folder(folder(rows), languages=["eng_Latn", "deu_Latn"])


@pytest.mark.skipif(not (SHARED / "belebele").is_dir(), reason="genuine Belebele is not here")
def test_genuine_belebele() -> None:
    with pytest.warns(
        UserWarning, match="2 items .*Maori_culture#2 .*German_judge_.*#1 "
    ) as caught:
        data = load_folder(SHARED / "belebele", languages=["eng_Latn", "deu_Latn", "ind_Latn"])
    assert len(caught) == 1
    assert len(data.item_ids) == 900
    assert len({item.passage_id for item in data.items["eng_Latn"]}) == 488


@pytest.mark.skipif(not (SHARED / "sib200_mc").is_dir(), reason="sib200_mc is not here")
def test_sib200_mc() -> None:
    codes = [file.stem for file in sorted((SHARED / "sib200_mc").glob("*.jsonl"))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load_folder(SHARED / "sib200_mc", languages=codes)
    parts = [item.part for item in data.items["arb_Arab"]]
    assert (len(codes), parts.count("training"), parts.count("heldout")) == (14, 800, 204)
