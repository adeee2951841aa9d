"""The report: that hostile text stays inert, and that the page stands alone."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from simulated_records import FAMILY, accuracies_of, frame_of, study

from analysis.estimates import Estimate
from analysis.estimators.chain_of_thought import AGREEMENT
from analysis.gains.comparisons import Comparisons, StudyDesign, compare_runs
from analysis.report.findings import Findings, RunSource, StudyContext
from analysis.report.heat import heat_table
from analysis.report.render import safe_link, write_report
from analysis.tables.numbers import points
from xling.records import check_records

HOSTILE = "<script>alert(1)</script>"


def row(name: str = "D", scale: str = "points", **changes: object) -> Estimate:
    settings: dict = {
        "estimand": name,
        "scale": scale,
        "estimator": "ttest" if name == "D" else "mixed_anova",
        "unit": "languages",
        "estimate": 0.082,
        "ci_low": 0.031,
        "ci_high": 0.133,
        "df": 4.0,
        "p": 0.01,
        "p_holm": 0.02,
        "n_models": 7,
        "n_related": 3,
        "n_control": 3,
    } | changes
    return Estimate(**settings)


def tost(p: float, low: float = -0.02, high: float = 0.041) -> Estimate:
    return row(estimator="tost", p=p, p_holm=None, ci_low=low, ci_high=high)


NULL: dict = {"estimate": 0.01, "ci_low": -0.03, "ci_high": 0.05, "p": 0.5, "p_holm": 0.6}


class Page(HTMLParser):
    """Tags with their attributes, ids and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def report(folder: Path) -> str:
    rng = np.random.default_rng(4)
    base = {HOSTILE: 0.3, "a $\\frac$ b": 0.6, 'c"onclick="x': 0.5}
    frame = study(rng, base=base, n_items=40, n_training=40, language_sd=0.05)
    thought = [
        frame_of(rng.random(40) < 0.5, model=m, language=c).assign(reasoning="cot")
        for m in base
        for c in FAMILY
    ]
    frame = pd.concat([frame, *thought], ignore_index=True)
    gone = (frame["model"] == HOSTILE) & (frame["language"] == "kor_Hang")
    frame = check_records(frame[~(gone & (frame["arm"] == "finetuned"))])
    compared = compare_runs(frame, accuracies_of(frame), StudyDesign(FAMILY))
    findings = Findings(
        f"s {HOSTILE}",
        compared,
        [
            row(note=HOSTILE),
            row("I", **NULL),
            row(scale="logit"),
            tost(0.5),
            Estimate("slope naive", "points", "ols", "languages", estimate=-0.3),
        ],
        notes=["<img src=https://example.org/x onerror=alert(3)>"],
    )
    context = StudyContext(
        FAMILY,
        0.05,
        names={"heb_Hebr": 'He"brew\' <i>', "kor_Hang": "Korean"},
        distance={"mlt_Latn": 2},
        description="<b onmouseover=alert(2)>",
        note="<style>*{display:none}</style>",
        command="</pre><script>alert(4)</script>",
        sources=[
            RunSource("id1", "n", HOSTILE, "base", 0, "direct", "cloze", "d", "</pre><img src=x>",
                      "javascript:alert(1)")
        ],
    )  # fmt: skip
    path = write_report(folder / "new/report.html", findings, context)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    return report(tmp_path_factory.mktemp("report"))


@pytest.mark.slow
def test_hostile_text_is_inert(text: str) -> None:
    page = Page(text)
    names = [tag for tag, _ in page.tags]
    assert names.count("script") == 1 and names.count("style") == 1
    assert not {"img", "iframe", "object", "link", "base", "form"} & set(names)
    assert names.count("i") == 2  # the two of the template itself
    assert not [a for _, attributes in page.tags for a in attributes if a.startswith("on")]
    assert HOSTILE in page.text  # shown as text, not run
    assert "javascript:" not in text


def test_the_page_loads_nothing(text: str) -> None:
    for tag, attributes in Page(text).tags:
        for name in ("src", "href", "data", "action", "poster", "srcset"):
            value = attributes.get(name)
            assert value is None or value.startswith("#"), (tag, name, value)
    assert "@import" not in text and "url(http" not in text and "@font-face" not in text
    for name in ("localStorage", "sessionStorage", "fetch(", "XMLHttpRequest", "document.cookie"):
        assert name not in text


