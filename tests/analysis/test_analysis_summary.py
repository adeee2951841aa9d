"""The last screen of a study."""

from __future__ import annotations

import pandas as pd

from analysis.gains.gain_table import PRIMARY
from analysis.report.summary import SCREEN_MODELS, SCREEN_WIDTH, screen_lines
from analysis.report.verdict import Claim
from analysis.runs.pull import PulledRuns

CONDITION = dict(zip(("arm", "reasoning", "scoring"), PRIMARY, strict=True))


def pulled(notes: tuple[str, ...] = ()) -> PulledRuns:
    return PulledRuns("s", pd.DataFrame(), pd.DataFrame(), ("a", "b"), notes)


def cells(*models: str) -> pd.DataFrame:
    rows = [
        {"model": model, "language": f"{family}{k}", "family": family, "accuracy_base": 0.25,
         "accuracy": 0.75 + 0.125 * k, "gain": 0.5 + 0.125 * k, **CONDITION}
        for model in models for family in ("control", "related", "source") for k in (0, 1)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_each_model_has_a_line_with_its_families_side_by_side() -> None:
    lines = screen_lines(pulled(("odd",)), cells("m"), [Claim("Why?", "Because. " * 30)], "mini")
    assert lines[0] == "Study s: 2 evaluate runs; mini"
    assert lines[2].split() == ["base", "→", "tuned,", "points", "source", "related", "control"]
    assert lines[3].split() == ["m", *["0.250", "→", "0.812", "+56.2"] * 3]
    assert max(map(len, lines)) <= SCREEN_WIDTH
    assert lines[-1] == "1 note on these runs: see the report."


def test_long_names_and_many_models_fit() -> None:
    names = [f"{'long-name-' * 5}{k}" for k in range(SCREEN_MODELS + 3)]
    lines = screen_lines(pulled(), cells(*names), [], "")
    assert max(map(len, lines)) <= SCREEN_WIDTH
    assert "and 3 more models" in lines


def test_a_family_that_was_not_scored_has_no_column_and_no_means_no_table() -> None:
    some = cells("m")
    lines = screen_lines(pulled(), some[some["family"] != "control"], [], "")
    assert "control" not in lines[2] and len(lines[3].split()) == 9
    none = screen_lines(pulled(), some.assign(gain=float("nan")), [], "")
    assert none == ["Study s: 2 evaluate runs", ""]
