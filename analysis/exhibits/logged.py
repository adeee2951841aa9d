"""What runs say in their metrics alone: cloze normalisations, lengths of reasonings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.exhibits.exhibit import Evidence, Exhibit
from analysis.figures.style import FAMILY_ORDER
from analysis.tables.fields import Field, Table, make_table, number_field
from xling.records import ARMS

CLOZE_METRICS = (
    "acc_raw", "acc_per_token", "acc_per_char", "acc_norm", "acc_uncond", "acc_mutual_info",
)  # fmt: skip
_KEYS = ["model", "arm", "family"]


def metric_means(evidence: Evidence, names: Sequence[str], **where: str) -> pd.DataFrame:
    """Average metrics `<name>/<code>` by model, arm and family, over seeds and languages.

    Args:
        evidence: What the analysis has.
        names: Of the metrics, before the slash.
        where: Values of the runs' parameters, such as scoring.

    Returns:
        Columns model, arm, family and the names; only what runs logged, NaN where a metric is
        missing; in the order of arms and families.
    """
    rows = [
        {"model": run.params["cfg.model"], "arm": run.params["cfg.arm"],
         "family": evidence.family[code], "name": name, "value": value}
        for run in evidence.runs
        if all(run.params[f"cfg.{key}"] == wanted for key, wanted in where.items())
        for key, value in run.metrics.items()
        for name, _, code in [key.partition("/")]
        if name in names and code in evidence.family and np.isfinite(value)
    ]  # fmt: skip
    if not rows:
        return pd.DataFrame(columns=[*_KEYS, *names])
    means = pd.DataFrame(rows).groupby([*_KEYS, "name"])["value"].mean().unstack("name")
    table = means.reindex(columns=list(names)).reset_index()
    table["rank"] = table["arm"].map(ARMS.index)
    table["order"] = table["family"].map(FAMILY_ORDER.index)
    ordered = table.sort_values(["model", "rank", "order"], ignore_index=True)
    return ordered[[*_KEYS, *names]]


def cloze_exhibit(evidence: Evidence) -> Exhibit | None:
    """Show the accuracy of cloze scoring under each normalisation, by arm and family.

    Returns:
        The exhibit; None where no run logged these metrics.
    """
    table = metric_means(evidence, list(CLOZE_METRICS), scoring="cloze")
    if table.empty:
        return None
    means = table.groupby(["arm", "family"], sort=False)[list(CLOZE_METRICS)].mean().reset_index()
    names = [name for name in CLOZE_METRICS if means[name].notna().any()]
    columns = [("arm", False), ("family", False), *((f"{name} %", True) for name in names)]
    rows = [
        (
            *(Field(row[key]) for key in ("arm", "family")),
            *(number_field(100 * row[name], "{:.1f}") for name in names),
        )
        for row in means.to_dict("records")
    ]
    return Exhibit(
        "cloze", "Cloze scoring under each normalisation", "Cloze",
        (
            "Cloze scores the text of each answer without showing the options, so that knowing "
            "the form of the task helps little. Longer answers have lower probability; the "
            "normalisations undo that in different ways, and where they disagree no one of them "
            "should carry a conclusion. Names are those of OLMES (Gu et al. 2024) and "
            "lm-evaluation-harness: the sum of log-probabilities (acc_raw), per token, per "
            "character (acc_per_char counts the space before the answer, acc_norm does not), and "
            "less the answer's log-probability without the question (acc_uncond after "
            "\N{LEFT DOUBLE QUOTATION MARK}Answer:\N{RIGHT DOUBLE QUOTATION MARK}, "
            "acc_mutual_info after nothing). Means over models and languages.",
        ),
        table=make_table(columns, rows),
    )  # fmt: skip


def reasoning_exhibit(evidence: Evidence) -> Exhibit | None:
    """Show the lengths of chain-of-thought reasonings, and how many were cut.

    Returns:
        The exhibit; None where no run logged these metrics.
    """
    table = metric_means(evidence, ["reasoning_tokens", "truncated"], reasoning="cot")
    if table.empty:
        return None
    return Exhibit(
        "reasonings", "Reasonings: length and truncation", "Reasonings",
        (
            "Tokens that a model writes before it answers, and the share of reasonings that "
            "filled the limit. Those are scored as they are; where many are cut, the limit and "
            "not the model may decide the accuracy.",
        ),
        table=_reasoning_table(table),
    )  # fmt: skip


def _reasoning_table(table: pd.DataFrame) -> Table:
    columns = [
        ("model", False), ("arm", False), ("family", False), ("tokens (mean)", True),
        ("truncated %", True),
    ]  # fmt: skip
    rows = [
        (
            *(Field(row[name]) for name in _KEYS),
            number_field(row["reasoning_tokens"], "{:.0f}"),
            number_field(100 * row["truncated"], "{:.1f}"),
        )
        for row in table.to_dict("records")
    ]
    return make_table(columns, rows)
