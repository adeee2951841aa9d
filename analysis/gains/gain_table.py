"""Gains of one arm by model and target language, on the scales that contrasts are made on."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.arrays import Bits, Floats, Places
from analysis.estimates import OK
from analysis.gains.cells import ACCURACIES_ONLY, CONDITION
from analysis.gains.complete import complete_subset, subset_status
from analysis.gains.folds import FoldAccuracies, fold_accuracies
from analysis.gains.items import ItemGains, item_gains
from analysis.gains.paired import wilson_interval
from analysis.gains.responses import Responses
from xling.languages import get_language
from xling.records import RUN_COLUMNS

if TYPE_CHECKING:
    from analysis.gains.baselines import BaselineGroups

PRIMARY = ("finetuned", "direct", "answer-token")
"""The arm, reasoning and scoring whose contrasts are called just D and I."""

POINTS, LOGIT = "points", "logit"
CLIP = 0.02
OF_FOUR = 0.25
"""Chance of a right guess among four options, which item records have."""

CHANCE_UNKNOWN = "needs n_options: chance is not known"
NO_FLOOR = "unreadable answers count as wrong, so accuracy has no floor at chance"
_MOST_CLIPPED = 0.10


@dataclass(frozen=True)
class GainTable:
    """Gains of one arm by model (rows) and target language (columns), averaged over seeds.

    `condition` is arm, reasoning and scoring. `before` and `after` are accuracies of shape (models
    M, languages L), all of them finite where `status` is `ok`; `gain` maps a scale to an array of
    that shape; `after_by_seed` has shape (seeds S, M, L). `related` has shape (L,). `status` is
    `ok` or says what is missing. `items` holds the same by item, or is None and `item_status` says
    why. `shared` are the columns of an estimate row that describe the data. `left_out` are target
    languages that the arm was tuned on, which the table is therefore without. Where cells are
    missing the table is the largest complete one, `without` names the models and languages that it
    lacks, and `subset` says so; else both are empty. `chance` is that of a right guess, None if it
    is not known (then gains on the logit scale are NaN). `n_items` (M, L) counts the items behind
    an accuracy, NaN where that is not known; `top_family` (L,) are Glottolog's outermost families.
    `has_floor` is False where answers that could not be read count as wrong.
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
    shared: dict[str, Any]
    items: ItemGains | None
    item_status: str
    left_out: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    chance: float | None = OF_FOUR
    n_items: Floats | None = None
    top_family: tuple[str, ...] = ()
    has_floor: bool = True

    @property
    def subset(self) -> str:
        """The status that says what the table is without; empty where no cell is missing."""
        return subset_status(self.without)

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

    @property
    def unrelated(self) -> Bits:
        """Control languages whose top family has no related language, shape (L,)."""
        own = {family for family, kin in zip(self.top_family, self.related, strict=True) if kin}
        outside = np.array([family not in own for family in self.top_family], np.bool_)
        return np.asarray(~self.related & outside, np.bool_)

    @cached_property
    def clipped(self) -> Bits:
        """Which accuracies the guess-corrected logit clips, (2, M, L): before, after."""
        accuracy = np.stack([self.before, self.after])
        if self.chance is None:
            return np.zeros(accuracy.shape, np.bool_)
        inner = (accuracy - self.chance) / (1 - self.chance)
        return np.asarray((inner < CLIP) | (inner > 1 - CLIP), np.bool_)

    def logit_status(self, groups: BaselineGroups | None = None) -> str:
        """Return `ok`, or why gains on the logit scale are noise or arithmetic.

        They are where more than 10 % of the cells of a group, before or after, are clipped, and
        where a base accuracy is not above chance (95 % Wilson interval; without a number of items,
        where it is clipped at the floor). Near chance a true null was rejected in 58 % of
        simulated studies, and near the ceiling in 93 %.

        Args:
            groups: Weak and strong models, to count clipped cells in each as well.
        """
        if self.chance is None:
            return CHANCE_UNKNOWN
        if not self.has_floor:
            return NO_FLOOR
        models = {"": np.ones(len(self.models), np.bool_)}
        if groups is not None and groups.group:
            models |= {
                f"{name} models, ": np.array([groups.group.get(m) == name for m in self.models])
                for name in ("weak", "strong")
            }
        for who, chosen in models.items():
            if not chosen.any():
                continue
            for family, languages in (("related", self.related), ("control", ~self.related)):
                share = self.clipped[:, chosen][:, :, languages].mean(axis=(1, 2))
                for when, clipped in zip(("base", "tuned"), share.tolist(), strict=True):
                    if clipped > _MOST_CLIPPED:
                        return (
                            f"{100 * clipped:.0f} % of {when} accuracies clipped "
                            f"({who}{family} languages)"
                        )
        return self._chance_status(self.chance)

    def _chance_status(self, chance: float) -> str:
        """Return `ok`, or the first base accuracy that is not above chance."""
        low = np.where(self.clipped[0] & (self.before < 0.5), 0.0, 1.0)
        if self.n_items is not None and (known := np.isfinite(self.n_items)).any():
            n = self.n_items[known].astype(np.int64)
            right = np.rint(self.before[known] * n).astype(np.int64)
            low[known] = wilson_interval(right, n).low
        at = np.argwhere(low <= chance)
        if not len(at):
            return OK
        more = f" and {len(at) - 1} more" if len(at) > 1 else ""
        return (
            f"base accuracy not above chance in {self.models[at[0][0]]}/"
            f"{self.languages[at[0][1]]}{more}"
        )

    def restricted(self, models: Sequence[str], languages: Sequence[str]) -> GainTable:
        """Return the table of some of its models and languages, in its own order."""
        rows = [m for m, name in enumerate(self.models) if name in set(models)]
        columns = [k for k, code in enumerate(self.languages) if code in set(languages)]
        if len(rows) == len(self.models) and len(columns) == len(self.languages):
            return self
        cut = np.ix_(rows, columns)
        related = self.related[columns]
        status = few_languages(related) if self.status == OK else self.status
        return replace(
            self,
            models=tuple(self.models[m] for m in rows),
            languages=tuple(self.languages[k] for k in columns),
            related=related,
            before=self.before[cut],
            after=self.after[cut],
            after_by_seed=self.after_by_seed[:, rows][:, :, columns],
            gain={scale: values[cut] for scale, values in self.gain.items()},
            status=status or OK,
            shared=self.shared
            | {
                "n_models": len(rows),
                "n_related": int(related.sum()),
                "n_control": int((~related).sum()),
            },
            items=None if self.items is None else self.items.restricted(rows, columns),
            n_items=None if self.n_items is None else self.n_items[cut],
            top_family=tuple(self.top_family[k] for k in columns) if self.top_family else (),
        )


