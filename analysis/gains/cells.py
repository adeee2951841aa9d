"""Gains of an arm over the base model, one row per model, arm, seed and language.

A cell compares the same held-out items before and after. Every step is vectorised over cells.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis.arrays import Bytes, Integers, Places
from analysis.estimates import OK
from analysis.gains.paired import Interval, mcnemar_exact, newcombe_interval, wilson_interval
from analysis.gains.responses import NO_ANSWER, Responses, encode_responses
from xling.records import FAMILIES, RUN_COLUMNS

NOT_AVAILABLE = "not available"
UNPAIRED = "accuracies only: unpaired interval, wide"
ACCURACIES_ONLY = (NOT_AVAILABLE, UNPAIRED)
"""Statuses of a gain that is known without its items."""
NO_DISCORDANT = "no discordant pairs"
CONDITION = ("arm", "reasoning", "scoring")
"""What a comparison with the base model is about; models, seeds and languages are its cells."""

CELL_COLUMNS = (
    *RUN_COLUMNS, "language", "family", "n_options", "n_items", "n_passages", "accuracy_base",
    "accuracy", "gain", "ci_low", "ci_high", "n_gained", "n_lost", "p", "p_bh", "status",
)  # fmt: skip
_ID = [*RUN_COLUMNS, "language"]
# Answers compared at a time; a dozen byte arrays of this size are held at once.
_BLOCK_ANSWERS = 4_000_000
_COUNTS = ("both", "gained", "lost", "neither", "n_arm", "n_base", "n_passages", "gold_differs")


def gain_cells(
    records: pd.DataFrame | Responses, accuracies: pd.DataFrame, family: Mapping[str, str]
) -> pd.DataFrame:
    """Compute gain, interval and test for every model, arm, seed and language.

    The base model is compared under the same reasoning and scoring: its run of the same seed,
    else its run of the lowest seed (the base model has nothing to seed). Every model is expected
    to have every arm that any model has, in every language that any run has.

    Args:
        records: Item records of all runs (xling.records), possibly none; or the held-out ones
            encoded already (analysis.gains.responses.encode_responses), which saves time.
        accuracies: Held-out accuracy by run and language, columns of
            analysis.runs.pull.ACCURACY_COLUMNS.
        family: Language code to `related`, `control` or `source`.

    Returns:
        One row per cell with the columns CELL_COLUMNS, sorted. Accuracies, `gain` and its 95 %
        Newcombe interval are proportions; `p` is McNemar's exact p and `p_bh` its
        Benjamini-Hochberg form over the cells of one arm, reasoning and scoring. `status` is `ok`
        or: `not available` (accuracies only, so a gain without interval and p), `accuracies only …`
        (with their number of items or standard errors, so with Newcombe's unpaired interval or a
        normal one, which is wider than a paired one would be), `no discordant pairs` (p is 1 by
        definition), `missing cell …`, `item sets differ …`, `gold answers differ …` (no gain).
        `n_options` is NaN where it is not known, or differs from the base model's.

    Raises:
        ValueError: If a language has no family, or an item stands on two passages.
    """
    responses = records if isinstance(records, Responses) else encode_responses(records)
    unknown = sorted(set(accuracies["language"]) - {k for k, v in family.items() if v in FAMILIES})
    if unknown:
        raise ValueError(
            f"language {unknown[0]} of model "
            f"{accuracies.loc[accuracies['language'] == unknown[0], 'model'].iloc[0]}"
            f" has no family; give one of {', '.join(FAMILIES)}"
        )
    cells = _with_accuracies(_grid(accuracies), accuracies)
    cells["family"] = cells["language"].map(dict(family))
    cells = _with_counts(cells, responses)
    cells["status"] = _statuses(cells)
    cells = _with_statistics(cells)
    return cells.sort_values(_ID, ignore_index=True)[list(CELL_COLUMNS)]


def _grid(accuracies: pd.DataFrame) -> pd.DataFrame:
    """Return every cell that should be there: RUN_COLUMNS, language, base_seed."""
    runs = accuracies[list(RUN_COLUMNS)].drop_duplicates()
    arms = runs[runs["arm"] != "base"]
    # A seed that any model has is expected of all: a mean over fewer seeds is another number.
    conditions = arms[[*CONDITION, "seed"]].drop_duplicates()
    wanted = runs[["model"]].drop_duplicates().merge(conditions, how="cross")
    there = arms[["model", *CONDITION, "seed"]].drop_duplicates()
    absent = wanted.merge(there, how="left", indicator=True)
    absent = absent.loc[absent["_merge"] == "left_only"]
    grid = pd.concat([arms, absent[list(RUN_COLUMNS)]], ignore_index=True)
    base = runs[runs["arm"] == "base"].drop(columns="arm")
    same = base.assign(same_seed=base["seed"])
    lowest = base.groupby(["model", "reasoning", "scoring"])["seed"].min().reset_index()
    grid = grid.merge(same, how="left", on=["model", "seed", "reasoning", "scoring"])
    grid = grid.merge(
        lowest.rename(columns={"seed": "lowest_seed"}),
        how="left",
        on=["model", "reasoning", "scoring"],
    )
    seed = grid.pop("same_seed").fillna(grid.pop("lowest_seed"))
    grid["base_seed"] = seed.astype("float64")  # NaN where the model has no base run
    return grid.merge(accuracies[["language"]].drop_duplicates(), how="cross")


def _with_accuracies(grid: pd.DataFrame, accuracies: pd.DataFrame) -> pd.DataFrame:
    """Add what is known of a run's accuracy and, with `_base`, of the base model's (else NaN)."""
    known = ["accuracy", "has_records", "n_items", "stderr", "n_options"]
    values = accuracies.reindex(columns=[*_ID, *known])
    values = values.rename(columns={"n_items": "n_given"})
    # Item records have four options; of accuracies alone only their run can say.
    values.loc[values["has_records"].astype(bool), "n_options"] = 4
    base = values[values["arm"] == "base"].drop(columns=["arm"])
    base = base.rename(
        columns={name: f"{name}_base" for name in values.columns if name not in _ID}
        | {"seed": "base_seed"}
    )
    keys = ["model", "base_seed", "reasoning", "scoring", "language"]
    cells = grid.merge(values, how="left", on=_ID).merge(
        base.astype({"base_seed": "float64"}), how="left", on=keys
    )
    same = cells["n_options"] == cells["n_options_base"]
    return cells.assign(n_options=cells["n_options"].where(same))


def _with_counts(cells: pd.DataFrame, responses: Responses) -> pd.DataFrame:
    """Add the counts of item pairs (_COUNTS); 0 where a cell has no records."""
    names = list(RUN_COLUMNS)
    base = cells[names].assign(arm="base", seed=cells["base_seed"])
    known = pd.MultiIndex.from_frame(responses.runs[names])
    arm_run, base_run = (
        known.get_indexer(pd.MultiIndex.from_frame(wanted))
        if len(known)
        else np.full(len(cells), -1)
        for wanted in (cells[names], base)
    )
    language = pd.Index(responses.languages, dtype="str").get_indexer(pd.Index(cells["language"]))
    return cells.assign(**_pair_counts(responses, arm_run, base_run, language))


def _pair_counts(
    responses: Responses, arm_run: Places, base_run: Places, language: Places
) -> dict[str, Integers]:
    """Count the item pairs of cells; a place of -1 stands for no records."""
    counts = {name: np.zeros(len(language), np.int64) for name in _COUNTS}
    n_items = len(responses.items)
    order = np.argsort(responses.passage, kind="stable")
    starts = np.searchsorted(responses.passage[order], np.arange(responses.n_passages))
    step = max(1, _BLOCK_ANSWERS // max(1, n_items))
    for first in range(0, len(language) if n_items else 0, step):
        block = slice(first, first + step)

        def answers(values: Bytes, run: Places, empty: int, block: slice = block) -> Bytes:
            """Return answers by cell and item, `empty` where the cell has none."""
            found = values[run[block], language[block]]
            found[(run[block] < 0) | (language[block] < 0)] = empty
            return found

        after = answers(responses.correct, arm_run, NO_ANSWER)
        before = answers(responses.correct, base_run, NO_ANSWER)
        gold_after, gold_before = (answers(responses.gold, run, 0) for run in (arm_run, base_run))
        has_after, has_before = after != NO_ANSWER, before != NO_ANSWER
        paired = has_after & has_before
        marked = {
            "both": (after == 1) & (before == 1), "gained": (after == 1) & (before == 0),
            "lost": (after == 0) & (before == 1), "neither": (after == 0) & (before == 0),
            "n_arm": has_after, "n_base": has_before,
            "n_passages": np.logical_or.reduceat(has_after[:, order], starts, axis=1),
            "gold_differs": paired & (gold_after != gold_before),
        }  # fmt: skip
        for name, mask in marked.items():
            counts[name][block] = np.count_nonzero(mask, axis=1)
    return counts


def _statuses(cells: pd.DataFrame) -> list[str]:
    """Return the status of each cell, the gravest first."""
    several = cells.groupby(list(CONDITION))["seed"].transform("nunique") > 1
    return [
        _status(row, bool(named))
        for row, named in zip(cells.to_dict("records"), several, strict=True)
    ]


def _status(row: Mapping[Any, Any], name_seed: bool) -> str:
    if pd.isna(row["accuracy"]) or pd.isna(row["accuracy_base"]):
        arm_words = f"{row['arm']} seed {row['seed']}" if name_seed else row["arm"]
        lacking = [
            arm
            for arm, name in (("base", "accuracy_base"), (arm_words, "accuracy"))
            if pd.isna(row[name])
        ]
        return f"missing cell {row['model']}/{row['language']} ({' and '.join(lacking)})"
    if row["has_records"] is not True or row["has_records_base"] is not True:
        sizes = (row["n_given"], row["n_given_base"])
        errors = (row["stderr"], row["stderr_base"])
        known = any(all(pd.notna(value) for value in pair) for pair in (sizes, errors))
        return UNPAIRED if known else NOT_AVAILABLE
    shared = row["both"] + row["gained"] + row["lost"] + row["neither"]
    if shared < max(row["n_arm"], row["n_base"]):
        return (
            f"item sets differ in {row['model']}/{row['language']}: {row['n_base']} in base, "
            f"{row['n_arm']} in {row['arm']}, {shared} shared"
        )
    if row["gold_differs"]:
        return (
            f"gold answers differ in {row['model']}/{row['language']}: {row['gold_differs']} items"
        )
    return NO_DISCORDANT if row["gained"] + row["lost"] == 0 else OK


def _with_statistics(cells: pd.DataFrame) -> pd.DataFrame:
    """Add gain, interval, p and p_bh; NaN where the status leaves no number."""
    both, gained, lost, neither = (
        cells[name].to_numpy(np.int64) for name in ("both", "gained", "lost", "neither")
    )
    paired = cells["status"].isin([OK, NO_DISCORDANT])
    known = paired | cells["status"].isin(ACCURACIES_ONLY)
    interval = newcombe_interval(both, gained, lost, neither)
    apart = _unpaired_interval(cells)
    cells = cells.assign(
        n_items=pd.Series(both + gained + lost + neither, cells.index, "float64"),
        gain=(cells["accuracy"] - cells["accuracy_base"]).where(known),
        ci_low=np.where(paired, interval.low, apart.low),
        ci_high=np.where(paired, interval.high, apart.high), n_gained=gained, n_lost=lost,
        p=mcnemar_exact(gained, lost),
    )  # fmt: skip
    fewest = cells[["n_given", "n_given_base"]].min(axis=1, skipna=False)
    cells["n_items"] = cells["n_items"].where(paired, fewest).astype("Int64")
    for name in ("n_passages", "n_gained", "n_lost"):
        cells[name] = cells[name].astype("Int64").where(paired)
    for name in ("ci_low", "ci_high"):
        cells[name] = cells[name].where(paired | (cells["status"] == UNPAIRED))
    cells["p"] = cells["p"].where(paired)
    cells["p_bh"] = np.nan
    for rows in cells[paired].groupby(list(CONDITION)).groups.values():
        cells.loc[rows, "p_bh"] = stats.false_discovery_control(cells.loc[rows, "p"], method="bh")
    return cells


def _unpaired_interval(cells: pd.DataFrame) -> Interval:
    """Return 95 % intervals of gains whose accuracies were measured apart, NaN where unknown.

    By numbers of items Newcombe's of two proportions (1998, method 10, square and add); else by
    standard errors, normal. Answers to the same questions correlate, so both are too wide.
    """
    gain = (cells["accuracy"] - cells["accuracy_base"]).to_numpy(np.float64)
    sides = []
    for end in ("", "_base"):
        accuracy = cells[f"accuracy{end}"].to_numpy(np.float64)
        n = cells[f"n_given{end}"].to_numpy(np.float64)
        limits = np.full((2, len(cells)), np.nan)
        known = np.isfinite(accuracy) & np.isfinite(n)
        counts = n[known].astype(np.int64)
        wilson = wilson_interval(np.rint(accuracy[known] * counts).astype(np.int64), counts)
        limits[:, known] = wilson.low, wilson.high
        sides.append((accuracy - limits[0], limits[1] - accuracy))
    (low, high), (low_base, high_base) = sides
    half = stats.norm.ppf(0.975) * np.hypot(
        *(cells[name].to_numpy(np.float64) for name in ("stderr", "stderr_base"))
    )
    below, above = (
        np.where(np.isfinite(part), part, half)
        for part in (np.hypot(low, high_base), np.hypot(high, low_base))
    )
    return Interval(np.maximum(gain - below, -1), np.minimum(gain + above, 1))
