"""Parts of the gain, and what the report says of them, where an arm has gaps or is absent."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest
from planted_arms import EVEN, Row, arm_records, by_arm, planted, row_of

from analysis.estimates import Estimate
from analysis.exhibits.arms import arms_exhibit, parts_exhibit
from analysis.tables.fields import table_frame


@pytest.fixture(scope="module")
def records() -> pd.DataFrame:
    return arm_records()


# Arms that are not whole, or not there


def has_number(row: Estimate) -> bool:
    return None not in (row.estimate, row.ci_low, row.ci_high, row.p)


def lacks_a_model(row: Row) -> bool:
    return row["arm"] == "control-source" and row["model"] == "d"


@pytest.mark.slow
def test_a_gap_in_one_arm_leaves_the_parts_of_the_others(records: pd.DataFrame) -> None:
    def gap(row: Row) -> bool:
        return lacks_a_model(row) and row["language"] == "kor_Hang"

    whole = planted(records, by_arm(EVEN, EVEN))
    for without in (gap, lacks_a_model):
        found = planted(records, by_arm(EVEN, EVEN), without=without, left_out=["jpn_Jpan"])
        for part in ("format", "all of it", "task and relatedness"):
            for group in ("related", "control", "related - control"):
                row = row_of(found, f"part of the gain: {part} ({group})")
                assert has_number(row) and "control-source is left out" in row.note
        form = row_of(found, "part of the gain: format (control)")
        assert form.n_control == 3  # no control source, so none of its languages to leave out
        mean = row_of(whole, "part of the gain: format (control)").estimate
        assert form.estimate == pytest.approx(mean, abs=0.01)
        exhibit = parts_exhibit(found)
        assert exhibit is not None
        text = " ".join(exhibit.text)
        assert "control-source is left out" in text and "was tuned on" not in text


def test_related_languages_need_no_controls_for_their_parts(records: pd.DataFrame) -> None:
    found = planted(records, by_arm(EVEN, EVEN), left_out=["jpn_Jpan", "kor_Hang"])
    for part in ("format", "task in any language", "relatedness", "all of it"):
        assert has_number(row_of(found, f"part of the gain: {part} (related)"))
        for group in ("control", "related - control"):
            row = row_of(found, f"part of the gain: {part} ({group})")
            assert (row.status, row.estimate) == ("needs 2 control languages", None)


def test_seeds_are_those_of_the_arm_with_fewest(records: pd.DataFrame) -> None:
    def second(row: Row) -> bool:
        return row["arm"] == "control-source" and row["seed"] == 1

    more = records[records["arm"] != "base"].assign(seed=1)
    found = planted(
        pd.concat([records, more], ignore_index=True), by_arm(EVEN, EVEN), without=second
    )
    for name in (
        "part of the gain: relatedness (related)",
        "part of the gain: format (control)",
        "D (finetuned - control-source)",
    ):
        row = row_of(found, name)
        assert row.n_seeds == 1
        assert "seeds: finetuned 2, control-source 1" in row.note


def test_text_speaks_of_the_control_source_only_where_its_runs_are(records: pd.DataFrame) -> None:
    there = planted(records, by_arm(EVEN, EVEN), left_out=["jpn_Jpan"])
    absent = planted(
        records, by_arm(EVEN, EVEN), left_out=["jpn_Jpan"],
        without=lambda row: row["arm"] == "control-source",
    )  # fmt: skip
    for make, what in ((arms_exhibit, "its row leaves out"), (parts_exhibit, "no part counts")):
        shown = make(replace(there, names={"jpn_Jpan": "Japanese"}))
        assert shown is not None and f"was tuned on Japanese, which {what}" in " ".join(shown.text)
        shown = make(absent)
        assert shown is not None and "tuned on" not in " ".join(shown.text)
    table = parts_exhibit(there)
    assert table is not None and table.table is not None
    assert len(table_frame(table.table)) == 4
