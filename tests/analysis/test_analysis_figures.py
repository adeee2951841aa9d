"""The figures: what they show, that they are saved, and that their page form is clean."""

from __future__ import annotations

import threading
import xml.etree.ElementTree as ET
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from analysis.estimates import Estimate
from analysis.figures.baseline import baseline_plot
from analysis.figures.before_after import answer_mass_plot, answer_mass_table
from analysis.figures.chain_of_thought import chain_of_thought_plot, chain_of_thought_table
from analysis.figures.distance import distance_plot, mean_interval
from analysis.figures.forest import forest_lines, forest_plot
from analysis.figures.heatmap import gain_heatmap
from analysis.figures.inline import inline_svg
from analysis.figures.style import new_figure, save_figure, tip_id

pytestmark = pytest.mark.slow

FAMILY = {"arb_Arab": "source", "heb_Hebr": "related", "mlt_Latn": "related",
          "fra_Latn": "control", "kor_Hang": "control"}  # fmt: skip
MODELS = ("a $1 <b>", "b")


def gains() -> pd.DataFrame:
    rows = [
        {"model": m, "language": c, "family": f, "accuracy_base": 0.4 + 0.02 * k, "n_seeds": 1,
         "gain": 0.01 * k + 0.05 * i, "low": 0.01 * k - 0.03, "high": 0.01 * k + 0.1}
        for i, m in enumerate(MODELS)
        for k, (c, f) in enumerate(FAMILY.items())
    ]  # fmt: skip
    return pd.DataFrame(rows)


def summary() -> pd.DataFrame:
    rows = [
        (m, c, arm, reasoning, "answer-token", seed, value, mass, 2.0)
        for m in MODELS
        for c in FAMILY
        for arm, reasoning, seed, value, mass in (
            ("base", "direct", 0, 0.4, 0.5), ("base", "cot", 0, 0.5, 0.9),
            ("finetuned", "direct", 0, 0.6, 0.8), ("finetuned", "direct", 1, 0.7, 1.0),
        )
    ]  # fmt: skip
    return pd.DataFrame(
        rows,
        columns=["model", "language", "arm", "reasoning", "scoring", "seed", "accuracy",
                 "answer_mass", "position_entropy"],
    )  # fmt: skip


def estimates() -> list[Estimate]:
    def one(
        name: str, estimator: str, unit: str, scale: str = "points", **more: object
    ) -> Estimate:
        numbers: dict = {"estimate": 0.05, "ci_low": -0.01, "ci_high": 0.11, "p": 0.09} | more
        return Estimate(name, scale, estimator, unit, **numbers)

    return [
        one("D", "tost", "languages"),
        one("I", "mixed_anova", "languages"),
        one("D", "ttest", "models"),
        one("D", "ttest", "languages"),
        one("D", "ttest", "languages", "logit", estimate=0.3, ci_low=0.1, ci_high=0.5),
        one("D", "permutation", "languages", ci_low=None, ci_high=None, p=0.1),
        one("D (published regression)", "linear_regression", "cells"),
        one("D (shuffled-labels, direct, answer-token)", "ttest", "languages"),
        one("D at mean baseline", "ols_cluster_robust", "languages", estimate=None, ci_low=None,
            ci_high=None, p=None, status="needs training-split baseline"),
        one("slope naive", "ols", "languages", estimate=-0.5),
        one("MDE of D", "power", "languages"),
    ]  # fmt: skip


def all_figures(narrow: bool) -> dict[str, Figure]:
    condition = ("finetuned", "direct", "answer-token")
    return {
        "forest": forest_plot(estimates(), title="t", bound=0.05, narrow=narrow),
        "baseline": baseline_plot(gains(), title="t", slopes=estimates(), narrow=narrow),
        "distance": distance_plot(gains(), title="t", distance={"mlt_Latn": 2}, narrow=narrow),
        "mass": answer_mass_plot(
            answer_mass_table(summary(), FAMILY, condition), title="t", narrow=narrow
        ),
        "thought": chain_of_thought_plot(
            chain_of_thought_table(summary(), list(FAMILY)), title="t", narrow=narrow
        ),
        "heat": gain_heatmap(gains(), title="a $1 study"),
    }


