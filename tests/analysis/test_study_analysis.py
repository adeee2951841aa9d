"""The whole analysis: files, headline metrics, figures and summary."""

from __future__ import annotations

import csv
import json
import math
import threading
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from simulated_records import FAMILY, accuracies_of, study
from simulated_tables import to_records

from analysis.estimates import COLUMNS, Estimate
from analysis.figures.baseline import baseline_plot, short_codes
from analysis.figures.heatmap import gain_heatmap
from analysis.figures.labels import place_labels
from analysis.figures.style import figure_gains, language_order
from analysis.gains.cells import gain_cells
from analysis.gains.gain_table import PRIMARY
from analysis.report.findings import StudyContext
from analysis.report.verdict import verdict
from analysis.runs.pull import PulledRuns
from analysis.simulation.answers import simulate_correct
from analysis.simulation.design import Design
from analysis.study_analysis import (
    MINI_SET_NOTE,
    Analysis,
    analyze_records,
    compute_findings,
)
from analysis.tables.write import write_table
from xling.records import check_records


def records(**changes: object) -> pd.DataFrame:
    settings: dict = {
        "base": {"a": 0.3, "b/b_1": 0.7},
        "n_items": 40,
        "n_training": 40,
        "language_sd": 0.05,
    } | changes
    return check_records(study(np.random.default_rng(3), **settings))


def analyse(frame: pd.DataFrame, folder: Path, accuracies: pd.DataFrame | None = None) -> Analysis:
    pulled = PulledRuns(
        "demo",
        frame,
        accuracies_of(frame) if accuracies is None else accuracies,
        ("r1", "r2"),
        ("two runs for one cell",),
    )
    reading = StudyContext(
        family=FAMILY,
        distance={"heb_Hebr": 4, "mlt_Latn": 2},
        bound=0.05,
        note=MINI_SET_NOTE,
        names={"heb_Hebr": "Hebrew"},
    )
    return analyze_records(pulled, reading, folder)


@pytest.mark.slow
def test_everything_is_written_and_can_be_read(tmp_path: Path) -> None:
    found = analyse(records(seeds=(0, 1), arms=("finetuned", "shuffled-labels")), tmp_path)
    assert set(found.files) == {p for p in tmp_path.rglob("*") if p.is_file()}
    names = {str(p.relative_to(tmp_path)) for p in found.files}
    assert {
        "report.html",
        "estimates.json",
        "estimates.csv",
        "estimates.tex",
        "figures/contrasts.svg",
        "figures/answer-mass.png",
        "figures/distance.png",
        "cells.csv",
        "cells.tex",
        "languages.csv",
        "languages.tex",
        "figures/gains.svg",
        "figures/gains.png",
        "figures/baseline.svg",
        "figures/baseline.png",
    } <= names
    rows = json.loads(
        (tmp_path / "estimates.json").read_text(),
        parse_constant=lambda c: pytest.fail(f"{c} is not JSON"),
    )
    assert all(tuple(row) == COLUMNS for row in rows)
    assert tuple(Estimate(**row) for row in rows) == found.estimates
    for svg in (p for p in found.files if p.suffix == ".svg"):
        assert ET.parse(svg).getroot().tag.endswith("svg")
    with (tmp_path / "cells.csv").open() as source:
        assert len(list(csv.DictReader(source))) == len(found.cells)
    assert r"b/b\_1" in (tmp_path / "cells.tex").read_text()
    languages = pd.read_csv(tmp_path / "languages.csv")
    assert (languages["gain"] - (languages["tuned"] - languages["base"])).abs().max() < 1e-12


def test_headline_and_summary(tmp_path: Path, undrawn) -> None:
    found = analyse(records(), tmp_path)
    assert all(math.isfinite(value) for value in found.headline.values())
    d = found.estimates[0]
    assert found.headline["D/points"] == d.estimate
    assert found.headline["D/points/p"] == d.p
    assert {
        "B/points", "I/points", "D/points/tost/languages/p", "gain/b/b_1/related",
    } <= set(found.headline)  # fmt: skip
    text = "\n".join(found.summary)
    assert MINI_SET_NOTE in text and "Note: two runs for one cell" in text
    assert "a, related: mean accuracy" in text
    claims = [line for line in found.summary if "98.3 % interval" in line]
    assert len(claims) >= 3 and "D (family) compares 3 related languages with 3" in text


def test_degenerate_studies_still_say_what_they_can(tmp_path: Path, undrawn) -> None:
    frame = records(base={"a": 0.3}, n_training=0)
    base_only = analyse(frame[frame["arm"] == "base"], tmp_path / "base")
    assert base_only.cells.empty and base_only.headline == {}
    assert all(row.status != "ok" for row in base_only.estimates)
    bare = analyse(
        frame.iloc[:0], tmp_path / "bare", accuracies_of(frame).assign(has_records=False)
    )
    assert "7 cells: accuracies only: a gain without an interval" in bare.summary
    assert (tmp_path / "bare/figures/gains.png").exists()
    nothing = frame[~(frame["arm"] == "base")]
    assert analyse(nothing, tmp_path / "none").cells["gain"].isna().all()
    assert not (tmp_path / "none/figures").exists()


def gains_of(frame: pd.DataFrame) -> pd.DataFrame:
    return figure_gains(gain_cells(frame, accuracies_of(frame), FAMILY), PRIMARY)


