"""Weak and strong models, told apart by answers that no gain is computed from."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.estimates import OK

NEEDS_BASELINE = "needs training-split baseline"
NEEDS_MODELS = "needs 2 models (weak and strong)"


@dataclass(frozen=True)
class BaselineGroups:
    """Models by baseline group, or the status that says why there are none.

    `accuracy` maps each model to its mean training-split accuracy over the target languages
    (proportion); `group` maps it to `weak` or `strong`; `source` goes into `baseline_source`.
    """

    accuracy: dict[str, float]
    group: dict[str, str]
    source: str
    status: str
    note: str


def training_baselines(
    records: pd.DataFrame, *, reasoning: str, scoring: str, languages: Collection[str]
) -> pd.DataFrame:
    """Base-model accuracy on training-split questions, which no gain is computed from.

    Args:
        records: Item records of all runs.
        reasoning: Which reasoning to take.
        scoring: Which scoring to take.
        languages: The target languages.

    Returns:
        A frame of models (rows) by languages (columns), proportions, NaN where there is none.
        Answers of several seeds are pooled.
    """
    chosen = records[
        (records["part"] == "training")
        & (records["arm"] == "base")
        & (records["reasoning"] == reasoning)
        & (records["scoring"] == scoring)
        & records["language"].isin(list(languages))
    ]
    return (
        chosen.groupby(["model", "language"])["correct"]
        .mean()
        .unstack("language")
        .astype("float64")
    )


def baseline_groups(
    records: pd.DataFrame,
    *,
    models: Collection[str],
    languages: Collection[str],
    reasoning: str,
    scoring: str,
) -> BaselineGroups:
    """Split models at the median of their training-split accuracy.

    A model is strong if its mean over the target languages lies above the median over models, and
    weak otherwise. The held-out items play no part, so chance in them cannot make a weak model
    seem to gain (Tu & Gilthorpe 2007; Chiolero et al. 2013).

    Args:
        records: Item records of all runs.
        models: The models to group.
        languages: The target languages; every model needs a baseline in each.
        reasoning: Which reasoning to take.
        scoring: Which scoring to take.

    Returns:
        The groups; without any, `status` says why and `group` is empty.
    """
    table = training_baselines(records, reasoning=reasoning, scoring=scoring, languages=languages)
    table = table.reindex(index=sorted(models), columns=sorted(languages))
    lacking = table.isna()
    if lacking.to_numpy().any() or table.empty:
        names = [f"{m}/{c}" for m in table.index for c in table.columns if lacking.loc[m, c]]
        note = (
            f"no base-model answers to training-split questions for {', '.join(names[:3])}"
            f"{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
        )
        return BaselineGroups({}, {}, "none", NEEDS_BASELINE, note)
    means = table.mean(axis=1)
    accuracy = {str(model): float(value) for model, value in means.items()}
    middle = float(np.median(means))
    # The margin keeps rounding from telling equal models apart.
    group = {
        model: "strong" if value > middle + 1e-9 else "weak" for model, value in accuracy.items()
    }
    listed = [
        f"{name}: " + ", ".join(m for m in sorted(group) if group[m] == name)
        for name in ("weak", "strong")
    ]
    note = f"split at the median training-split accuracy {middle:.3f}; {'; '.join(listed)}"
    if len(set(group.values())) < 2:
        return BaselineGroups(accuracy, {}, "training split", NEEDS_MODELS, note)
    return BaselineGroups(accuracy, group, "training split", OK, note)