def guess_corrected_logit(
    accuracy: Floats, chance: float | None = OF_FOUR, clip: float = CLIP
) -> Floats:
    """Return the log-odds of knowing an answer, given the chance of a right guess.

    logit((p - c) / (1 - c)), the inner value clipped to `clip` ... 1 - `clip`: a gain that looks
    smaller near the floor or the ceiling in points may not be so here (Loftus 1978; Wagenmakers et
    al. 2012). NaN where the accuracy is NaN, and where chance is None: not known.
    """
    if chance is None:
        return np.full(np.shape(accuracy), np.nan)
    known = np.clip((np.asarray(accuracy, np.float64) - chance) / (1 - chance), clip, 1 - clip)
    return np.asarray(np.log(known / (1 - known)), np.float64)


def on_scale(accuracy: Floats, scale: str, chance: float | None = OF_FOUR) -> Floats:
    """Return accuracies (any shape, proportions) on a scale whose differences are gains."""
    return guess_corrected_logit(accuracy, chance) if scale == LOGIT else accuracy


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
    rows, gone = _target_cells(cells, condition, left_out)
    missing = rows.loc[rows["gain"].isna(), "status"].tolist()
    rows, without = complete_subset(rows)
    models, languages, seeds = (
        sorted(rows[name].unique().tolist()) for name in ("model", "language", "seed")
    )
    by_seed = _spread(rows, "accuracy", seeds, models, languages)
    base = _spread(rows, "accuracy_base", seeds, models, languages)
    n_items = _over_seeds(_spread(rows, "n_items", seeds, models, languages))
    post, pre = _over_seeds(by_seed), _over_seeds(base)
    related = np.array([family[code] == "related" for code in languages], np.bool_)
    items, item_status = item_gains(
        responses, *_run_places(responses, condition, models, seeds), languages
    )
    if items is not None and rows["status"].isin(ACCURACIES_ONLY).any():
        # The gains are of accuracies then, perhaps of another base run than the items are.
        items, item_status = None, "not available: a run has no item records"
    chance = _chance(rows)
    return GainTable(
        condition=tuple(condition),
        models=tuple(map(str, models)),
        languages=tuple(map(str, languages)),
        related=related,
        before=pre,
        after=post,
        after_by_seed=by_seed,
        gain={scale: on_scale(post, scale, chance) - on_scale(pre, scale, chance)
              for scale in (POINTS, LOGIT)},
        status=_table_status(missing, condition, related),
        shared=_shared(rows, related, items),
        items=items,
        item_status=item_status,
        left_out=gone,
        without=without,
        chance=chance,
        n_items=n_items,
        top_family=tuple(top_family(str(code)) for code in languages),
        has_floor=_has_floor(rows),
    )  # fmt: skip


