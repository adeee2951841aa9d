"""The report's page: methods as the study has them, rows that have headers, kin of a source."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from simulated_records import FAMILY, accuracies_of, study

from analysis import analyze_run
from analysis.analyze_run import is_kin
from analysis.estimators.contrasts import contrast_rows
from analysis.gains.comparisons import StudyDesign, compare_runs
from analysis.report.findings import Findings, RunSource, StudyContext
from analysis.report.render import write_report
from analysis.runs.pull import PulledRuns
from analysis.runs.registration import Registration
from xling.records import check_records
from xling.study.load import load_study


class Rows(HTMLParser):
    """The rows of all tables: the tags of their cells, with attributes; and the page's text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[tuple[str, dict[str, str | None]]]] = []
        self.opened: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append((tag, dict(attrs)))
            self.opened.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            assert self.opened.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def page(folder: Path, *, folds: int = 1, n_training: int = 40) -> Rows:
    frame: pd.DataFrame = check_records(
        study(
            np.random.default_rng(2), base={"a": 0.4, "b": 0.6}, n_items=24,
            n_training=n_training, folds=folds, language_sd=0.05,
        )
    )  # fmt: skip
    compared = compare_runs(frame, accuracies_of(frame), StudyDesign(FAMILY))
    run = RunSource("id1", "n", "a", "base", 0, "direct", "cloze", "d", "command")
    path = write_report(
        folder / "report.html",
        Findings(
            "s", compared, contrast_rows(compared.primary.table, compared.primary.groups, 0.05)
        ),
        StudyContext(FAMILY, 0.05, names={}, sources=[run]),
    )
    return Rows(path.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_methods_say_how_this_study_tells_weak_from_strong(tmp_path: Path) -> None:
    training, other = "answers to training questions", "questions of the other folds"
    split, folded, neither = (
        page(tmp_path, **settings).text
        for settings in ({}, {"folds": 2, "n_training": 0}, {"n_training": 0})
    )
    assert training in split and other not in split
    assert other in folded and training not in folded
    assert "this study has none" in neither and training not in neither


@pytest.mark.slow
def test_rows_of_data_tables_have_a_header(tmp_path: Path) -> None:
    found = page(tmp_path)
    assert not found.opened
    bodies = [row for row in found.rows if any(tag == "td" for tag, _ in row)]
    heads = [row for row in bodies if row[0][0] == "th"]
    assert len(heads) > 20
    assert all(row[0][1].get("scope") == "row" for row in heads)
    # Only the empty corner of the table of gains is a field without a header before it.
    assert len(bodies) - len(heads) == 1
    assert all(tag == "td" for row in heads for tag, _ in row[1:])


@pytest.mark.parametrize(
    ("code", "sources", "expected"),
    [
        ("spa_Latn", ["fra_Latn"], True),
        ("hin_Deva", ["jpn_Jpan", "fra_Latn"], True),  # Indo-European is a branch they share
        ("fra_Latn", ["fra_Latn", "spa_Latn"], False),  # a source itself, which is left out
        ("jpn_Jpan", ["fra_Latn", "kor_Hang"], False),
        ("eus_Latn", ["fra_Latn", "kor_Hang"], False),
        ("hin_Latn", ["hin_Deva"], True),
        ("spa_Latn", [], False),
    ],
)
def test_kin_share_a_branch_with_a_control_source(
    code: str, sources: list[str], expected: bool
) -> None:
    assert is_kin(code, sources) is expected


def test_a_study_of_all_languages_knows_the_kin_of_its_control_source() -> None:
    extended = load_study("extended")
    empty = pd.DataFrame({"language": []})
    pulled = PulledRuns("x", empty, empty, (), ())
    context = analyze_run.study_context(
        extended, pulled, Registration(settings=extended.planned_analysis), ""
    )
    kin = set(context.kin)
    assert {"spa_Latn", "hin_Deva", "est_Latn", "zul_Latn"} <= kin
    assert not kin & set(extended.languages.control_source)
    assert not kin & {code for code, family in context.family.items() if family != "control"}
    others = [code for code, family in context.family.items() if family == "control"]
    assert len(kin) > len(others) / 2
    plain = load_study("demo")
    if not plain.languages.control_source:
        assert not analyze_run.study_context(
            plain, pulled, Registration(settings=plain.planned_analysis), ""
        ).kin
