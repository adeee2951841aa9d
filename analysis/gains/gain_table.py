"""Gains of one arm by model and target language, on the scales that contrasts are made on."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from analysis.arrays import Bits, Floats, Places
from analysis.estimates import OK
from analysis.gains.cells import CONDITION, NOT_AVAILABLE
from analysis.gains.folds import FoldAccuracies, fold_accuracies
from analysis.gains.items import ItemGains, item_gains
from analysis.gains.responses import Responses
from xling.records import RUN_COLUMNS

PRIMARY = ("finetuned", "direct", "answer-token")
"""The arm, reasoning and scoring whose contrasts are called just D and I."""

POINTS, LOGIT = "points", "logit"
CLIP = 0.02
CHANCE = 0.25


@dataclass(frozen=True)
class GainTable:
    """Gains of one arm by model (rows) and target language (columns), averaged over seeds.

    `condition` is arm, reasoning and scoring. `before` and `after` are accuracies of shape
    (models M, languages L), NaN where a cell is missing; `gain` maps a scale to an array of that
    shape; `after_by_seed` has shape (seeds S, M, L). `related` has shape (L,). `status` is `ok`
    or says what is missing. `items` holds the same by item, or is None and `item_status` says
    why. `shared` are the columns of an estimate row that describe the data. `left_out` are target
    languages that the arm was tuned on, which the table is therefore without.
    """

    condition: tuple[str, ...]
    models: tuple[str, ...]
    languages: tuple[str, ...]
    related: Bits
    before: Floats
    after: Floats
    after_by_seed: Floats
    gain: dict[str, Floats]
    status: str
    n_clipped: int
    shared: dict[str, Any]
    items: ItemGains | None
    item_status: str
    left_out: tuple[str, ...] = ()

    @cached_property
    def folds(self) -> FoldAccuracies | None:
        """Accuracies by fold of a cross-fitted study; None of one split, or without items."""
        return fold_accuracies(self.items)

    @property
    def label(self) -> str:
        """What follows an estimand's name: empty for the primary arm."""
        return "" if self.condition == PRIMARY else f" ({', '.join(self.condition)})"

    def split(self, values: Floats) -> tuple[Floats, Floats]:
        """Split values (languages,) into those of the related and of the control languages."""
        return values[self.related], values[~self.related]


def guess_corrected_logit(accuracy: Floats) -> Floats:
    """Return the log-odds of knowing an answer when one in four guesses is right.

    logit((p - 1/4) / (3/4)), the inner value clipped to 0.02 ... 0.98: a gain that looks smaller
    near the floor or the ceiling in points may not be so here (Loftus 1978; Wagenmakers et al.
    2012). NaN where the accuracy is NaN.
    """
    known = np.clip((np.asarray(accuracy, np.float64) - CHANCE) / (1 - CHANCE), CLIP, 1 - CLIP)
    return np.asarray(np.log(known / (1 - known)), np.float64)


def gain_table(
    cells: pd.DataFrame,
    responses: Responses,
    family: Mapping[str, str],
    condition: tuple[str, ...],
    left_out: Collection[str] = (),
) -> GainTable:
    """Table the gains of one arm, reasoning and scoring by model and target language.

    Args:
        cells: As analysis.gains.cells.gain_cells gives them.
        responses: Held-out answers of all runs.
        family: Language code to `related`, `control` or `source`.
        condition: Arm, reasoning and scoring.
        left_out: Target languages to leave out.

    Returns:
        The table; accuracies are averaged over seeds before they are put on a scale.
    """
    rows = cells[
        (cells[list(CONDITION)] == list(condition)).all(axis=1)
        & cells["family"].isin(["related", "control"])
    ]
    dropped = rows["language"].isin(list(left_out))
    gone, rows = sorted(rows.loc[dropped, "language"].unique()), rows[~dropped]
    usable = rows.assign(
        **{name: rows[name].where(rows["gain"].notna()) for name in ("accuracy", "accuracy_base")}
    )
    keys = ("model", "language", "seed")
    models, languages, seeds = (sorted(usable[name].unique().tolist()) for name in keys)
    by_seed = _spread(usable, "accuracy", seeds, models, languages)
    base = _spread(usable, "accuracy_base", seeds, models, languages)
    post, pre = _over_seeds(by_seed), _over_seeds(base)
    related = np.array([family[code] == "related" for code in languages], np.bool_)
    items, item_status = item_gains(
        responses, *_run_places(responses, condition, models, seeds), languages
    )
    if items is not None and (rows["status"] == NOT_AVAILABLE).any():
        # The gains are of accuracies then, perhaps of another base run than the items are.
        items, item_status = None, "not available: a run has no item records"
    return GainTable(
        condition=tuple(condition),
        models=tuple(map(str, models)),
        languages=tuple(map(str, languages)),
        related=related,
        before=pre,
        after=post,
        after_by_seed=by_seed,
        gain={POINTS: post - pre,
              LOGIT: guess_corrected_logit(post) - guess_corrected_logit(pre)},
        status=_table_status(rows, condition, related),
        n_clipped=_clipped(post) + _clipped(pre),
        shared=_shared(rows, related, items),
        items=items,
        item_status=item_status,
        left_out=tuple(map(str, gone)),
    )  # fmt: skip


