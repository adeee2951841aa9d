"""Gains of weak and of strong models by language, fold by fold where the study is cross-fitted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.arrays import Bits, Floats, Places
from analysis.gains.baselines import BaselineGroups
from analysis.gains.gain_table import GainTable, on_scale
from analysis.gains.items import ItemGains


@dataclass(frozen=True)
class ModelParts:
    """Models cut up by baseline group: one that changes groups between folds is two parts.

    `model` (K,) is the place of each part's model; `weak` (K,) whether the part is in the weak
    group; `folds` (K, F) marks the folds that belong to it (F is 1 where there is one split);
    `share` (K,) is its share of the items, 1 for a model that does not change.
    """

    model: Places
    weak: Bits
    folds: Bits
    share: Floats

    @property
    def groups(self) -> Bits:
        """Shape (2, K): the weak parts and the strong ones."""
        return np.stack([self.weak, ~self.weak])

    def of_items(self, items: ItemGains) -> Bits:
        """Return which items belong to each part, shape (K, N)."""
        if items.fold is None or self.folds.shape[1] == 1:
            return np.ones((len(self.model), len(items.passage)), np.bool_)
        _, place = np.unique(items.fold, return_inverse=True)
        return np.asarray(self.folds[:, place], np.bool_)


def model_parts(table: GainTable, groups: BaselineGroups) -> ModelParts:
    """Cut the models of a table up by baseline group.

    Args:
        table: Gains of one arm.
        groups: Weak and strong models, with status `ok`.

    Returns:
        The parts, by model; first the weak one of a model that has both.

    Raises:
        ValueError: If a model changes groups between folds and the table has none, or others.
    """
    cut = groups.changing
    n_folds = len(groups.by_fold[cut[0]]) if cut else 1
    sizes = table.folds.n_items if cut and table.folds is not None else np.ones(1, np.int64)
    if len(sizes) != n_folds:
        raise ValueError(
            f"model {cut[0]} changes its baseline group between {n_folds} folds, but the gains of "
            f"{'/'.join(table.condition)} are not of these folds; take groups of the same runs"
        )
    model, weak, chosen = [], [], []
    for m, name in enumerate(table.models):
        by_fold = groups.by_fold[name] if name in cut else (groups.group[name],) * n_folds
        for group in ("weak", "strong"):
            mask = np.array([found == group for found in by_fold], np.bool_)
            if mask.any():
                model.append(m)
                weak.append(group == "weak")
                chosen.append(mask)
    mine = np.stack(chosen)
    return ModelParts(
        np.array(model, np.intp), np.array(weak, np.bool_), mine, mine @ sizes / sizes.sum()
    )


def part_gains(table: GainTable, parts: ModelParts, scale: str) -> Floats:
    """Return the gain of each part by language, pooled over the items of its folds.

    Args:
        table: Gains of one arm.
        parts: As model_parts gives them.
        scale: `points` or `logit`.

    Returns:
        Shape (K, L).
    """
    gain = table.gain[scale][parts.model].copy()
    for k in np.flatnonzero(~parts.folds.all(axis=1)):
        if table.folds is not None:
            m = parts.model[k]
            before, after = (accuracy[m] for accuracy in table.folds.pooled(parts.folds[k]))
            gain[k] = on_scale(after, scale, table.chance) - on_scale(before, scale, table.chance)
    return gain


def group_gains(table: GainTable, groups: BaselineGroups, scale: str) -> tuple[Floats, Floats]:
    """Return the mean gain by language in weak and in strong models.

    In a cross-fitted study a gain counts for the group that its model has in its fold: a model
    that changes groups is two parts, each with the accuracy pooled over the items of its folds
    and weighted by its share of the items. Where no model changes this is the mean over models.

    Args:
        table: Gains of one arm.
        groups: Weak and strong models, with status `ok`; those of another arm of the same models
            and folds will do.
        scale: `points` or `logit`.

    Returns:
        Two arrays of shape (L,), weak and strong, on the scale's units.

    Raises:
        ValueError: As model_parts.
    """
    parts = model_parts(table, groups)
    gain = part_gains(table, parts, scale)
    if not groups.changing:
        return gain[parts.weak].mean(axis=0), gain[~parts.weak].mean(axis=0)
    weak, strong = (
        np.asarray(parts.share[member] @ gain[member] / parts.share[member].sum(), np.float64)
        for member in parts.groups
    )
    return weak, strong
