"""Option positions: what arms prefer, and what averaging over option orders changes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import pandas as pd

from analysis.arrays import Floats
from analysis.estimators.permuted import PERMUTED
from analysis.exhibits.exhibit import Evidence, Exhibit, target_means
from analysis.exhibits.logged import metric_means
from analysis.figures.orders import ORDERS_COLUMNS, orders_plot
from analysis.figures.positions import positions_plot
from analysis.gains.gain_table import PRIMARY
from analysis.measures.formats import BALANCED, GOLD, PREDICTED, PRIOR
from analysis.tables.fields import Field, Table, make_table, number_field
from xling.records import ARMS

_SHUFFLED = "shuffled-labels"


def positions_exhibit(evidence: Evidence) -> Exhibit | None:
    """Show the shares of option positions by arm: right answers, predictions, probability.

    Returns:
        The exhibit; None without an arm of shuffled labels or scoring over option orders.
    """
    rows = evidence.measures
    if not ((rows["arm"] == _SHUFFLED) | (rows["scoring"] == PERMUTED[2])).any():
        return None
    usual = rows[(rows["reasoning"] == PRIMARY[1]) & (rows["scoring"] == PRIMARY[2])]
    prior = PRIOR if usual[list(BALANCED)].isna().any(axis=None) else BALANCED
    panels = _panels(usual, evidence.family, prior)
    if not panels:
        return None
    trained = evidence.trained.values if np.isfinite(evidence.trained.values).all() else None
    return Exhibit(
        "positions", "Option positions", "Positions",
        (_ABOUT_SHUFFLED,) if _SHUFFLED in panels else (),
        "How often each option position (1 to 4) is right, is chosen, and its mean probability "
        f"(the four made to sum to 100 %{_BALANCED_NOTE if prior is BALANCED else ''}), over "
        "models and target languages."
        + ("" if trained is None else f" Black bars: the shares among {evidence.trained.source}."),
        "Shares of option positions by arm: right answers, predictions and mean probability",
        partial(positions_plot, panels, trained=trained),
    )  # fmt: skip


_ABOUT_SHUFFLED = (
    "An arm tuned on shuffled labels can learn only the form of an answer and how often each "
    "position is right. If its probability follows the shares that it was trained on, whatever "
    "the question, that is the position prior; how far it is from them is in the table of "
    "estimates."
)
_BALANCED_NOTE = "; each right position counts alike, so that knowing answers leaves it even"


def _panels(
    usual: pd.DataFrame, family: Mapping[str, str], prior: tuple[str, ...]
) -> dict[str, dict[str, Floats]]:
    """Return shares of right answers, predictions and probability by arm and position."""
    columns = [*GOLD, *PREDICTED, *prior]
    by_arm = target_means(usual, columns, family).groupby("arm")[columns].mean().dropna()
    series = {"gold": GOLD, "predicted": PREDICTED, "prior": prior}
    return {
        arm: {
            name: by_arm.loc[arm, list(names)].to_numpy(np.float64)
            for name, names in series.items()
        }
        for arm in ARMS
        if arm in by_arm.index
    }


def orders_exhibit(evidence: Evidence) -> Exhibit | None:
    """Show accuracy and position bias, plain and averaged over option orders.

    Returns:
        The exhibit; None where no model was scored both ways.
    """
    table = _orders_table(evidence)
    if table.empty:
        return None
    drawn = table[table["arm"].isin(["base", _tuned_arm(table)])]
    return Exhibit(
        "orders", "Averaged over option orders", "Option orders",
        (
            "Each question is also scored with its options in other orders, and the probabilities "
            "of an option are averaged over them, so that a liking for a position cancels, and "
            "with it noise over orders. RStd is "
            "the standard deviation of the recalls of the four positions (Zheng et al. 2024): 0 "
            "where a right answer is found equally well wherever it stands. Chance alone makes it "
            "the number in the column \N{LEFT DOUBLE QUOTATION MARK}by chance"
            "\N{RIGHT DOUBLE QUOTATION MARK} on average; tests are of its square less chance.",
        ),
        "Hollow: plain answer-token scoring; full: averaged over option orders. Means over "
        "target languages.",
        "Accuracy and position bias of each model, plain and averaged over option orders",
        partial(orders_plot, drawn), _shown(table),
    )  # fmt: skip


def _tuned_arm(table: pd.DataFrame) -> str:
    """Return the arm that is drawn beside the base: the primary one if it is there."""
    arms = [arm for arm in ARMS[1:] if (table["arm"] == arm).any()]
    return arms[0] if arms else "base"


def _orders_table(evidence: Evidence) -> pd.DataFrame:
    """Return accuracy, RStd, its noise and the agreement of orders by model and arm."""
    measures = evidence.measures
    recalls = measures[["recall_1", "recall_2", "recall_3", "recall_4"]].to_numpy(np.float64)
    gold = measures[list(GOLD)].to_numpy(np.float64)
    with_accuracy = measures.assign(accuracy=np.nansum(recalls * gold, axis=1))
    columns = ["accuracy", "recall_std", "recall_noise"]
    direct = with_accuracy[with_accuracy["reasoning"] == PRIMARY[1]].dropna(subset=["recall_std"])
    means = target_means(direct, columns, evidence.family)
    by_arm = means.groupby(["model", "arm", "scoring"])[columns].mean()
    levels = by_arm.index.get_level_values("scoring")
    plain, averaged = (
        by_arm[levels == name].droplevel("scoring") for name in (PRIMARY[2], PERMUTED[2])
    )
    table = plain.join(averaged.add_suffix("_averaged"), how="inner")
    agreement = metric_means(evidence, ["order_agreement"], scoring=PERMUTED[2])
    table["agreement"] = agreement.groupby(["model", "arm"])["order_agreement"].mean()
    table = table.reset_index()
    rank = table["arm"].map(ARMS.index)
    ordered = table.assign(rank=rank).sort_values(["model", "rank"], ignore_index=True)
    return ordered[[*ORDERS_COLUMNS, "recall_noise", "recall_noise_averaged", "agreement"]]


def _shown(table: pd.DataFrame) -> Table:
    columns = [
        ("model", False), ("arm", False), ("accuracy %", True), ("averaged %", True),
        ("RStd, points", True), ("by chance", True), ("averaged RStd", True),
        ("by chance (averaged)", True), ("orders that agree %", True),
    ]  # fmt: skip
    keys = (
        "accuracy", "accuracy_averaged", "recall_std", "recall_noise", "recall_std_averaged",
        "recall_noise_averaged", "agreement",
    )  # fmt: skip
    rows = [
        (
            Field(row["model"]), Field(row["arm"]),
            *(number_field(100 * row[key], "{:.1f}") for key in keys),
        )
        for row in table.to_dict("records")
    ]  # fmt: skip
    used = [k for k in range(len(columns)) if any(row[k].text for row in rows)]
    return make_table([columns[k] for k in used], [tuple(row[k] for k in used) for row in rows])
