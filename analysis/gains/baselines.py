"""Weak and strong models, told apart by answers that no gain is computed from."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from analysis.arrays import Floats
from analysis.estimates import OK
from analysis.gains.folds import FoldAccuracies

NEEDS_BASELINE = "needs training-split baseline"
NEEDS_ITEMS = "needs item records of every run to tell the folds apart"
NEEDS_MODELS = "needs 2 models (weak and strong)"
BASELINES_ALIKE = "baselines alike"
TRAINING_SPLIT, OTHER_FOLDS, ACCURACIES = "training split", "other folds", "accuracies"
MEDIAN = "median"

_NAMES = ("weak", "strong")


@dataclass(frozen=True)
class BaselineGroups:
    """Models by baseline group, or the status that says why there are none.

    `accuracy` maps each model to its mean baseline accuracy over the target languages
    (proportion); `group` maps it to `weak` or `strong`; `source` goes into `baseline_source`.
    Of a cross-fitted study `by_fold` maps each model to its group in each fold, in the order of
    FoldAccuracies.numbers, and `group` to the one that it has for most items; else it is empty.
    """

    accuracy: dict[str, float]
    group: dict[str, str]
    source: str
    status: str
    note: str
    by_fold: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def of(self, models: Collection[str]) -> BaselineGroups:
        """Return the groups of some of the models, with a status if one group has none left."""
        if set(self.group) <= set(models):
            return self
        kept = {model: name for model, name in self.group.items() if model in models}
        by_fold = {model: names for model, names in self.by_fold.items() if model in models}
        named = {name for names in by_fold.values() for name in names} or set(kept.values())
        status = self.status if self.status != OK or len(named) > 1 else NEEDS_MODELS
        return replace(self, group=kept, by_fold=by_fold, status=status)

    @property
    def changing(self) -> tuple[str, ...]:
        """Models that are weak in some folds and strong in others, sorted."""
        return tuple(sorted(m for m, names in self.by_fold.items() if len(set(names)) > 1))

    def sizes(self, models: Collection[str]) -> tuple[int, int]:
        """Count the weak and the strong models; in folds, those of a fold on average."""
        named = [self.by_fold.get(model, (self.group.get(model),)) for model in models]
        weak, strong = (
            round(sum(names.count(group) / len(names) for names in named)) for group in _NAMES
        )
        return weak, strong


def training_baselines(
    records: pd.DataFrame, *, reasoning: str, scoring: str, languages: Collection[str]
) -> pd.DataFrame:
    """Return base-model accuracy on training-split questions, which no gain is computed from.

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
    training: pd.DataFrame,
    *,
    models: Collection[str],
    languages: Collection[str],
    split: float | str = MEDIAN,
) -> BaselineGroups:
    """Split models at the median of their training-split accuracy, or at a given accuracy.

    A model is strong if its mean over the target languages lies above it, and weak otherwise. The
    held-out items play no part, so chance in them cannot make a weak model seem to gain (Tu &
    Gilthorpe 2007; Chiolero et al. 2013).

    Args:
        training: Base-model accuracy on training-split questions, models by languages.
        models: The models to group.
        languages: The target languages; every model needs a baseline in each.
        split: `median`, or the accuracy (proportion) above which a model is strong.

    Returns:
        The groups; without any, `status` says why and `group` is empty.
    """
    table = training.reindex(index=sorted(models), columns=sorted(languages))
    lacking = table.isna()
    if lacking.to_numpy().any() or table.empty:
        names = [f"{m}/{c}" for m in table.index for c in table.columns if lacking.loc[m, c]]
        note = (
            f"no base-model answers to training-split questions for {', '.join(names[:3])}"
            f"{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
        )
        return BaselineGroups({}, {}, "none", NEEDS_BASELINE, note)
    means = {str(model): float(value) for model, value in table.mean(axis=1).items()}
    return _split(means, TRAINING_SPLIT, split)


