"""Rows and folders that the tests of the data room share."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

Row = dict[str, Any]


@pytest.fixture
def row() -> Callable[..., Row]:
    """Make a good row, with changes."""

    def make(number: int = 1, **changes: Any) -> Row:
        made = {
            "link": f"https://example.org/{(number + 1) // 2}",
            "question_number": number,
            "flores_passage": "The cat sat on the mat.",
            "question": "Where did the cat sit?",
            "mc_answer1": "on the mat",
            "mc_answer2": "on the hat",
            "mc_answer3": "on the bat",
            "mc_answer4": "on the rat",
            "correct_answer_num": "1",
            "dialect": "eng_Latn",
            "ds": "2023-05-03",
        }
        return {**made, **changes}

    return make


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[Mapping[str, Sequence[Row]]], Path]:
    """Write rows by language code into a folder of JSONL files."""

    def write(rows: Mapping[str, Sequence[Row]]) -> Path:
        place = tmp_path / "data"
        place.mkdir(exist_ok=True)
        for code, listed in rows.items():
            lines = [json.dumps({**r, "dialect": code}, ensure_ascii=False) for r in listed]
            (place / f"{code}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return place

    return write
