"""The answers behind a gain table, item by item, before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from analysis.arrays import Array, Bytes, Integers, Places, Singles
from analysis.gains.responses import NO_ANSWER, Responses


@dataclass(frozen=True)
class ItemGains:
    """Answers of one arm and of the base model to the same held-out items in every cell.

    Shapes: models M, languages L, items N, seeds S. `passage` is (N,), codes 0 to P - 1.
    `before` is (M, L, N), the mean over the base runs that the seeds are compared with (mostly
    one run, so 0 or 1); `after` is (S, M, L, N), 0 or 1. `prediction_before` (of the first
    seed's base run) and `mass_before` are (M, L, N), `prediction_after` and `mass_after`
    (S, M, L, N); masses are NaN for cloze. `fold` is (N,), the fold in which an item is held out;
    None stands for one split.
    """

    passage: Integers
    before: Singles
    after: Singles
    prediction_before: Bytes
    prediction_after: Bytes
    mass_before: Singles
    mass_after: Singles
    fold: Integers | None = None

    @property
    def n_passages(self) -> int:
        """How many passages the items stand on."""
        return int(self.passage.max()) + 1

    def restricted(self, models: Sequence[int], languages: Sequence[int]) -> ItemGains:
        """Return the answers of some models and languages, by their places."""
        cut = np.ix_(models, languages)

        def of_seeds(values: Array) -> Array:
            return values[:, models][:, :, languages]

        return replace(
            self,
            before=self.before[cut], after=of_seeds(self.after),
            prediction_before=self.prediction_before[cut],
            prediction_after=of_seeds(self.prediction_after),
            mass_before=self.mass_before[cut], mass_after=of_seeds(self.mass_after),
        )  # fmt: skip

    @property
    def gain(self) -> Singles:
        """Gain by item, averaged over seeds: (M, L, N), from -1 to 1."""
        return np.asarray(self.after.mean(axis=0) - self.before, np.float32)


def item_gains(
    responses: Responses, before: Places, after: Places, languages: Sequence[str]
) -> tuple[ItemGains | None, str]:
    """Bring the answers of an arm and its base together.

    Args:
        responses: Held-out answers of all runs.
        before: Shape (S, M), place of each model's base run in `responses.runs`; -1: none.
        after: Shape (S, M), place of the arm's run of each seed and model; -1: none.
        languages: The L target languages.

    Returns:
        The answers and an empty text; or None and why there are none: a run without records, or
        item sets that differ between cells.
    """
    if before.size == 0 or (before < 0).any() or (after < 0).any():
        return None, "not available: a run has no item records"
    missing = [code for code in languages if code not in responses.languages]
    if missing:
        return None, f"not available: no item records in {missing[0]}"
    column = [responses.languages.index(code) for code in languages]

    def take(values: Array, runs: Places) -> Array:
        return values[runs][..., column, :]

    answered_before = take(responses.correct, before) != NO_ANSWER
    answered_after = take(responses.correct, after) != NO_ANSWER
    used = answered_after.any(axis=(0, 1, 2)) | answered_before.any(axis=(0, 1, 2))
    if not (answered_before[..., used].all() and answered_after[..., used].all()):
        return None, "not available: item sets differ between cells"
    _, passage = np.unique(responses.passage[used], return_inverse=True)

    def before_of(values: Array) -> Array:
        """Average over seeds, as gains do where each seed has its own base run."""
        return np.asarray(take(values, before)[..., used].mean(axis=0, dtype=np.float32))

    def after_of(values: Array, kind: type[np.generic]) -> Array:
        return take(values, after)[..., used].astype(kind)

    return (
        ItemGains(
            passage.astype(np.int64),
            before_of(responses.correct), after_of(responses.correct, np.float32),
            take(responses.prediction, before[0])[..., used].astype(np.int8),
            after_of(responses.prediction, np.int8),
            before_of(responses.answer_mass),
            after_of(responses.answer_mass, np.float32), responses.fold[used],
        ),
        "",
    )  # fmt: skip