def _target_cells(
    cells: pd.DataFrame, condition: tuple[str, ...], left_out: Collection[str]
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return one condition's cells in its target languages, and which of these are left out."""
    rows = cells[
        (cells[list(CONDITION)] == list(condition)).all(axis=1)
        & cells["family"].isin(["related", "control"])
    ]
    dropped = rows["language"].isin(list(left_out))
    return rows[~dropped], tuple(sorted(map(str, rows.loc[dropped, "language"].unique())))


def top_family(code: str) -> str:
    """Return the glottocode of a language's outermost family; of an isolate its own ISO code."""
    language = get_language(code)
    return language.lineage[-1].glottocode if language.lineage else language.iso639_3


def _chance(rows: pd.DataFrame) -> float | None:
    """Return the chance of a right guess; None where options are not known, or not equally many."""
    options = rows["n_options"].unique()
    return 1 / float(options[0]) if len(options) == 1 and options[0] > 1 else None


def _has_floor(rows: pd.DataFrame) -> bool:
    """Return whether every answer was read: one that was not counts as wrong, not as a guess.

    Accuracies after reasoning come from programs that search a text for its answer.
    """
    return not bool((rows["status"].isin(ACCURACIES_ONLY) & (rows["reasoning"] == "cot")).any())


def _over_seeds(by_seed: Floats) -> Floats:
    """Average accuracies over seeds; a seed without a number leaves its cell without one.

    A mean over fewer seeds would be another cell.
    """
    return by_seed.mean(axis=0) if len(by_seed) else by_seed.reshape(by_seed.shape[1:])


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


def _table_status(missing: list[str], condition: tuple[str, ...], related: Bits) -> str:
    """Return `ok`, or what the largest complete table lacks."""
    if not len(related) and not missing:
        return f"no gains of {'/'.join(condition)}"
    few = few_languages(related)
    if not few:
        return OK
    if not missing:
        return few
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    return f"{missing[0]}{more}"


def few_languages(related: Bits) -> str:
    """Say which family has too few languages for a contrast; empty if both have enough.

    One related language is enough: its variance is taken to be that of the controls.
    """
    for name, count, least in (("related", related.sum(), 1), ("control", (~related).sum(), 2)):
        if count < least:
            return f"needs {least} {name} language{'s' if least > 1 else ''}"
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
