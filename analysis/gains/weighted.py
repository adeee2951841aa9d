"""D and I as weights on models and languages, of gains as they are and of passages drawn anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.arrays import Bits, Floats
from analysis.estimates import OK
from analysis.gains.baselines import BaselineGroups
from analysis.gains.bootstrap import passage_bootstrap
from analysis.gains.gain_table import GainTable, on_scale
from analysis.gains.grouped import ModelParts, model_parts, part_gains
from analysis.gains.items import ItemGains

# Accuracies held at a time while passages are drawn anew, 160 MB.
_BLOCK = 20_000_000


@dataclass(frozen=True)
class Contrast:
    """D, B or I as weights, so that its estimate is models @ gain @ languages.

    `groups` (G, M) marks the models of each baseline group: one group for D, weak and strong for
    B and I. `families` (F, L) marks related and control languages; for B it marks all languages,
    F = 1. `baseline` are the groups, None for D. Where models change groups between folds, `parts`
    are what stands for the models (M counts parts then).
    """

    name: str
    groups: Bits
    families: Bits
    baseline: BaselineGroups | None = None
    parts: ModelParts | None = None

    @property
    def status(self) -> str:
        """The status of the baseline groups; `ok` for D."""
        return OK if self.baseline is None else self.baseline.status

    @property
    def source(self) -> str:
        """Where the baselines come from."""
        return "none" if self.baseline is None else self.baseline.source

    @property
    def changing(self) -> tuple[str, ...]:
        """Models that change groups between folds."""
        return () if self.baseline is None else self.baseline.changing

    @property
    def models(self) -> Floats:
        """Shape (M,): 1 / M for D; 1 / weak models and -1 / strong models for I."""
        share = 1.0 if self.parts is None else self.parts.share
        return _weights((self.groups * share).astype(np.float64))

    @property
    def languages(self) -> Floats:
        """Shape (L,): 1 / related languages and -1 / control languages."""
        return _weights(self.families.astype(np.float64))

    def gain(self, table: GainTable, scale: str) -> Floats:
        """Return what `of` takes: the table's gains, or those of the parts; shape (M, L)."""
        return table.gain[scale] if self.parts is None else part_gains(table, self.parts, scale)

    def of(self, gain: Floats) -> Floats:
        """Return the contrast of gains of shape (…, M, L), shape (…)."""
        return np.asarray((gain @ self.languages) @ self.models, np.float64)


def contrast_of(table: GainTable, groups: BaselineGroups | None, name: str = "") -> Contrast:
    """Write a contrast of a table as weights.

    Args:
        table: Gains by model and language.
        groups: Weak and strong models; None for D.
        name: `B` for the difference of the groups over all languages; else D or I.
    """
    families = np.stack([table.related, ~table.related])
    if groups is None:
        return Contrast("D", np.ones((1, len(table.models)), np.bool_), families)
    if name == "B":
        families = np.ones((1, len(table.languages)), np.bool_)
    if groups.changing:
        parts = model_parts(table, groups)
        return Contrast(name or "I", parts.groups, families, groups, parts)
    named = [groups.group.get(model) for model in table.models]
    members = np.array([[of == group for of in named] for group in ("weak", "strong")], np.bool_)
    return Contrast(name or "I", members, families, groups)


def drawn_contrasts(
    items: ItemGains,
    keys: Sequence[tuple[str, Contrast]],
    rng: np.random.Generator,
    draws: int,
    chance: float | None,
) -> Floats:
    """Compute contrasts when passages are drawn anew, all from the same draws.

    Baseline groups stay as they are; what is drawn is which items the gains are of.

    Args:
        items: Answers before and after.
        keys: Scale (`points` or `logit`) and contrast of each row asked for.
        rng: Where the draws come from.
        draws: How many there are.
        chance: Of a right guess, for the logit.

    Returns:
        Shape (keys, draws).
    """
    answers = np.stack([items.before, items.after.mean(axis=0, dtype=np.float64)])
    parts = next((of.parts for _, of in keys if of.parts is not None), None)
    masks = np.empty((0, len(items.passage))) if parts is None else parts.of_items(items)
    split = answers[:, [] if parts is None else parts.model] * masks[:, None]
    rows = np.concatenate([values.reshape(-1, len(items.passage))
                           for values in (answers, split, masks)])  # fmt: skip
    ends = np.cumsum([answers[..., 0].size, split[..., 0].size])
    drawn = np.empty((len(keys), draws))
    step = max(1, _BLOCK // len(rows))
    for first in range(0, draws, step):
        block = slice(first, min(draws, first + step))
        means = passage_bootstrap(rows, items.passage, block.stop - first, rng)
        whole, cut, share = np.split(means, ends, axis=1)
        n = len(means)
        whole = whole.reshape(n, *answers.shape[:-1])
        cut = cut.reshape(n, *split.shape[:-1])
        for scale in {of for of, _ in keys}:
            gain = _gain(whole, scale, chance)
            for k, (of, contrast) in enumerate(keys):
                if of != scale:
                    continue
                drawn[k, block] = (
                    contrast.of(gain)
                    if contrast.parts is None
                    else _part_contrast(contrast, cut, share, scale, chance)
                )
    return drawn


def _part_contrast(
    contrast: Contrast, cut: Floats, share: Floats, scale: str, chance: float | None
) -> Floats:
    """Compute I by draw from the parts of the models, whose items are drawn more or less often.

    Args:
        contrast: I, with parts.
        cut: Shape (draws, 2, K, L), sums over a part's items before and after, by item drawn.
        share: Shape (draws, K), share of a part's items among those drawn.
        scale: `points` or `logit`.
        chance: Of a right guess, for the logit.

    Returns:
        Shape (draws,).
    """
    # A part none of whose items was drawn has no accuracy, and no weight.
    gain = _gain(cut / np.where(share > 0, share, 1.0)[:, None, :, None], scale, chance)
    by_part = gain @ contrast.languages
    weak, strong = ((share * by_part * group).sum(axis=1) / (share * group).sum(axis=1)
                    for group in contrast.groups)  # fmt: skip
    return np.asarray(weak - strong, np.float64)


def _gain(accuracy: Floats, scale: str, chance: float | None) -> Floats:
    """Return gains from accuracies before and after, shape (draws, 2, …) to (draws, …)."""
    values = on_scale(accuracy, scale, chance)
    return np.asarray(values[:, 1] - values[:, 0], np.float64)


def _weights(groups: Floats) -> Floats:
    """Return weights of the mean of the first group, minus that of the second if there is one.

    `groups` (G, n) holds each member's own weight, 0 for those outside the group.
    """
    signs = np.array([1.0, -1.0])[: len(groups)]
    total = groups.sum(axis=1)
    return np.asarray((signs / np.where(total > 0, total, 1)) @ groups, np.float64)
