"""Routing tables and figures: planted distributions before and after."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import jensenshannon

from analysis.exhibits.experts import _table
from analysis.figures.inline import inline_svg
from analysis.figures.routing import routing_plot
from analysis.figures.style import FAMILY_COLOURS, save_figure
from analysis.measures.routing import (
    TABLE_COLUMNS,
    check_routing_frame,
    read_routing_file,
    routing_by_family,
    routing_changes,
    routing_table,
)
from xling.routing import routing_frame, routing_metrics, write_routing

FAMILY = {"arb_Arab": "source", "ary_Arab": "source", "heb_Hebr": "related",
          "mlt_Latn": "related", "fra_Latn": "control"}  # fmt: skip
SOURCES = ["arb_Arab", "ary_Arab"]
NAMES = {"arb_Arab": "Modern Standard Arabic", "heb_Hebr": "Hebrew $1", "mlt_Latn": "A Maltese"}
TUNED = ("finetuned", "direct", "answer-token")


def run(seed: int, layers: tuple[int, ...] = (1, 2, 5)) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    counts = {code: rng.integers(0, 50, (len(layers), 6)) for code in FAMILY}
    return routing_frame(counts, layers=layers)


def frames() -> dict[tuple[str, str, int, str, str], pd.DataFrame]:
    return {
        ("a $1 <b>", "finetuned", 1, "direct", "answer-token"): run(1),
        ("a $1 <b>", "finetuned", 0, "direct", "answer-token"): run(2),
        ("a $1 <b>", "base", 0, "direct", "answer-token"): run(3),
        ("a $1 <b>", "base", 0, "cot", "answer-token"): run(4),
        ("lone", "base", 0, "direct", "answer-token"): run(5),
    }


def changes() -> pd.DataFrame:
    return routing_changes(routing_table(frames(), SOURCES), FAMILY, TUNED)


def test_table_agrees_with_scipy_and_with_the_runs_metrics() -> None:
    table = routing_table(frames(), SOURCES)
    assert tuple(table.columns) == TABLE_COLUMNS and len(table) == 5 * 5 * 3
    assert table["seed"].dtype == np.int64
    assert table[["model", "arm", "seed"]].drop_duplicates().to_numpy().tolist() == [
        ["a $1 <b>", "base", 0], ["a $1 <b>", "finetuned", 0], ["a $1 <b>", "finetuned", 1],
        ["lone", "base", 0],
    ]  # fmt: skip
    for key, frame in frames().items():
        rows = table[(table[list(TABLE_COLUMNS[:5])] == list(key)).all(axis=1)]
        metrics = routing_metrics(frame, SOURCES)
        means = rows.groupby("language")[["entropy", "divergence"]].mean()
        for code in FAMILY:
            assert means.loc[code, "entropy"] == pytest.approx(metrics[f"routing_entropy/{code}"])
            assert means.loc[code, "divergence"] == pytest.approx(
                metrics[f"routing_divergence/{code}"]
            )
    share = run(3).set_index(["language", "layer"])["share"]
    source = (share["arb_Arab", 5].to_numpy() + share["ary_Arab", 5].to_numpy()) / 2
    row = table[(table["arm"] == "base") & (table["reasoning"] == "direct") & (table["layer"] == 5)
                & (table["language"] == "fra_Latn")].iloc[0]  # fmt: skip
    expected = jensenshannon(share["fra_Latn", 5].to_numpy(), source, base=2) ** 2
    assert row["divergence"] == pytest.approx(expected)
    counts = run(3).groupby(["language", "layer"])["count"].sum()
    assert row["assignments"] == counts["fra_Latn", 5]
    assert routing_table({}, SOURCES).columns.tolist() == list(TABLE_COLUMNS)


def test_closed_forms() -> None:
    counts = {
        "arb_Arab": np.array([[4, 4, 0, 0]]),
        "heb_Hebr": np.array([[400, 400, 0, 0]]),
        "mlt_Latn": np.array([[0, 0, 9, 0]]),
        "fra_Latn": np.array([[2, 2, 2, 2]]),
    }
    key = ("m", "base", 0, "direct", "answer-token")
    table = routing_table({key: routing_frame(counts)}, ["arb_Arab"]).set_index("language")
    assert table["entropy"].to_dict() == pytest.approx(
        {"arb_Arab": 1, "heb_Hebr": 1, "mlt_Latn": 0, "fra_Latn": 2}
    )
    assert table.loc[["arb_Arab", "heb_Hebr"], "divergence"].tolist() == [0, 0]
    assert table.loc["mlt_Latn", "divergence"] == pytest.approx(1)
    # p even over four, q over two: H((3, 3, 1, 1)/8) - (2 + 1)/2
    middle = -(2 * 3 / 8 * np.log2(3 / 8) + 2 / 8 * np.log2(1 / 8))
    assert table.loc["fra_Latn", "divergence"] == pytest.approx(middle - 1.5)


def test_changes_average_seeds_and_pair_the_same_reasoning() -> None:
    table = routing_table(frames(), SOURCES)
    found = changes()
    assert found["model"].unique().tolist() == ["a $1 <b>"]  # the other has no tuned run
    assert found["language"].drop_duplicates().tolist() == list(FAMILY)
    row = found[(found["language"] == "heb_Hebr") & (found["layer"] == 2)].iloc[0]
    place = table[(table["language"] == "heb_Hebr") & (table["layer"] == 2)
                  & (table["model"] == "a $1 <b>") & (table["reasoning"] == "direct")]  # fmt: skip
    for name in ("entropy", "divergence"):
        base = place.loc[place["arm"] == "base", name].item()
        tuned = place.loc[place["arm"] == "finetuned", name]
        assert len(tuned) == 2
        assert row[f"{name}_before"] == base
        assert row[f"{name}_after"] == pytest.approx(tuned.mean())
        assert row[f"{name}_change"] == pytest.approx(tuned.mean() - base)
    assert routing_changes(table, FAMILY, ("finetuned", "cot", "answer-token")).empty
    fewer = routing_changes(table, {"heb_Hebr": "related"}, TUNED)
    assert fewer["language"].unique().tolist() == ["heb_Hebr"]


@pytest.mark.filterwarnings("error")
def test_a_rounded_zero_has_no_sign_and_nothing_warns() -> None:
    found = changes().assign(divergence_change=-1e-5)
    found.loc[found["family"] == "related", "divergence_change"] = -0.25
    table = _table(found)
    column = [row[table.columns.index("change")] for row in table.rows]
    assert [field.text for field in column] == ["0.000", "\N{MINUS SIGN}0.250", "0.000"]
    assert column[1].value == pytest.approx(-0.25)


def test_families_are_means_over_their_languages() -> None:
    families = routing_by_family(changes())
    assert families["family"].tolist() == ["source", "related", "control"]
    assert families["languages"].tolist() == [2, 2, 1]
    related = changes()[changes()["family"] == "related"]
    by_language = related.groupby("language")["divergence_change"].mean()
    assert families.loc[1, "divergence_change"] == pytest.approx(by_language.mean())


def test_files_are_read_and_wrong_ones_are_named(tmp_path: Path) -> None:
    path = tmp_path / "routing.parquet"
    write_routing(run(1), path)
    pd.testing.assert_frame_equal(read_routing_file(path), run(1))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"routing\.parquet: .*repeat the run"):
        read_routing_file(path)
    with pytest.raises(ValueError, match=r"none\.parquet"):
        read_routing_file(tmp_path / "none.parquet")
    good = run(1)
    wrong = {
        "'share' is missing": good.drop(columns="share"),
        "no rows": good.iloc[:0],
        "not finite or is under 0": good.assign(share=-good["share"]),
        "89 rows do not hold each of 5 languages": good.iloc[1:],
        "fra_Latn, layer 2 do not sum": good.assign(
            share=good["share"]
            * np.where((good["language"] == "fra_Latn") & (good["layer"] == 2), 0.9, 1)
        ),
    }
    for words, bad in wrong.items():
        with pytest.raises(ValueError, match=words):
            check_routing_frame(bad)
    key = ("m", "base", 0, "direct", "answer-token")
    with pytest.raises(ValueError, match=r"m/base/0/direct/answer-token: .*'share' is missing"):
        routing_table({key: good.drop(columns="share")}, SOURCES)
    with pytest.raises(ValueError, match="eng_Latn is not in the table"):
        routing_table({key: good}, ["eng_Latn"])


@pytest.mark.slow
@pytest.mark.parametrize("narrow", [False, True])
def test_plot_shows_before_after_and_change(narrow: bool, tmp_path: Path) -> None:
    figure = routing_plot(changes(), title="a $1 study", names=NAMES, note="small", narrow=narrow)
    panels = [axes for axes in figure.axes if axes.images]
    titles = [axes.get_title(loc="left") for axes in panels]
    assert titles == ["before", "after", "after − before"]
    labels = panels[0].get_yticklabels()
    # By family and then by name: A Maltese before Hebrew, ary_Arab after Modern Standard Arabic.
    first = "arb_Arab" if narrow else "Modern Standard Arabic"
    texts = [text.get_text() for text in labels]
    assert texts == [first, "ary_Arab", "A Maltese", r"Hebrew \$1", "fra_Latn"]
    assert [text.get_color() for text in labels] == [
        FAMILY_COLOURS[name] for name in ("source", "source", "related", "related", "control")
    ]
    codes = ["arb_Arab", "ary_Arab", "mlt_Latn", "heb_Hebr", "fra_Latn"]
    for axes, column in zip(panels, ("before", "after", "change"), strict=True):
        expected = changes().pivot(
            index="language", columns="layer", values=f"divergence_{column}"
        )  # fmt: skip
        np.testing.assert_array_equal(axes.images[0].get_array(), expected.loc[codes])
    before, after, change = (axes.images[0].norm for axes in panels)
    assert (before.vmin, before.vmax) == (after.vmin, after.vmax) and before.vmin == 0
    assert change.vmin == -change.vmax
    assert [text.get_text() for text in panels[2].get_xticklabels()] == ["1", "2", "5"]
    paths = save_figure(figure, tmp_path / "routing")
    assert ET.parse(paths[0]).getroot().tag.endswith("svg") and paths[1].stat().st_size > 5000
    root = ET.fromstring(inline_svg(figure, "routing-x", "what it shows"))
    ids = [e.get("id", "") for e in root.iter() if "id" in e.attrib]
    assert len(ids) == len(set(ids)) and "http" not in ET.tostring(root, encoding="unicode")
    assert not narrow or float(root.get("viewBox", "").split()[2]) < 290


def test_plot_wants_one_model() -> None:
    with pytest.raises(ValueError, match="0 models have routing before and after"):
        routing_plot(changes().iloc[:0], title="")
    two = pd.concat([changes(), changes().assign(model="other")])
    with pytest.raises(ValueError, match="2 models"):
        routing_plot(two, title="")


def test_plot_of_equal_routing_is_drawn() -> None:
    same = run(1)
    keys = [("m", arm, 0, "direct", "answer-token") for arm in ("base", "finetuned")]
    table = routing_table(dict.fromkeys(keys, same), SOURCES)
    found = routing_changes(table, FAMILY, TUNED)
    assert (found["divergence_change"] == 0).all()
    figure = routing_plot(found, title="")
    figure.draw_without_rendering()
    assert figure.axes[2].images[0].norm.vmax > 0


@pytest.mark.slow
def test_many_layers_and_languages_keep_few_ticks() -> None:
    rng = np.random.default_rng(0)
    codes = [f"l{index:03d}_Latn" for index in range(120)]
    counts = {code: rng.integers(1, 50, (61, 16)) for code in codes}
    keys = [("m", arm, 0, "direct", "answer-token") for arm in ("base", "finetuned")]
    table = routing_table(dict.fromkeys(keys, routing_frame(counts)), codes[:2])
    family = {code: "source" if code in codes[:2] else "control" for code in codes}
    figure = routing_plot(routing_changes(table, family, TUNED), title="")
    assert 4 <= len(figure.axes[0].get_xticks()) <= 9
    assert len(inline_svg(figure, "k", "x")) < 400_000  # a path a cell would take millions
