"""Data files that are cut off say so; a commit of the hub gives what it gave before."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.analysis.simulated_records import frame_of
from tests.conftest import SHARED
from xling.data import build_mini, load_folder, load_hub
from xling.data.hub import check_pinned
from xling.execution.evaluate.log_results import read_kept, write_parquet
from xling.files.parquet import cut_off
from xling.records import read_records, write_records

SOAK = int(os.environ.get("XLING_SOAK", "1"))
CODES = ("eng_Latn", "fra_Latn")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


@pytest.fixture
def folder(tmp_path) -> Path:
    """The mini set as a folder of JSONL, letters of two and three bytes and all."""
    data = build_mini(languages=["arb_Arab", "fra_Latn"], difficulties=[1])
    target = tmp_path / "data"
    target.mkdir()
    for code, items in data.items.items():
        rows = [json.dumps(vars(item), ensure_ascii=False) for item in items[:30]]
        (target / f"{code}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return target


def test_a_jsonl_file_cut_off_anywhere_says_so(folder):
    path = folder / "arb_Arab.jsonl"
    whole = path.read_bytes()
    ends = {place for place, byte in enumerate(whole, start=1) if byte == 10}
    rng = random.Random(0)
    for length in sorted(rng.sample(range(1, len(whole)), 150 * SOAK)):
        path.write_bytes(whole[:length])
        row = whole[:length].count(b"\n") + 1
        if length in ends or length + 1 in ends:  # between two rows: the others have more
            with pytest.raises(ValueError, match="They are the last ones: is arb_Arab cut off"):
                load_folder(folder, languages=["arb_Arab", "fra_Latn"])
            continue
        begins = whole.rfind(b"\n", 0, length) + 2
        said = rf"arb_Arab.jsonl:{row}: the file is cut off: it ends after {length} bytes, within "
        with pytest.raises(ValueError, match=said + f"a row that begins at byte {begins}"):
            load_folder(folder, languages=["arb_Arab"])


def test_bad_json_in_the_middle_is_not_taken_for_a_cut(folder):
    path = folder / "arb_Arab.jsonl"
    lines = path.read_bytes().split(b"\n")
    for number in (0, 12, 29):  # the last one ends with a line feed as well
        broken = [*lines]
        broken[number] = lines[number][:-40]
        path.write_bytes(b"\n".join(broken))
        with pytest.raises(ValueError, match=rf"arb_Arab.jsonl:{number + 1}: not JSON") as caught:
            load_folder(folder, languages=["arb_Arab"])
        assert "cut off" not in str(caught.value)


def test_a_file_without_a_last_line_feed_is_whole(folder):
    path = folder / "arb_Arab.jsonl"
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert len(load_folder(folder, languages=["arb_Arab"]).item_ids) == 30


@pytest.mark.skipif(not SHARED.is_dir(), reason="genuine Belebele is not here")
def test_genuine_data_cut_off_says_so(tmp_path):
    whole = (SHARED / "belebele" / "eng_Latn.jsonl").read_bytes()
    (tmp_path / "eng_Latn.jsonl").write_bytes(whole[:-2])
    with pytest.raises(ValueError, match=rf"eng_Latn.jsonl:900: .* after {len(whole) - 2} bytes"):
        load_folder(tmp_path, languages=["eng_Latn"])


def test_a_parquet_file_cut_off_anywhere_says_so(tmp_path):
    records, table = tmp_path / "records.parquet", tmp_path / "table.parquet"
    frame = frame_of(np.arange(200) % 3 == 0, model="m", language="heb_Hebr", arm="base")
    write_records(frame, records)
    write_parquet(frame, table)
    for path, read in ((records, read_records), (table, read_kept)):
        whole = path.read_bytes()
        assert not cut_off(path)
        rng = random.Random(1)
        for length in sorted({0, 3, 11, len(whole) - 1, *rng.sample(range(len(whole)), 80 * SOAK)}):
            path.write_bytes(whole[:length])
            with pytest.raises(ValueError, match=rf"{path}: .*truncated.* cut off.*{length} bytes"):
                read(path)


def repository(folder: Path, *, answer: str = "1") -> str:
    """A repository as the pinned commit of Belebele is laid out: a split for each language."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    lines = ["---", "configs:", "- config_name: default", "  data_files:"]
    for code in CODES:
        rows = [
            {
                "link": f"https://example.org/{n}",
                "question_number": 1,
                "flores_passage": f"Passage {n}.",
                "question": "What?",
                **{f"mc_answer{k}": f"{n}-{k}" for k in range(1, 5)},
                "correct_answer_num": answer,
                "dialect": code,
            }
            for n in range(5)
        ]
        text = "\n".join(json.dumps(row) for row in rows) + "\n"
        (folder / "data" / f"{code}.jsonl").write_text(text)
        lines += [f"  - split: {code}", f"    path: data/{code}.jsonl"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))
    return str(folder)


def test_a_commit_gives_what_it_gave_before_or_is_refused(tmp_path):
    place = repository(tmp_path / "belebele-like")
    first = load_hub(place, revision=COMMIT, languages=CODES)
    assert load_hub(place, revision=COMMIT, languages=CODES[::-1]).items == first.items
    repository(tmp_path / "belebele-like", answer="2")
    shutil.rmtree(tmp_path / "datasets")
    load_hub(place, revision="main", languages=CODES)  # a branch moves
    with pytest.raises(ValueError, match=f"at {COMMIT}: the items of eng_Latn have sha256 "):
        load_hub(place, revision=COMMIT, languages=CODES)
    repository(tmp_path / "belebele-like")
    shutil.rmtree(tmp_path / "datasets")
    assert load_hub(place, revision=COMMIT, languages=CODES).items == first.items


def test_a_byte_changed_in_the_cache_of_datasets_is_found(tmp_path):
    place = repository(tmp_path / "belebele-like")
    load_hub(place, revision=COMMIT, languages=CODES)
    (cached,) = (tmp_path / "datasets").rglob("*fra_Latn.arrow")
    whole = cached.read_bytes()
    assert b"Passage 3." in whole
    cached.write_bytes(whole.replace(b"Passage 3.", b"Passage 8."))
    load_hub(place, revision=COMMIT, languages=["eng_Latn"])
    with pytest.raises(ValueError, match="items of fra_Latn .*delete the data set's folder"):
        load_hub(place, revision=COMMIT, languages=CODES)


def test_pins_are_kept_by_repository_commit_and_language():
    check_pinned("owner/a", COMMIT, {"eng_Latn": "1", "fra_Latn": "2"})
    check_pinned("owner/a", COMMIT, {"deu_Latn": "3"})
    check_pinned("owner/b", COMMIT, {"eng_Latn": "9"})
    check_pinned("owner/a", COMMIT[::-1], {"eng_Latn": "9"})
    for code in ("eng_Latn", "fra_Latn", "deu_Latn"):
        with pytest.raises(ValueError, match=f"the items of {code} have sha256 8, but had"):
            check_pinned("owner/a", COMMIT, {code: "8"})
