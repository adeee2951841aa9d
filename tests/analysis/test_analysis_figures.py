"""The figures: what they show, that they are saved, and that their page form is clean."""

from __future__ import annotations

import threading
import xml.etree.ElementTree as ET
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from made_tables import table_of
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from analysis.estimates import Estimate
from analysis.figures.baseline import baseline_plot
from analysis.figures.before_after import answer_mass_plot, answer_mass_table
from analysis.figures.chain_of_thought import chain_of_thought_plot, chain_of_thought_table
from analysis.figures.distance import distance_plot, mean_interval
from analysis.figures.forest import forest_lines, forest_plot
from analysis.figures.headline import headline_lines, headline_plot, shown_interval
from analysis.figures.heatmap import gain_heatmap
from analysis.figures.inline import inline_svg
from analysis.figures.language_names import language_names, top_family_names
from analysis.figures.specifications import specification_plot
from analysis.figures.style import ACCENT, new_figure, robust_limits, save_figure, tip_id
from analysis.figures.two_by_two import _limits as two_by_two_limits
from analysis.figures.two_by_two import two_by_two_means, two_by_two_plot
from analysis.gains.baselines import BaselineGroups
from analysis.gains.gain_table import GainTable
from analysis.tables.fields import number_field
from analysis.tables.numbers import fixed, signed, unsigned_points
from xling.languages import belebele_codes, family_of

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
        one("I", "intersection_union", "models, languages", se=0.02, df=4.0),
        one("B", "crossed_quasi_t", "languages and models", ci_low=-1.6e149, ci_high=1.6e149),
        one("B", "welch", "models", estimate=0.2, ci_low=0.1, ci_high=0.3, se=0.03, df=3.5),
        one("B beyond headroom", "bootstrap", "models and items"),
        one("D", "ttest", "models"),
        one("D", "welch", "languages", se=0.02, df=3.0),
        one("D", "welch", "languages", "logit", estimate=0.3, ci_low=0.1, ci_high=0.5),
        one("D", "random_effects", "families", estimate=None, ci_low=None, ci_high=None, p=None,
            status="needs 3 control families"),
        one("D", "permutation", "languages", ci_low=None, ci_high=None, p=0.1),
        one("D (published regression)", "linear_regression", "cells"),
        one("D (shuffled-labels, direct, answer-token)", "ttest", "languages"),
        one("D at mean baseline", "ols_cluster_robust", "languages", estimate=None, ci_low=None,
            ci_high=None, p=None, status="needs training-split baseline"),
        one("slope naive", "ols", "languages", estimate=-0.5),
        one("slope cross-fitted", "ols", "languages", estimate=0.25),
        one("slope training-split", "ols", "languages", estimate=0.125),
        one("slope between models", "ols", "models", estimate=-2.0),
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
        "headline": headline_plot(estimates(), title="t", bound=0.05, narrow=narrow),
        "two": two_by_two_plot(table(), groups(4), title="t", note="n", narrow=narrow),
        "curve": specification_plot(specifications(), title="t", narrow=narrow),
    }


def table(models: int = 4, related: int = 2, control: int = 3) -> GainTable:
    rng = np.random.default_rng(models)
    before = np.linspace(0.4, 0.7, models)[:, None] + np.zeros(related + control)
    gain = rng.normal(0.2, 0.05, before.shape)
    return table_of(before, before + gain, np.arange(related + control) < related)


def groups(models: int, weak: int = 2) -> BaselineGroups:
    names = [f"m{i}" for i in range(models)]
    group = {name: "weak" if i < weak else "strong" for i, name in enumerate(names)}
    return BaselineGroups(dict.fromkeys(names, 0.5), group, "training split", "ok", "")


def specifications() -> pd.DataFrame:
    left_out = ["", *(f"model: m{i}" for i in range(4)), *(f"language: l{i}" for i in range(9))]
    rows = [
        {"estimand": estimand, "scale": scale, "clip": clip, "test": test, "left_out": gone,
         "estimate": 0.01 * k - 0.02, "ci_low": 0.01 * k - 0.05, "ci_high": 0.01 * k + 0.01,
         "p": 0.01 if k > 5 else None}
        for estimand in ("D", "I")
        for scale, clip in (("points", None), ("logit", "0.01"), ("logit", "0.02"))
        for test in ("pooled", "welch")
        for k, gone in enumerate(left_out)
    ]  # fmt: skip
    return pd.DataFrame(rows).sample(frac=1, random_state=0)


def everything(models: int = 12) -> pd.DataFrame:
    """Gains of twelve models in all 122 languages."""
    rng = np.random.default_rng(2)
    rows = [
        {"model": f"m{m:02}", "language": code, "accuracy_base": 0.5, "n_seeds": 1, "gain": gain,
         "low": gain - 0.05, "high": gain + 0.05,
         "family": family_of(code, source_languages=["arb_Arab"], branch="Semitic")}
        for m in range(models)
        for code in belebele_codes()
        for gain in [rng.normal(0.1, 0.05)]
    ]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize("narrow", [False, True])
