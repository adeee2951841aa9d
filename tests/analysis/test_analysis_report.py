"""The report: its verdict, that hostile text stays inert, and that the page stands alone."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from simulated_records import FAMILY, accuracies_of, frame_of, study

from analysis.estimates import SCALE_DEPENDENT, Estimate
from analysis.gains.comparisons import Comparisons, StudyDesign, compare_runs
from analysis.report.findings import Findings, RunSource, StudyContext
from analysis.report.heat import heat_table
from analysis.report.render import safe_link, write_report
from analysis.report.verdict import classify, verdict
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
NEGATIVE: dict = {"estimate": -0.08, "ci_low": -0.13, "ci_high": -0.03}


@pytest.mark.parametrize(
    ("on_points", "on_logit", "equivalence", "expected"),
    [
        (row(), row(scale="logit"), tost(0.9), "differs"),
        (row(), row(scale="logit"), tost(0.01), "small but real"),
        (row(**NULL), row(scale="logit", **NULL), tost(0.01), "excluded"),
        (row(**NULL), row(scale="logit", **NULL), tost(0.2), "cannot tell"),
        (row(**NULL), row(scale="logit", **NULL), None, "cannot tell"),
        (row(), row(scale="logit", **NULL), tost(0.9), "depends on the scale"),
        (row(), row(scale="logit", **NEGATIVE), tost(0.9), "depends on the scale"),
        (row(status=SCALE_DEPENDENT), row(scale="logit"), None, "depends on the scale"),
        (row(), None, tost(0.9), "differs"),
        (row(p=0.03, p_holm=0.06), row(scale="logit", p=0.03, p_holm=0.06), None, "cannot tell"),
        (row(estimate=None, ci_low=None, ci_high=None, p=None, p_holm=None), None, None,
         "no number"),
        (None, None, None, "no number"),
    ],
)  # fmt: skip
def test_each_class(
    on_points: Estimate | None,
    on_logit: Estimate | None,
    equivalence: Estimate | None,
    expected: str,
) -> None:
    assert classify(on_points, on_logit, equivalence) == expected


def test_a_difference_of_groups_is_not_undone_by_a_wide_interval_in_logits() -> None:
    wide, opposite = row(scale="logit", **NULL), row(scale="logit", **NEGATIVE)
    assert classify(row(), wide, tost(0.9), removable=False) == "differs"
    assert classify(row(), wide, tost(0.01), removable=False) == "small but real"
    assert classify(row(), opposite, None, removable=False) == "depends on the scale"
    assert classify(row(**NULL), row(scale="logit"), None, removable=False) == (
        "depends on the scale"
    )


def test_the_verdict_has_its_numbers_and_never_the_word() -> None:
    mde = Estimate("MDE of D", "points", "power_ttest2n", "languages", estimate=0.096)
    published = replace(
        row(), estimand="D (published regression)", estimator="linear_regression", unit="cells",
        estimate=0.04, ci_low=0.02, ci_high=0.06, p=0.0001, p_holm=None,
    )  # fmt: skip
    rows = [row(), row("I", **NULL), row(scale="logit", estimate=0.41), tost(0.8), mde, published]
    found = verdict(rows, 0.05)
    assert found.headline == (
        "Gains differ by family: related languages gained more than controls, "
        "+8.2 points (95 % interval +3.1 to +13.3)."
    )
    text = " ".join(found.sentences)
    for said in (
        "Holm's p = 0.020",
        "sampling unit: languages, 3 related and 3 control, 7 models",
        "+0.41 logits",
        "±4.1 points (90 % interval −2.0 to +4.1)",
        "bound of ±5 points is not met",
        "true D of 9.6 points would be found 80 times in 100",
        "the data cannot tell whether there is an interaction: +1.0 points",
        "gives +4.0 points (95 % interval +2.0 to +6.0, p < 0.001), −4.2 points away from D (+8.2)",
        "regression to the mean",
    ):
        assert said in text
    assert "significant" not in found.headline + text


def test_headlines_of_the_other_classes() -> None:
    null = [row(**NULL), row(scale="logit", **NULL)]
    assert verdict([*null, tost(0.01)], 0.05).headline.startswith(
        "No family difference as large as ±5 points: +1.0 points"
    )
    assert "cannot tell" in verdict(null, 0.05).headline
    assert "Any D between −3.0 and +5.0 points" in " ".join(verdict(null, 0.05).sentences)
    lower = [row(**NEGATIVE), row(scale="logit", **NEGATIVE), tost(0.01)]
    assert "gained less" in verdict(lower, 0.1).headline
    assert "less than ±10 points" in verdict(lower, 0.1).headline
    none = row(
        estimate=None, ci_low=None, ci_high=None, p=None, p_holm=None, status="zero variance"
    )
    assert verdict([none], 0.05).headline.endswith("because: zero variance.")
    assert "no such estimate" in verdict([], 0.05).headline
    with pytest.raises(ValueError, match="equivalence bound"):
        verdict([], 0.0)


def test_another_arms_rows_do_not_count() -> None:
    other = replace(row(), estimand="D (shuffled-labels, direct, answer-token)")
    models = replace(row(), unit="models")
    assert "no such estimate" in verdict([other, models], 0.05).headline


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
    assert len(pictures) == 10 and all(a["role"] == "img" and a["aria-label"] for a in pictures)
    assert "naive slope (biased)" in page.text and "Not run" not in page.text
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
