"""Exhibits: there where their runs are, true to the numbers, inert, and in every form."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.estimates import Estimate
from analysis.estimators.specifications import SPECIFICATION_COLUMNS
from analysis.exhibits.all_exhibits import study_exhibits
from analysis.exhibits.exhibit import Evidence
from analysis.exhibits.logged import metric_means
from analysis.figures.family_dots import family_dots_plot
from analysis.figures.orders import ORDERS_COLUMNS, orders_plot
from analysis.figures.positions import positions_plot
from analysis.gains.comparisons import StudyDesign, compare_runs
from analysis.measures.formats import format_measures, trained_shares
from analysis.report.arm_sentences import arm_sentences
from analysis.report.findings import StudyContext
from analysis.runs.pull import PulledRuns
from analysis.simulation.answers import run_records, simulate_correct
from analysis.simulation.design import Design
from analysis.study_analysis import Analysis, analyze_records
from analysis.tables.fields import table_frame
from xling.records import RUN_COLUMNS, check_records
from xling.tracking import LoggedRun

DESIGN = Design(
    models=3, related=3, control=3, items=60, training_items=60, effect=0.1, cot=True, cloze=True,
    permuted=True, arms=("finetuned", "control-source", "shuffled-labels"),
)  # fmt: skip
HOSTILE = "sim-<script>-$x_1$"
EXHIBITS = ["arms", "parts", "positions", "orders", "cloze", "reasonings", "calibration",
            "routing-1", "specifications-d"]  # fmt: skip


def routing() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [
        (code, layer, expert, 10, share)
        for code in DESIGN.languages
        for layer in range(3)
        for expert, share in enumerate(rng.dirichlet(np.ones(4)))
    ]
    return pd.DataFrame(rows, columns=["language", "layer", "expert", "count", "share"])


def pulled(design: Design = DESIGN, **metrics: dict[str, float]) -> PulledRuns:
    """A simulated study as it would be pulled; metrics by scoring or reasoning."""
    runs, frames, accuracies, routed = [], [], [], {}
    answers = simulate_correct(design, np.random.default_rng(1))
    for number, (key, rows) in enumerate(run_records(answers, design)):
        model = {"sim-weak-1": HOSTILE}.get(key[0], key[0])
        frame = check_records(rows.assign(model=model))
        cell = dict(zip(RUN_COLUMNS, (model, *key[1:]), strict=True))
        named = metrics.get(cell["scoring"], {}) | metrics.get(cell["reasoning"], {})
        logged = {f"{k}/{code}": v for k, v in named.items() for code in design.languages}
        params = {f"cfg.{name}": str(value) for name, value in cell.items()}
        runs.append(LoggedRun(f"r{number}", f"n{number}", params, logged, {}, 0, "FINISHED"))
        frames.append(frame)
        heldout = frame[frame["part"] == "heldout"]
        means = heldout.groupby("language")["correct"].mean().rename("accuracy").reset_index()
        accuracies.append(means.assign(**cell, has_records=True, run_id=f"r{number}"))
        if model == HOSTILE and key[3:] == ("direct", "answer-token"):
            routed[f"r{number}"] = routing()
    return PulledRuns(
        "demo", pd.concat(frames, ignore_index=True), pd.concat(accuracies, ignore_index=True),
        tuple(run.run_id for run in runs), (), tuple(runs), routed,
    )  # fmt: skip


LOGGED: dict[str, dict[str, float]] = {
    "cloze": {"acc_raw": 0.41, "acc_per_char": 0.43, "acc_uncond": 0.52},
    "cot": {"reasoning_tokens": 131.0, "truncated": 0.125},
    "permuted": {"order_agreement": 0.815},
}


@pytest.fixture(scope="module")
def whole() -> PulledRuns:
    return pulled(**LOGGED)


def analyse(runs: PulledRuns, folder: Path, **changes: object) -> Analysis:
    reading = StudyContext(
        family=DESIGN.families, bound=0.05, names={"fra_Latn": "Fr<ench>"}, left_out=("fra_Latn",),
        trained_on=("arb_Arab",),
    )  # fmt: skip
    return analyze_records(runs, replace(reading, **changes), folder)


@pytest.fixture(scope="module")
def found(whole: PulledRuns, tmp_path_factory: pytest.TempPathFactory) -> tuple[Analysis, Path]:
    folder = tmp_path_factory.mktemp("whole")
    return analyse(whole, folder), folder


class Page(HTMLParser):
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


@pytest.mark.slow
def test_a_study_with_everything_shows_everything(found: tuple[Analysis, Path]) -> None:
    analysis, folder = found
    assert set(analysis.files) == {path for path in folder.rglob("*") if path.is_file()}
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    heads = [a["id"] for tag, a in page.tags if tag == "h2"]
    assert heads[heads.index("mass") + 1 : heads.index("estimates")] == EXHIBITS
    links = {(a.get("href") or "")[1:] for tag, a in page.tags if tag == "a"}
    assert set(EXHIBITS) <= links
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert [tag for tag, _ in page.tags].count("script") == 1 and HOSTILE in page.text
    for name in ("arms", "parts", "positions", "orders", "calibration", "routing-1"):
        assert (folder / f"figures/{name}.svg").exists()
        assert (folder / f"figures/{name}.png").stat().st_size > 5000
    for name in ("parts", "orders", "cloze", "reasonings", "calibration", "routing-1"):
        assert (folder / f"{name}.csv").exists() and (folder / f"{name}.tex").exists()


@pytest.mark.slow
def test_left_out_languages_are_named(found: tuple[Analysis, Path]) -> None:
    page = Page((found[1] / "report.html").read_text(encoding="utf-8"))
    assert "was tuned on Fr<ench>, which its row leaves out." in page.text
    assert "was tuned on Fr<ench>, which no part counts." in page.text
    row = next(r for r in found[0].estimates if r.estimand == "D (finetuned - control-source)")
    assert row.n_control == 2 and "fra_Latn" in row.note


@pytest.mark.slow
def test_a_plain_study_shows_calibration_and_specifications_alone(tmp_path: Path) -> None:
    design = Design(models=2, related=2, control=2, items=20, training_items=20)
    analyse(replace(pulled(design), routing={}), tmp_path)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    heads = [a["id"] for tag, a in page.tags if tag == "h2"]
    assert heads[heads.index("mass") + 1 : heads.index("estimates")] == [
        "calibration", "specifications-d",
    ]  # fmt: skip
    assert "Relatedness or receptivity" not in page.text and "shuffled" not in page.text


def evidence(runs: PulledRuns) -> Evidence:
    compared = compare_runs(runs.records, runs.accuracies, StudyDesign(DESIGN.families))
    measures = format_measures(runs.records)
    return Evidence(
        compared, [], measures, trained_shares(runs.records), runs.runs,
        pd.DataFrame(columns=["model", "arm", "reasoning", "scoring", "language", "layer",
                              "entropy", "divergence"]),
        DESIGN.families, {}, pd.DataFrame(columns=list(SPECIFICATION_COLUMNS)),
    )  # fmt: skip


def test_tables_have_the_runs_numbers(whole: PulledRuns) -> None:
    shown = {exhibit.name: exhibit for exhibit in study_exhibits(evidence(whole))}
    cloze = table_frame(shown["cloze"].table)
    assert list(cloze.columns) == ["arm", "family", "acc_raw %", "acc_per_char %", "acc_uncond %"]
    assert cloze["family"].tolist() == ["source", "related", "control"] * 2
    assert set(cloze["acc_per_char %"]) == {"43.0"}
    thought = table_frame(shown["reasonings"].table)
    assert set(thought["tokens (mean)"]) == {"131"} and set(thought["truncated %"]) == {"12.5"}
    assert len(thought) == 3 * 3
    orders = table_frame(shown["orders"].table)
    assert set(orders["orders that agree %"]) == {"81.5"}
    rows = whole.records
    targets = rows[
        (rows["part"] == "heldout") & (rows["language"] != "arb_Arab") & (rows["model"] == HOSTILE)
        & (rows["arm"] == "base") & (rows["reasoning"] == "direct")
    ]  # fmt: skip
    means = targets.groupby("scoring")["correct"].mean()
    mine = orders[(orders["model"] == HOSTILE) & (orders["arm"] == "base")]
    assert mine["accuracy %"].item() == f"{100 * means['answer-token']:.1f}"
    assert mine["averaged %"].item() == f"{100 * means['permuted']:.1f}"
    assert "parts" not in shown  # no estimates were given


def test_metrics_that_are_absent_or_not_finite_are_left_out(whole: PulledRuns) -> None:
    known = evidence(whole)
    assert metric_means(known, ["nothing"]).empty
    odd = [replace(run, metrics={"truncated/heb_Hebr": float("nan"), "truncated/xxx": 1.0})
           for run in whole.runs]  # fmt: skip
    assert metric_means(replace(known, runs=odd), ["truncated"]).empty


@pytest.mark.parametrize("narrow", [False, True])
def test_every_exhibit_draws_in_both_widths(whole: PulledRuns, narrow: bool) -> None:
    for exhibit in study_exhibits(evidence(whole)):
        if exhibit.draw is not None:
            figure = exhibit.draw(title="", note="", narrow=narrow)
            assert exhibit.label and exhibit.caption
            assert not narrow or figure.get_figwidth() < 4


def test_dots_stand_at_their_numbers_and_nothing_is_refused() -> None:
    table = pd.DataFrame(
        {"label": ["a", "a"], "family": ["related", "control"], "estimate": [0.1, -0.02],
         "low": [0.05, np.nan], "high": [0.15, np.nan]}
    )  # fmt: skip
    axes = family_dots_plot(table, title="t", axis="points").axes[0]
    drawn = [tuple(np.asarray(line.get_xdata(), float)) for line in axes.lines]
    assert (5.0, 15.0) in [tuple(np.round(x, 6)) for x in drawn]
    assert (-2.0,) in drawn and (10.0,) in drawn
    tips = [line.get_gid() for line in axes.lines if line.get_gid()]
    assert tips[1] == "tip:a, control: \N{MINUS SIGN}2.0 points"
    with pytest.raises(ValueError, match="no estimate to draw"):
        family_dots_plot(table[:0], title="", axis="x")
    with pytest.raises(ValueError, match="no arm"):
        positions_plot({}, title="")
    with pytest.raises(ValueError, match="both plain and averaged"):
        orders_plot(pd.DataFrame(columns=list(ORDERS_COLUMNS)), title="")


def row(name: str, scale: str, **numbers: object) -> Estimate:
    return Estimate(name, scale, "x", "languages", **numbers)


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ({"estimate": 0.08, "se": 0.02, "df": 30.0, "p": 0.01}, "cannot be told"),
        ({"estimate": -0.08, "se": 0.02, "df": 30.0, "p": 0.01},
         "adds less in related languages than in controls"),
        ({"estimate": 0.02, "se": 0.025, "df": 30.0, "p": 0.4}, "cannot tell"),
        ({"status": "needs 2 control languages"}, "because: needs 2 control languages"),
    ],
)  # fmt: skip
def test_the_verdict_on_relatedness(numbers: dict[str, object], said: str) -> None:
    (sentence,) = arm_sentences([row("D (finetuned - control-source)", "points", **numbers)])
    assert said in sentence
    if "p" in numbers:
        assert f"{100 * numbers['estimate']:+.1f}".replace("-", "\N{MINUS SIGN}") in sentence


def test_the_verdict_on_format() -> None:
    share = row("format share of the gain", "ratio", estimate=0.34, ci_low=-0.02, ci_high=0.53)
    (sentence,) = arm_sentences([share])
    assert "brings 34 % of the gain" in sentence
    assert "95 % interval \N{MINUS SIGN}2 to 53 %" in sentence
    (sentence,) = arm_sentences([row("format share of the gain", "ratio", status="zero")])
    assert "cannot be told, because: zero" in sentence
    assert arm_sentences([]) == []