def _over_seeds(by_seed: Floats) -> Floats:
    """Average accuracies over seeds; a seed without a number leaves its cell without one.

    A mean over fewer seeds would be another cell.
    """
    return by_seed.mean(axis=0) if len(by_seed) else by_seed.reshape(by_seed.shape[1:])


def _clipped(accuracy: Floats) -> int:
    """Count the accuracies that the guess-corrected logit clips."""
    inner = (accuracy - CHANCE) / (1 - CHANCE)
    return int(((inner < CLIP) | (inner > 1 - CLIP)).sum())


def _spread(
    rows: pd.DataFrame, name: str, seeds: list[int], models: list[str], languages: list[str]
) -> Floats:
    """Spread a column into an array (seeds, models, languages), NaN where there is no row."""
    values = np.full((len(seeds), len(models), len(languages)), np.nan)
    place = tuple(
        pd.Index(known).get_indexer(pd.Index(rows[column]))
        for known, column in ((seeds, "seed"), (models, "model"), (languages, "language"))
    )
    values[place] = rows[name].to_numpy(np.float64)
    return values


def _run_places(
    responses: Responses, condition: tuple[str, ...], models: list[str], seeds: list[int]
) -> tuple[Places, Places]:
    """Find the places of base runs and arm's runs, each (seeds, models); -1 for none."""
    arm, reasoning, scoring = condition
    place = {
        tuple(row): number
        for number, row in enumerate(responses.runs[list(RUN_COLUMNS)].itertuples(index=False))
    }
    before = np.full((len(seeds), len(models)), -1, np.intp)
    after = before.copy()
    for m, model in enumerate(models):
        base_seeds = sorted(
            key[2]
            for key in place
            if key[:2] == (model, "base") and key[3:] == (reasoning, scoring)
        )
        for s, seed in enumerate(seeds):
            after[s, m] = place.get((model, arm, seed, reasoning, scoring), -1)
            if base_seeds:
                of = seed if seed in base_seeds else base_seeds[0]
                before[s, m] = place[model, "base", of, reasoning, scoring]
    return before, after


def _table_status(rows: pd.DataFrame, condition: tuple[str, ...], related: Bits) -> str:
    """Return `ok`, or what the table lacks."""
    if rows.empty:
        return f"no gains of {'/'.join(condition)}"
    if few := few_languages(related):
        return few
    lacking = rows.loc[rows["gain"].isna(), "status"]
    if lacking.empty:
        return OK
    more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
    return f"{lacking.iloc[0]}{more}"


def few_languages(related: Bits) -> str:
    """Say which family has fewer than two languages; empty if both have enough."""
    for name, count in (("related", int(related.sum())), ("control", int((~related).sum()))):
        if count < 2:
            return f"needs 2 {name} languages"
    return ""


def _shared(rows: pd.DataFrame, related: Bits, items: ItemGains | None) -> dict[str, Any]:
    """Return the columns of an estimate row that describe the data."""
    return {
        "unit": "languages",
        "n_models": int(rows["model"].nunique()),
        "n_related": int(related.sum()),
        "n_control": int((~related).sum()),
        "n_items": None if items is None else len(items.passage),
        "n_passages": None if items is None else items.n_passages,
        "n_seeds": int(rows["seed"].nunique()),
    }