def test_ids_are_unique_and_all_pointers_lead_somewhere(text: str) -> None:
    page = Page(text)
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    pointed = set(re.findall(r"url\(#([^)]+)\)", text))
    pointed |= {(a["href"] or "")[1:] for _, a in page.tags if (a.get("href") or "")[:1] == "#"}
    assert pointed and pointed <= set(ids)


def test_every_section_and_figure_is_there(text: str) -> None:
    page = Page(text)
    order = ["verdict", "gains", "contrasts", "baseline", "distance", "thought", "mass",
             "estimates", "cells", "methods", "runs"]  # fmt: skip
    assert [a["id"] for t, a in page.tags if t == "h2"] == order
    pictures = [a for t, a in page.tags if t == "svg"]
    assert len(pictures) == 11 and all(a["role"] == "img" and a["aria-label"] for a in pictures)
    assert "within models" in page.text and "Not run" not in page.text
    tips = [a["title"] or "" for t, a in page.tags if t == "span" and "title" in a]
    assert any("missing cell" in tip and "Korean" in tip for tip in tips)
    assert any("95 % interval" in tip and "n = 40 items" in tip for tip in tips)
    assert all(a.get("tabindex") == "0" for t, a in page.tags if t == "span" and "title" in a)


def test_an_empty_study_still_has_a_report(tmp_path: Path) -> None:
    frame = check_records(study(np.random.default_rng(1), base={"a": 0.4}, arms=()))
    for records in (frame, frame[:0]):  # with the base model's answers, and with accuracies alone
        compared = compare_runs(records, accuracies_of(frame), StudyDesign(FAMILY))
        assert_says_what_is_missing(tmp_path / "empty.html", compared)


def assert_says_what_is_missing(path: Path, compared: Comparisons) -> None:
    write_report(path, Findings("s", compared, []), StudyContext(FAMILY, 0.05, names={}))
    text = path.read_text(encoding="utf-8")
    said = Page(text).text
    assert "no such estimate" in said and "Not run: chain-of-thought" in said
    assert "There are no warnings." in said and "<svg" not in text


def test_reasoning_without_item_records_is_not_called_not_run(tmp_path: Path) -> None:
    frame = check_records(study(np.random.default_rng(1), base={"a": 0.4}, n_items=20))
    compared = compare_runs(frame, accuracies_of(frame), StudyDesign(FAMILY))
    row = Estimate(AGREEMENT, "correlation", "pearson_split_half", "models", status="no records")
    path = tmp_path / "report.html"
    write_report(path, Findings("s", compared, [row]), StudyContext(FAMILY, 0.05, names={}))
    said = Page(path.read_text(encoding="utf-8")).text
    assert "No verdict on reasoning: no records" in said and "Not run" not in said
    assert "Not available: no model has item records of base, base with reasoning" in said


def test_missing_cells_are_hatched_with_their_status(tmp_path: Path) -> None:
    frame = study(np.random.default_rng(1), base={"a": 0.4, "b": 0.5}, n_items=20, n_training=0)
    gone = (frame["model"] == "b") & (frame["language"] == "mlt_Latn") & (frame["arm"] != "base")
    frame = check_records(frame[~gone])
    cells = compare_runs(frame, accuracies_of(frame), StudyDesign(FAMILY)).cells
    table = heat_table(cells, ("finetuned", "direct", "answer-token"), {}, None)
    assert table.families == (("source", 1), ("related", 3), ("control", 3))
    place = [code for code, _ in table.languages].index("mlt_Latn")
    cell = dict(table.rows)["b"][place]
    assert cell.background == "" and "missing cell b/mlt_Latn" in cell.tip
    whole = dict(table.rows)["a"][place]
    gain = cells[(cells["model"] == "a") & (cells["language"] == "mlt_Latn")]["gain"].item()
    assert whole.text == points(gain)


def test_only_web_addresses_become_links() -> None:
    assert safe_link("https://x.org/run") == "https://x.org/run"
    assert safe_link("javascript:alert(1)") == safe_link(" https://x") == safe_link("") == ""