def test_every_figure_is_saved_and_put_into_a_page(narrow: bool, tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    for name, figure in all_figures(narrow).items():
        if not narrow:  # files have the wide form
            svg, png = save_figure(figure, tmp_path / name)
            assert ET.parse(svg).getroot().tag.endswith("svg") and png.stat().st_size > 5000
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
        ("D", "welch"),
        ("D", "random_effects"),
        ("D", "ttest"),
        ("D", "permutation"),
        ("D", "ols_cluster_robust"),
        ("D", "linear_regression"),
        ("D", "tost"),
        ("B", "welch"),
        ("B", "crossed_quasi_t"),
        ("B", "bootstrap"),
        ("I", "intersection_union"),
        ("I", "mixed_anova"),
    ]
    assert [line.label for line in lines if line.primary] == [
        "Welch's t-test · languages",
        "Welch's t-test · models",
        "wider of both · models, languages",
    ]
    assert set(lines[0].rows) == {"points", "logit"} and lines[4].estimate is None
    assert lines[9].label.startswith("beyond headroom")
    over_models = Estimate("D", "points", "ttest", "models", estimate=0.1)
    assert forest_lines([over_models])[0].label == "t-test \N{MIDDLE DOT} models"
    figure = forest_plot(estimates(), title="", bound=0.05)
    words = [text.get_text() for text in figure.axes[0].texts]
    assert any("needs training-split" in word for word in words)
    assert any("+5.0 [−1.0, +11.0]" in word for word in words)
    assert [shade.get_datalim(figure.axes[0].transData).intervalx.tolist()
            for shade in figure.axes[0].collections] == [[-5.0, 5.0]] * 2  # fmt: skip
    unknown = [
        replace(row, estimate=None, ci_low=None, ci_high=None, p=None, status="chance unknown")
        if row.scale == "logit" else row for row in estimates()
    ]  # fmt: skip
    alone = forest_plot(unknown, title="", bound=0.05)
    assert len(alone.axes) == 1 and alone.texts[0].get_text() == "No logits: chance unknown"
    with pytest.raises(ValueError, match="no estimate of D, B or I"):
        forest_plot([], title="", bound=0.05)


def test_an_absurd_interval_leaves_the_axis_with_an_arrow() -> None:
    axes = forest_plot(estimates(), title="", bound=0.05, narrow=True).axes[0]
    low, high = axes.get_xlim()
    assert -60 < low < -1 and 30 < high < 80
    arrows = {line.get_marker(): line.get_xdata()[0] for line in axes.lines
              if line.get_marker() in "<>"}  # fmt: skip
    assert arrows == {"<": low, ">": high}
    assert any("+5.0 [< −9999, > +9999]" in text.get_text() for text in axes.texts)
    centre = np.zeros(9)
    limits = robust_limits(centre, np.full(9, -1.0), np.append(np.ones(8), 1e200), margin=0)
    assert limits == (-1, 5)


def test_the_headline_shows_the_intervals_that_words_go_by() -> None:
    lines = headline_lines(estimates())
    assert [(line.claim, line.label) for line in lines] == [
        ("D", "by languages"),
        ("D", "by families"),
        ("B", "by models"),
        ("B", "beyond headroom"),
        ("I", "by models and languages"),
    ]
    half = stats.t.ppf(1 - 0.05 / 6, 3.0) * 0.02
    assert shown_interval(lines[0]) == pytest.approx((0.05 - half, 0.05 + half))
    assert shown_interval(lines[3]) == (-0.01, 0.11)  # no se: its own 95 % interval
    arms = [
        Estimate(f"D ({name})", "points", "welch", "languages", value, 0.01, 3.0)
        for name, value in (
            ("finetuned - control-source", 0.1),
            ("finetuned - control-source, without kin of the control source", 0.2),
        )
    ]
    of_arms = [line for line in headline_lines([*estimates(), *arms]) if "source" in line.label]
    assert [line.row.estimate for line in of_arms] == [0.2]
    thought = Estimate(
        "accuracy finetuned - chain-of-thought", "points", "tost", "models", 0.1, 0.02, 5.0
    )
    last = headline_lines([*estimates(), thought])[-1]
    assert last.claim == "C" and shown_interval(last) == thought.interval_at(0.95)
    axes = headline_plot(estimates(), title="", bound=0.05).axes[0]
    words = [text.get_text() for text in axes.texts]
    assert "needs 3 control families" in words and "+3.0 [−1.0, +7.0] 95 %" not in words
    assert "+5.0 [−1.0, +11.0] 95 %" in words
    marks = [line.get_markerfacecolor() for line in axes.lines if line.get_marker() == "o"]
    assert [face == "white" for face in marks] == [True, False, True, True]
    with pytest.raises(ValueError, match="no estimate of D"):
        headline_plot([row for row in estimates() if row.estimate is None], title="", bound=0.05)