def accuracy_groups(
    before: Floats, n_items: Floats, models: Sequence[str], split: float | str = MEDIAN
) -> BaselineGroups:
    """Split models at their held-out accuracy, where only accuracies of known size are there.

    The same answers are in the gains then; what chance they hold is said in the note.

    Args:
        before: Base accuracies, shape (models, languages), proportions.
        n_items: Items behind each, the same shape.
        models: The models' names.
        split: As baseline_groups has it.
    """
    noise = np.sqrt((before * (1 - before) / n_items).sum(axis=1)) / before.shape[1]
    means = dict(zip(models, map(float, before.mean(axis=1)), strict=True))
    groups = _split(means, ACCURACIES, split)
    said = (
        "by the accuracies that the gains start from, whose chance (standard error of a model's "
        f"mean up to {100 * float(noise.max()):.1f} points) is in both"
    )
    return replace(groups, note=f"{groups.note}; {said}")


def _split(accuracy: dict[str, float], source: str, split: float | str) -> BaselineGroups:
    """Call the models above the median, or above a given accuracy, strong."""
    middle = float(np.median(list(accuracy.values()))) if isinstance(split, str) else split
    # The margin keeps rounding from telling equal models apart.
    group = {
        model: "strong" if value > middle + 1e-9 else "weak" for model, value in accuracy.items()
    }
    at = "the median" if isinstance(split, str) else "the given"
    what = "accuracy" if source == ACCURACIES else "training-split accuracy"
    note = f"split at {at} {what} {middle:.3f}"
    status = OK
    if len(set(group.values())) < 2:
        alike = len(accuracy) > 1 and np.ptp(list(accuracy.values())) <= 1e-9
        status = BASELINES_ALIKE if alike else NEEDS_MODELS
        if len(accuracy) > 1 and not alike:
            status = f"no model {'above' if 'weak' in group.values() else 'below'} {middle:g}"
        return BaselineGroups(accuracy, {}, source, status, note)
    return BaselineGroups(accuracy, group, source, status, f"{note}; {_listed(group)}")


def fold_groups(folds: FoldAccuracies, models: Collection[str]) -> BaselineGroups:
    """Split models in each fold at the median of their accuracy on the items of the other folds.

    The items that a fold's gains are computed from play no part in that fold's groups, and each
    fold has as many weak models as any other, so under no effect the gains of weak and of strong
    models have the same mean. A baseline pooled over the folds would not do: it holds the very
    answers that the gains start from.

    Args:
        folds: Accuracies by fold, in the target languages.
        models: The models, in the order of `folds`.

    Returns:
        The groups; a model near the median may be weak in one fold and strong in another, and the
        note names it. Without groups `status` says why.
    """
    level = folds.out_of_fold.mean(axis=2)
    middle = np.median(level, axis=1)
    # The margin keeps rounding from telling equal models apart.
    strong = level > middle[:, None] + 1e-9
    everything, _ = folds.pooled(np.ones(len(folds.numbers), np.bool_))
    overall = everything.mean(axis=1)
    accuracy = dict(zip(models, map(float, overall), strict=True))
    # Share of items for which a model is strong; where that is half, its accuracy decides.
    share = folds.n_items @ strong / folds.n_items.sum()
    tied = np.abs(share - 0.5) < 1e-9
    most = np.where(tied, overall > np.median(overall) + 1e-9, share > 0.5)
    group = {model: _NAMES[int(most[m])] for m, model in enumerate(models)}
    by_fold = {model: tuple(_NAMES[int(k)] for k in strong[:, m]) for m, model in enumerate(models)}
    groups = BaselineGroups(accuracy, group, OTHER_FOLDS, OK, "", by_fold)
    steady = {model: name for model, name in group.items() if model not in groups.changing}
    said = [
        "split in each fold at the median accuracy on the items of the other folds, "
        f"{middle.min():.3f} to {middle.max():.3f}"
    ]
    said += [_listed(steady)] if steady else []
    if groups.changing:
        by_model = ", ".join(
            f"{model} (weak in {by_fold[model].count('weak')} of {len(folds.numbers)})"
            for model in groups.changing
        )
        said.append(f"changing between folds: {by_model}")
    note = "; ".join(said)
    if len({name for names in by_fold.values() for name in names}) < 2:
        status = BASELINES_ALIKE if len(models) > 1 else NEEDS_MODELS
        return BaselineGroups(accuracy, {}, OTHER_FOLDS, status, note)
    return replace(groups, note=note)


def _listed(group: dict[str, str]) -> str:
    """List the models of each group that has any."""
    return "; ".join(
        f"{name}: " + ", ".join(m for m in sorted(group) if group[m] == name)
        for name in _NAMES
        if name in group.values()
    )
