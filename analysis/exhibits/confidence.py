"""Calibration before and after tuning."""

from __future__ import annotations

from functools import partial

from analysis.exhibits.exhibit import Evidence, Exhibit, target_means
from analysis.figures.before_after import before_after_plot, before_after_table
from analysis.gains.gain_table import PRIMARY
from analysis.tables.fields import Field, make_table, number_field
from xling.records import ARMS


def calibration_exhibit(evidence: Evidence) -> Exhibit | None:
    """Show the expected calibration error by language, before and after, and by model and arm.

    Returns:
        The exhibit; None without option probabilities both before and after.
    """
    table = before_after_table(evidence.measures, "ece", evidence.family, PRIMARY)
    if table.empty:
        return None
    usual = evidence.measures[
        (evidence.measures["reasoning"] == PRIMARY[1])
        & (evidence.measures["scoring"] == PRIMARY[2])
    ]
    means = target_means(usual, ["ece"], evidence.family).groupby(["model", "arm"])["ece"].mean()
    wide = means.unstack("arm")
    arms = [arm for arm in ARMS if arm in wide.columns]
    rows = [
        (Field(str(model)), *(number_field(100 * wide.loc[model, arm], "{:.1f}") for arm in arms))
        for model in wide.index
    ]
    return Exhibit(
        "calibration", "Calibration", "Calibration",
        (
            "Expected calibration error: how far a model's confidence in its answer is from how "
            "often it is right, over ten bins of like confidence (Guo et al. 2017); 0 is perfect. "
            "Chance adds to it, the more the fewer the items and the less sure a model is, so a "
            "change of it is not tested: the table of estimates tests that of squared errors less "
            "what chance adds. The table has each model and arm, mean over target languages, in "
            "per cent.",
        ),
        "Expected calibration error of the four options' probabilities by language, mean over "
        "models: hollow before, full after fine-tuning.",
        "Calibration error by language, before and after fine-tuning",
        partial(
            before_after_plot, table, axis="expected calibration error (%)", names=evidence.names
        ),
        make_table([("model", False), *((arm, True) for arm in arms)], rows),
    )  # fmt: skip