@pytest.mark.parametrize("narrow", [False, True])
def test_every_figure_is_saved_and_put_into_a_page(narrow: bool, tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    for name, figure in all_figures(narrow).items():
        paths = save_figure(figure, tmp_path / name)
        assert ET.parse(paths[0]).getroot().tag.endswith("svg") and paths[1].stat().st_size > 5000
        text = inline_svg(figure, f"{name}-x", "what it shows")
        root = ET.fromstring(text)
        assert root.get("role") == "img" and root.get("aria-label") == "what it shows"
        ids = [e.get("id", "") for e in root.iter() if "id" in e.attrib]
        assert len(ids) == len(set(ids)) and all(i.startswith(f"{name}-x-") for i in ids)
        assert "<text" in text and "http" not in text and "<style" not in text
        assert not [c for c in ("#0072b2", "#d55e00", "#ffffff") if c in text.lower()]
        widths = [float(part) for part in root.get("viewBox", "").split()]
        assert not narrow or name == "heat" or widths[2] < 290
    assert dict(matplotlib.rcParams) == before


def test_inline_svg_is_the_same_each_time_and_escapes() -> None:
    def draw() -> str:
        figure = new_figure(3, 2)
        figure.add_subplot().plot([1], [1], marker="o", gid=tip_id("<script>&\"' x: +1"))
        return inline_svg(figure, "k", 'la"<bel')

    text = draw()
    assert text == draw() and "<script" not in text
    titles = [e.text for e in ET.fromstring(text).iter("title")]
    assert titles == ["<script>&\"' x: +1"]
    with pytest.raises(ValueError, match="figure key"):
        inline_svg(new_figure(1, 1), 'a"b', "x")


def test_inline_svg_works_in_threads() -> None:
    found: list[str] = []

    def work(key: str) -> None:
        figure = new_figure(3, 2)
        figure.add_subplot().set_xlabel("words")
        found.append(inline_svg(figure, key, "x"))

    workers = [threading.Thread(target=work, args=(f"k{i}",)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 4 and all(">words</text>" in text for text in found)


def test_forest_has_the_primary_arms_rows_in_order() -> None:
    lines = forest_lines(estimates())
    assert [(line.contrast, line.estimator) for line in lines] == [
        ("D", "ttest"),
        ("D", "ttest"),
        ("D", "permutation"),
        ("D", "ols_cluster_robust"),
        ("D", "linear_regression"),
        ("D", "tost"),
        ("I", "mixed_anova"),
    ]
    assert lines[0].label.endswith("languages") and set(lines[0].rows) == {"points", "logit"}
    assert lines[3].estimate is None
    figure = forest_plot(estimates(), title="", bound=0.05)
    words = [text.get_text() for text in figure.axes[0].texts]
    assert any("needs training-split" in word for word in words)
    assert any("+5.0 [−1.0, +11.0]" in word for word in words)
    band = figure.axes[0].patches[0].get_extents().transformed(figure.axes[0].transData.inverted())
    assert (band.x0, band.x1) == pytest.approx((-5, 5))
    with pytest.raises(ValueError, match="no estimate of D or I"):
        forest_plot([], title="", bound=0.05)


def test_slopes_are_drawn_through_the_targets_mean() -> None:
    axes = baseline_plot(gains(), title="", slopes=estimates()).axes[0]
    line = next(line for line in axes.lines if "naive" in str(line.get_label()))
    x, y = (np.asarray(values, float) for values in line.get_data())
    assert (y[1] - y[0]) / (x[1] - x[0]) == pytest.approx(-0.5)
    targets = gains()[gains()["family"] != "source"]
    middle = np.interp(100 * targets["accuracy_base"].mean(), x, y)
    assert middle == pytest.approx(100 * targets["gain"].mean())


def test_languages_stand_in_order_of_distance() -> None:
    steps = {"heb_Hebr": 4, "mlt_Latn": 2, "fra_Latn": 9, "kor_Hang": 9}
    axes = distance_plot(gains(), title="", distance=steps, names={"mlt_Latn": "Maltese"}).axes[0]
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert labels == ["arb_Arab", "Maltese · 2", "heb_Hebr · 4", "fra_Latn · 9", "kor_Hang · 9"]


def test_mean_interval() -> None:
    low, high = mean_interval(np.array([1.0, 2.0, 3.0]))
    assert (low, high) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5), abs=1e-6)
    assert all(np.isnan(mean_interval(np.array([1.0]))))


def test_answer_mass_and_chain_of_thought_average_over_seeds() -> None:
    mass = answer_mass_table(summary(), FAMILY, ("finetuned", "direct", "answer-token"))
    assert mass["family"].tolist()[0] == "source"
    assert mass[["before", "after"]].drop_duplicates().to_numpy().tolist() == [[0.5, 0.9]]
    thought = chain_of_thought_table(summary(), list(FAMILY))
    assert thought.loc["b"].tolist() == pytest.approx([0.4, 0.5, 0.65])
    without = summary()[summary()["reasoning"] == "direct"]
    assert chain_of_thought_table(without, list(FAMILY)).empty
    with pytest.raises(ValueError, match="chain-of-thought"):
        chain_of_thought_plot(chain_of_thought_table(without, list(FAMILY)), title="")
    with pytest.raises(ValueError, match="before and after"):
        answer_mass_plot(mass.iloc[:0], title="")
    with pytest.raises(ValueError, match="no gains to draw"):
        distance_plot(gains().iloc[:0], title="")
