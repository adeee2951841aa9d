"""Numbers and colours of the report."""

from __future__ import annotations

import pandas as pd
import pytest

from analysis.estimates import Estimate
from analysis.gains.cells import CONDITION
from analysis.report.all_rows import estimates_table
from analysis.report.heat import readable_ink
from analysis.report.summary import headline_metrics
from analysis.tables.numbers import p_value, p_words, points, signed, unsigned_points


def test_a_slope_is_points_for_each_point_and_a_difference_is_points() -> None:
    numbers: dict = {"estimate": -0.31, "ci_low": -0.4, "ci_high": -0.2, "se": 0.05}
    table = estimates_table(
        [Estimate(name, "points", "ols", "languages", **numbers) for name in ("slope naive", "D")]
    )
    shown = [[field.text for field in row][4:7] for row in table.rows]
    assert shown == [
        ["−0.31", "−0.40 to −0.20", "0.05"],
        ["−31.0", "−40.0 to −20.0", "5.0"],
    ]


def test_numbers() -> None:
    assert points(-0.0352) == "−3.5" and points(0.0001) == "0.0" and points(-0.0001) == "0.0"
    assert signed(0.345, 2) == "+0.34" and unsigned_points(0.05) == "5"
    assert (p_value(0.0001), p_value(None), p_words(0.034, "Holm's p")) == (
        "< 0.001",
        "",
        "Holm's p = 0.034",
    )


def test_what_families_could_have_seen_is_a_metric_of_its_own() -> None:
    rows = [
        Estimate("MDE of D", "points", estimator, unit, estimate=value)
        for estimator, unit, value in (
            ("welch_power", "languages", 0.13), ("noncentral_t", "families", 0.03),
        )
    ]  # fmt: skip
    cells = pd.DataFrame(
        columns=[*CONDITION, "model", "family", "accuracy_base", "accuracy", "gain"]
    )
    found = headline_metrics(rows, cells)
    assert found == {"mde_D/points": 0.13, "mde_D/points/families": 0.03}


@pytest.mark.parametrize("colour", ["#000000", "#ffffff", "#767676", "#053061", "#f4a582"])
def test_ink_is_readable(colour: str) -> None:
    def luminance(text: str) -> float:
        parts = [int(text[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted([luminance(colour), luminance(readable_ink(colour))])
    assert (light + 0.05) / (dark + 0.05) >= 4.5
