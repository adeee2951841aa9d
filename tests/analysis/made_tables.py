"""Gain tables made by hand from answers, for tests that need many of them fast."""

from __future__ import annotations

from typing import Any

import numpy as np

from analysis.gains.gain_table import LOGIT, POINTS, PRIMARY, GainTable, guess_corrected_logit
from analysis.gains.items import ItemGains

RNG = np.random.Generator


def answers(rng: RNG, probability: np.ndarray, n_items: int) -> np.ndarray:
    """Right (1) and wrong (0) answers, independent given the probabilities (models, languages)."""
    return (rng.random((*probability.shape, n_items)) < probability[..., None]).astype(np.float32)


def items_of(
    before: np.ndarray, after: np.ndarray, *, items_per_passage: int = 1, **changes: Any
) -> ItemGains:
    """Before (M, L, N) and after (S, M, L, N); predictions are position 1 unless given."""
    settings: dict[str, Any] = {
        "passage": np.arange(before.shape[2]) // items_per_passage,
        "before": before,
        "after": after,
        "prediction_before": np.ones(before.shape, np.int8),
        "prediction_after": np.ones(after.shape, np.int8),
        "mass_before": np.full(before.shape, 0.5, np.float32),
        "mass_after": np.full(after.shape, 0.9, np.float32),
    } | changes
    return ItemGains(**settings)


def table_of(
    before: np.ndarray,
    after: np.ndarray,
    related: np.ndarray,
    *,
    items: ItemGains | None = None,
    condition: tuple[str, ...] = PRIMARY,
    status: str = "ok",
) -> GainTable:
    """A table from accuracies (M, L)."""
    models, languages = before.shape
    return GainTable(
        condition=condition,
        models=tuple(f"m{i}" for i in range(models)),
        languages=tuple(f"l{i}" for i in range(languages)),
        related=np.asarray(related, np.bool_),
        before=before,
        after=after,
        after_by_seed=after[None],
        gain={
            POINTS: after - before,
            LOGIT: guess_corrected_logit(after) - guess_corrected_logit(before),
        },
        status=status,
        shared={
            "unit": "languages",
            "n_models": models,
            "n_related": int(np.sum(related)),
            "n_control": int(np.sum(~np.asarray(related, np.bool_))),
            "n_items": None if items is None else len(items.passage),
            "n_passages": None if items is None else items.n_passages,
            "n_seeds": 1,
        },
        items=items,
        n_items=None if items is None else np.full(before.shape, float(len(items.passage))),
        top_family=tuple(f"l{i}" for i in range(languages)),
        item_status="" if items is not None else "not available: a run has no item records",
    )


def table_of_items(items: ItemGains, related: np.ndarray, **more: Any) -> GainTable:
    """A table from answers."""
    before = items.before.mean(axis=2, dtype=np.float64)
    after = items.after.mean(axis=(0, 3), dtype=np.float64)
    return table_of(before, after, related, items=items, **more)
