"""The hub's loading path, run on local folders that are laid out as repositories."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from xling.data import BELEBELE_REVISION, load_data, load_hub

CODES = ("arb_Arab", "eng_Latn")


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(params=["configurations", "splits"])
def repository(request, tmp_path: Path) -> Callable[[dict[str, list[dict]]], str]:
    """Lay rows out as Belebele has had them: by configuration, or by split."""

    def write(rows) -> str:
        place = tmp_path / "belebele-like"
        (place / "data").mkdir(parents=True)
        lines = ["---", "configs:"]
        if request.param == "splits":
            lines += ["- config_name: default", "  data_files:"]
        for code, listed in rows.items():
            text = "\n".join(json.dumps(made) for made in listed)
            (place / "data" / f"{code}.jsonl").write_text(text)
            if request.param == "splits":
                lines += [f"  - split: {code}", f"    path: data/{code}.jsonl"]
            else:
                lines += [f"- config_name: {code}", "  data_files:"]
                lines += ["  - split: test", f"    path: data/{code}.jsonl"]
        (place / "README.md").write_text("\n".join([*lines, "---", ""]))
        return str(place)

    return write


def test_both_layouts(row, repository) -> None:
    rows = {code: [row(k, dialect=code) for k in (1, 2, 3)] for code in CODES}
    place = repository(rows)
    data = load_hub(place, revision="abc", languages=["eng_Latn", "arb_Arab"])
    assert data.languages == ("eng_Latn", "arb_Arab")
    assert len(data.item_ids) == 3
    assert (data.name, data.source, data.revision) == ("belebele-like", f"hub:{place}", "abc")


def test_a_language_that_is_not_there(row, repository) -> None:
    place = repository({code: [row(1, dialect=code)] for code in CODES})
    with pytest.raises(ValueError, match=r"has no heb_Hebr. It has arb_Arab, eng_Latn"):
        load_hub(place, revision="abc", languages=["arb_Arab", "heb_Hebr"])


def test_a_bad_row_is_named(row, repository) -> None:
    place = repository({"eng_Latn": [row(1), row(2, correct_answer_num="7")]})
    with pytest.raises(ValueError, match="@abc eng_Latn row 2: correct_answer_num is 7"):
        load_hub(place, revision="abc", languages=["eng_Latn"])


def test_the_place_says_which_language_it_is(row, repository) -> None:
    place = repository({"eng_Latn": [row(1, dialect="English")]})
    with pytest.warns(UserWarning, match="another dialect .English.; they are taken as eng_Latn"):
        data = load_hub(place, revision="abc", languages=["eng_Latn"])
    assert data.items["eng_Latn"][0].dialect == "eng_Latn"


def test_a_repository_without_a_revision() -> None:
    with pytest.raises(ValueError, match="someone/else: no revision given"):
        load_data("hub", repository="someone/else", languages=["eng_Latn"])


@pytest.mark.parametrize("error", [ConnectionError("no route"), FileNotFoundError(""), OSError()])
def test_an_unreachable_hub(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    import datasets

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(datasets, "get_dataset_config_names", fail)
    with pytest.raises(ConnectionError) as caught:
        load_data("hub", languages=["eng_Latn"])
    for said in ("facebook/belebele", BELEBELE_REVISION, "HF_TOKEN", "HF_HUB_OFFLINE", "-P data="):
        assert said in str(caught.value)