def test_the_two_by_two_picture_shows_means_with_t_intervals() -> None:
    found = table()
    means = two_by_two_means(found, groups(4))
    assert [(m.group, m.family) for m in means] == [
        ("weak", "related"), ("weak", "control"), ("strong", "related"), ("strong", "control"),
    ]  # fmt: skip
    by_model = found.gain["points"][2:, 2:].mean(axis=1)
    limits = stats.ttest_1samp(by_model, 0).confidence_interval(0.95)
    assert (means[3].low, means[3].high) == pytest.approx((limits.low, limits.high))
    assert means[3].mean == pytest.approx(by_model.mean()) and means[3].unit == "models"
    axes = two_by_two_plot(found, groups(4), title="").axes[0]
    names = [label.get_text().split("\n") for label in axes.get_xticklabels()]
    assert [name[0] for name in names] == ["weak: m0, m1", "strong: m2, m3"]
    gap = 100 * (means[0].mean - means[1].mean)
    assert names[0][1] == f"related − control: {gap:+.1f}".replace("-", "−")


def test_the_two_by_two_picture_has_a_height_where_nothing_was_gained() -> None:
    mean = two_by_two_means(table(), groups(4))[0]
    low, high = two_by_two_limits([replace(mean, values=0 * mean.values, low=None, high=None)])
    assert low < 0 < high


def test_the_two_by_two_picture_with_one_model_a_group_and_without_groups() -> None:
    found = table(3)
    means = two_by_two_means(found, groups(3))
    assert [mean.unit for mean in means] == ["models", "models", "languages", "languages"]
    limits = stats.ttest_1samp(found.gain["points"][2, 2:], 0).confidence_interval(0.95)
    assert (means[3].low, means[3].high) == pytest.approx((limits.low, limits.high))
    legend = two_by_two_plot(found, groups(3), title="").legends[0].get_texts()
    assert legend[-1].get_text() == "95 % interval: weak over models, strong over languages"
    single = two_by_two_means(table(2, related=1), groups(2, weak=1))
    assert single[0].low is None and single[1].low is not None
    nothing = BaselineGroups({}, {}, "none", "needs training-split baseline", "")
    with pytest.raises(ValueError, match="needs training-split baseline"):
        two_by_two_plot(found, nothing, title="")
    with pytest.raises(ValueError, match="a related and a control"):
        two_by_two_plot(table(2, related=0), groups(2, weak=1), title="")
    found.gain["points"][1, 2] = np.nan
    with pytest.raises(ValueError, match="no gain of m1/l2"):
        two_by_two_plot(found, groups(3), title="")


def test_slopes_are_drawn_where_they_hold() -> None:
    def segments(axes: Axes, style: str, colour: str = "#000000") -> list[np.ndarray]:
        return [np.column_stack(line.get_data()) for line in axes.lines
                if line.get_linestyle() == style and line.get_color() == colour
                and len(line.get_xdata()) == 2 and line.get_linewidth() > 1]  # fmt: skip

    drawn = gains()
    drawn.loc[drawn["model"] == "b", "accuracy_base"] += 0.2
    axes = baseline_plot(drawn, title="", slopes=estimates()).axes[0]
    targets = drawn[drawn["family"] != "source"]
    centre = 100 * targets.groupby("model")[["accuracy_base", "gain"]].mean().to_numpy()
    for style, slope in (("-", 0.25), ("--", -0.5)):
        found = segments(axes, style)
        assert len(found) == len(MODELS)
        for ends, (x, y) in zip(found, centre, strict=True):
            assert np.diff(ends[:, 1]) / np.diff(ends[:, 0]) == pytest.approx(slope)
            assert np.interp(x, *ends.T) == pytest.approx(y)
            assert np.ptp(ends[:, 0]) == pytest.approx(6)  # as wide as the model's points
    (between,) = segments(axes, "-", ACCENT)
    assert between[:, 0] == pytest.approx(centre[:, 0])
    assert np.diff(between[:, 1]) / np.diff(between[:, 0]) == pytest.approx(-2)
    assert np.interp(centre[:, 0].mean(), *between.T) == pytest.approx(centre[:, 1].mean())
    own = drawn.pivot(index="model", columns="language", values="accuracy_base")
    other = baseline_plot(drawn, title="", baseline=own, slopes=estimates()).axes[0]
    assert not segments(other, "--")  # no item is shared there: the naive slope holds nowhere
    (ends, _) = segments(other, "-")
    assert np.diff(ends[:, 1]) / np.diff(ends[:, 0]) == pytest.approx(0.125)