def test_heatmap_shows_each_gain_in_its_place() -> None:
    gains = gains_of(records())
    order = language_order(gains, {"heb_Hebr": 4, "mlt_Latn": 2, "amh_Ethi": 3})
    assert order == [
        "arb_Arab",
        "mlt_Latn",
        "amh_Ethi",
        "heb_Hebr",
        "fra_Latn",
        "jpn_Jpan",
        "kor_Hang",
    ]
    figure = gain_heatmap(gains, title="t", names={"heb_Hebr": "Hebrew"})
    axes = figure.axes[0]
    ticks = [text.get_text() for text in axes.get_xticklabels()]
    assert "Hebrew (heb_Hebr)" in ticks and "fra_Latn" in ticks
    column = ticks.index("Hebrew (heb_Hebr)")
    place = axes.get_xticks()[column]
    shown = [t.get_text() for t in axes.texts if t.get_position() == (place, 0.5)]
    value = gains[(gains["model"] == "a") & (gains["language"] == "heb_Hebr")]["gain"].item()
    assert shown == [f"{100 * value:+.1f}".replace("-", "\N{MINUS SIGN}")]


def test_whiskers_are_seeds_where_there_are_several() -> None:
    gains = gains_of(records(seeds=(0, 1, 2)))
    cells = gain_cells(records(seeds=(0, 1, 2)), accuracies_of(records(seeds=(0, 1, 2))), FAMILY)
    spread = cells.groupby(["model", "language"])["gain"].agg(["min", "max"])
    drawn = gains.set_index(["model", "language"]).sort_index()
    np.testing.assert_allclose(drawn["low"], spread["min"])
    np.testing.assert_allclose(drawn["high"], spread["max"])
    assert "lowest to highest of 3 seeds" in baseline_plot(gains, title="t").axes[0].get_ylabel()


def test_baseline_axis_says_where_the_baseline_comes_from() -> None:
    gains = gains_of(records())
    assert "shares items with the gain" in baseline_plot(gains, title="t").axes[0].get_xlabel()
    table = pd.DataFrame(0.5, index=["a", "b/b_1"], columns=list(FAMILY))
    figure = baseline_plot(gains, title="t", baseline=table, note=MINI_SET_NOTE)
    assert "training-split questions" in figure.axes[0].get_xlabel()
    assert MINI_SET_NOTE in [text.get_text() for text in figure.texts]


def test_labels_of_crowded_points_do_not_overlap() -> None:
    rng = np.random.default_rng(1)
    figure = matplotlib.figure.Figure(figsize=(10, 6), dpi=100)
    axes = figure.add_subplot()
    x, y = rng.random(40), rng.random(40)
    axes.scatter(x, y)
    place_labels(figure, axes, x, y, ["abc"] * 40, ["black"] * 40, 7.0)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.texts]
    clashes = sum(
        a.shrunk(0.9, 0.9).overlaps(b.shrunk(0.9, 0.9))
        for i, a in enumerate(boxes)
        for b in boxes[:i]
    )
    assert clashes == 0


def test_short_codes_stay_unlike() -> None:
    assert short_codes(["heb_Hebr", "heb_Hebr", "arb_Arab", "arb_Latn"]) == [
        "heb",
        "heb",
        "arb_Arab",
        "arb_Latn",
    ]


def test_drawing_leaves_no_global_state_and_works_in_threads() -> None:
    gains, before = gains_of(records()), dict(matplotlib.rcParams)
    workers = [
        threading.Thread(target=gain_heatmap, args=(gains,), kwargs={"title": "t"})
        for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert dict(matplotlib.rcParams) == before
    with pytest.raises(ValueError, match="no gains to draw"):
        gain_heatmap(gains.iloc[:0], title="t")


def test_latex_escapes_what_would_be_a_command(tmp_path: Path) -> None:
    table = pd.DataFrame({"a_b": [r"50% \input{x} $y$ #1 ~^&"], "v": [0.12345]})
    _, tex = write_table(table, tmp_path / "t", caption=r"100 % of \x_1")
    text = tex.read_text()
    assert r"\input{" not in text and r"50\%" in text and r"\$y\$" in text
    assert r"100 \% of \textbackslash{}x\_1" in text and "0.123" in text


@pytest.mark.parametrize(
    "changes",
    [
        {"related": 1},
        {"related": 1, "folds": 3},
        {"related": 1, "models": 2},
        {"models": 1},
        {"models": 2, "control": 2},
        {"related": 1, "control": 2, "models": 3, "seeds": 2},
        {"models": 4, "folds": 2, "control": 12},
    ],
)
def test_small_designs_have_numbers_or_a_status(changes: dict[str, int]) -> None:
    """Every arm and instrument, with as few languages and models as there may be."""
    design = replace(
        Design(items=40, training_items=40, cot=True, cloze=True, permuted=True,
               arms=("finetuned", "control-source", "shuffled-labels")),
        **changes,
    )  # fmt: skip
    frame = to_records(simulate_correct(design, np.random.default_rng(0)), design)
    pulled = PulledRuns("s", frame, accuracies_of(frame), (), ())
    reading = StudyContext(
        design.families, 0.05, {}, left_out=design.control_source, trained_on=("arb_Arab",)
    )
    rows = compute_findings(pulled, reading).estimates
    d = next(row for row in rows if (row.estimand, row.estimator) == ("D", "welch"))
    assert d.status == "ok" and d.ci_low is not None
    assert all(row.estimate is not None or row.status != "ok" for row in rows if row.p is None)
    said = verdict(rows, 0.05)
    assert all(claim.sentence for claim in said.claims)
