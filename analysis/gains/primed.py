"""Primed models: the same model with its baseline raised on purpose, and its twin without.

They enter no contrast of models: gain(unprimed) - gain(primed) is the rise of the base minus the
difference of the ends, whatever transfers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.arrays import Bits, Floats, Integers
from analysis.gains.gain_table import PRIMARY
from xling.records import LOGPROB_COLUMNS

BASE, TUNED, OTHER = "base", "finetuned", "control-source"


@dataclass(frozen=True)
class PrimedModel:
    """How a model was primed.

    `unprimed` is the label of the same model without a primer; `languages`, `steps`, `items` (0:
    all there were) and `labels` (`true` or `shuffled`) are those of the study file.
    """

    unprimed: str
    languages: tuple[str, ...]
    steps: int
    items: int
    labels: str


@dataclass(frozen=True)
class PrimedAnswers:
    """Answers of a primed model and its twin to the same items, in the same languages.

    `languages` (L) are the targets that neither the primer nor the control source was trained on;
    `related` has shape (L,), `passage` (N,) codes of the items' passages. `correct` maps (primed,
    arm) to the share of seeds that were right, shape (L, N); `margin` maps an arm of the primed
    model to the log-odds of the right label among the four, in nats, same shape. An arm that was
    not run, or not on the same items, is in neither. `status` is empty, or says why nothing can
    be compared.
    """

    model: str
    how: PrimedModel
    languages: tuple[str, ...]
    related: Bits
    passage: Integers
    correct: Mapping[tuple[bool, str], Floats]
    margin: Mapping[str, Floats]
    n_seeds: int
    status: str = ""


def primed_answers(
    records: pd.DataFrame,
    primed: Mapping[str, PrimedModel],
    family: Mapping[str, str],
    left_out: Collection[str],
) -> list[PrimedAnswers]:
    """Gather the answers of each primed model and of its twin.

    Args:
        records: Item records of all runs (xling.records), possibly none.
        primed: By label.
        family: Language code to `related`, `control` or `source`.
        left_out: Languages that the control-source arm was tuned on.

    Returns:
        One for each primed model of which there are runs, in the order of `primed`.
    """
    asked = records[
        (records["part"] == "heldout")
        & (records["reasoning"] == PRIMARY[1])
        & (records["scoring"] == PRIMARY[2])
    ]
    known = set(asked["model"].unique())
    return [
        _answers(asked, model, how, family, {*left_out, *how.languages})
        for model, how in primed.items()
        if model in known
    ]


def _answers(
    records: pd.DataFrame,
    model: str,
    how: PrimedModel,
    family: Mapping[str, str],
    left_out: Collection[str],
) -> PrimedAnswers:
    rows = records[
        records["model"].isin([model, how.unprimed])
        & ~records["language"].isin(list(left_out))
        & records["language"].map(lambda code: family[code] != "source").astype(bool)
    ]
    own = rows[(rows["model"] == model) & (rows["arm"] == BASE)]
    base = _spread(own, "correct")
    languages, items = tuple(map(str, base.index)), base.columns
    correct, margin = {}, {}
    for name in (model, how.unprimed):
        for arm in (BASE, TUNED, OTHER):
            of_arm = rows[(rows["model"] == name) & (rows["arm"] == arm)]
            found = _like(_spread(of_arm, "correct"), base)
            if found is None:
                continue
            correct[name == model, arm] = found
            if name == model:
                odds = _spread(of_arm.assign(odds=_log_odds(of_arm)), "odds")
                margin[arm] = odds.loc[list(languages), items].to_numpy(np.float64)
    passage = own.drop_duplicates("item_id").set_index("item_id")["passage_id"].loc[items]
    missing = [
        f"{name or 'the unprimed model'}/{arm}"
        for name, arm in ((model, BASE), (model, TUNED), (how.unprimed, BASE))
        if (name == model, arm) not in correct
    ]
    return PrimedAnswers(
        model, how, languages,
        related=np.array([family[code] == "related" for code in languages], np.bool_),
        passage=pd.factorize(passage)[0].astype(np.int64),
        correct=correct, margin=margin,
        n_seeds=int(rows.loc[rows["arm"] == TUNED, "seed"].nunique()),
        status=f"not available: no item records of {', '.join(missing)}" if missing else "",
    )  # fmt: skip


def _spread(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Average a column over seeds, languages by items."""
    values = rows.assign(value=rows[column].astype(np.float64))
    return values.pivot_table(
        index="language", columns="item_id", values="value", aggfunc="mean", observed=True
    )


def _like(found: pd.DataFrame, base: pd.DataFrame) -> Floats | None:
    """Return values in the order of the base's; None where some of its items are missing."""
    if not len(base) or not set(base.index) <= set(found.index):
        return None
    if not set(base.columns) <= set(found.columns):
        return None
    values = found.loc[base.index, base.columns].to_numpy(np.float64)
    return values if np.isfinite(values).all() else None


def _log_odds(rows: pd.DataFrame) -> Floats:
    """Return log p - log(1 - p) of the right label's probability p among the four, in nats."""
    logprobs = rows[list(LOGPROB_COLUMNS)].to_numpy(np.float64)
    right = np.arange(4) == rows["gold"].to_numpy(np.int64)[:, None] - 1
    others = np.logaddexp.reduce(np.where(right, -np.inf, logprobs), axis=1)
    return np.asarray(np.where(right, logprobs, 0.0).sum(axis=1) - others, np.float64)