def test_the_specification_curve_is_sorted_and_its_dots_stand_below() -> None:
    table = specifications()
    figure = specification_plot(table, title="")
    curve, logit, dots = figure.axes[0], figure.axes[1], figure.axes[2]
    heights = curve.collections[-1].get_offsets()[:, 1].tolist()
    chosen = table[(table["estimand"] == "D") & (table["scale"] == "points")]
    assert heights == pytest.approx(sorted(100 * chosen["estimate"]))
    labels = [text.get_text() for text in dots.get_yticklabels()]
    assert labels == ["test: pooled", "welch", "left out: none", "a language (9)", "a model (4)"]
    x, rows = dots.collections[0].get_offsets().T.astype(int)
    assert np.bincount(rows).tolist() == [14, 14, 2, 18, 8]
    ordered = chosen.sort_values("estimate", kind="stable")
    assert x[rows == 0].tolist() == np.flatnonzero(ordered["test"] == "pooled").tolist()
    assert curve.get_xlabel() == "28 specifications: 22 above 0, 16 with p < 0.05"
    assert [axes.get_ylabel() for axes in (curve, logit, *figure.axes[4:6])] == [
        "D (points)", "D (guess-corrected logits)", "I (points)", "I (guess-corrected logits)",
    ]  # fmt: skip
    alone = specification_plot(chosen, title="", narrow=True)
    assert len(alone.axes) == 2
    with pytest.raises(ValueError, match="no estimate of D, B or I"):
        specification_plot(table.assign(estimate=np.nan), title="")


@pytest.mark.parametrize("narrow", [False, True])
def test_languages_can_be_read_where_there_are_122(narrow: bool) -> None:
    codes = belebele_codes()
    names = language_names(codes)
    assert len(set(names.values())) == 122
    assert names["npi_Latn"] == "Nepali (Latin)" and names["npi_Deva"] == "Nepali (Devanagari)"
    assert names["hau_Latn"] == "Hausa" and language_names(["npi_Latn"])["npi_Latn"] == "Nepali"
    families = top_family_names(codes)
    assert families["eus_Latn"] == "Basque" and families["mlt_Latn"] == "Afro-Asiatic"
    figure = distance_plot(
        everything(2), title="", distance=dict.fromkeys(codes, 6), names=names,
        top_families=families, note="a note", narrow=narrow,
    )  # fmt: skip
    assert figure.get_figheight() < (24 if narrow else 9)
    assert len(figure.axes) == (1 if narrow else 3)
    figure.draw_without_rendering()
    shown: list[str] = []
    for axes in figure.axes:
        labels = axes.get_yticklabels()
        boxes = [label.get_window_extent() for label in labels]
        assert all(a.y0 > b.y1 for a, b in pairwise(boxes))  # none covers the next
        assert all(box.x0 >= 0 for box in boxes)
        shown += [label.get_text() for label in labels if label.get_fontweight() == "normal"]
    assert {text.split(" · ")[0] for text in shown} == set(names.values())
    note = next(text for text in figure.texts if text.get_text() == "a note")
    legend = figure.legends[0].get_window_extent()
    assert note.get_window_extent().y1 < legend.y0
    assert legend.y1 < min(axes.get_tightbbox().y0 for axes in figure.axes)


def test_a_heatmap_of_122_languages_has_them_as_rows() -> None:
    found = everything(2)
    found.loc[0, "gain"] = -0.0004
    axes = gain_heatmap(found, title="", names=language_names(belebele_codes())).axes[0]
    labels = {text.get_text() for text in axes.get_yticklabels()}
    assert len(labels) == 122 and "Nepali (Latin) (npi_Latn)" in labels
    words = [text.get_text() for text in axes.texts]
    assert "0.0" in words and not {"-0.0", "−0.0", "+0.0"} & set(words)
    assert [word for word in words if word.isalpha()] == ["source", "related", "control"]


def test_a_rounded_zero_has_no_sign() -> None:
    assert [signed(-0.0004, 1), signed(0.04, 1), signed(-0.06, 1), signed(2, 0)] == [
        "0.0", "0.0", "−0.1", "+2",
    ]  # fmt: skip
    assert number_field(-0.04, "{:.1f}").text == "0.0"
    assert number_field(-0.06, "{:.1f}").text == "-0.1"
    assert fixed(-0.4, 0) == "0" and fixed(-1.6, 0) == "−2" and unsigned_points(-1e-9) == "0"


def test_a_figure_is_saved_as_the_same_bytes(tmp_path: Path) -> None:
    def saved(folder: str) -> list[bytes]:
        figure = two_by_two_plot(table(), groups(4), title="t")
        return [path.read_bytes() for path in save_figure(figure, tmp_path / folder / "two")]

    assert saved("a") == saved("b")


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
