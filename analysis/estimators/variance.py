"""Where the variance of gains comes from: languages, models, seeds, items, and single answers.

Only the parts that differ between languages are estimated. What all languages share (model, item,
model by item, model by seed) cancels in D and in I, because every language answers the same items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.arrays import Bits, Floats, Singles
from analysis.estimates import OK
from analysis.gains.gain_table import GainTable

Axes = tuple[int, ...]

# Gains are multiples of 1 / n, so anything smaller is rounding.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class VarianceComponents:
    """Variances of the gain, in squared proportions.

    `language` is a language's receptivity within its family, shared by all models;
    `model_language` what a model adds to it; `seed` what a training seed adds to that;
    `item_language` an item's own gain in one language, shared by all models; `residual` what is
    left of one answer before and after, by model, language and item, at one seed. `residual_seed`
    is the part of `residual` that every seed draws anew; more seeds average only that part, so 0
    is the careful value where it is not known.
    """

    language: float
    model_language: float
    seed: float
    item_language: float
    residual: float
    source: str
    note: str
    residual_seed: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what is not a variance.

        Raises:
            ValueError: If a variance is negative or not finite, or `residual_seed` exceeds
                `residual`.
        """
        for name in ("language", "model_language", "seed", "item_language", "residual",
                     "residual_seed"):  # fmt: skip
            value = getattr(self, name)
            if not (np.isfinite(value) and value >= 0):
                raise ValueError(f"variance component {name} is {value}; give a number from 0 up")
        if self.residual_seed > self.residual:
            raise ValueError("variance component residual_seed must not exceed residual")


DEFAULT_COMPONENTS = VarianceComponents(
    language=0.02**2,
    model_language=0.03**2,
    seed=0.01**2,
    item_language=0.0,
    residual=0.32,
    source="given",
    note="standard deviations of 2, 3 and 1 points for language, model by language, and seed",
)


def language_variance(components: VarianceComponents, models: int, items: int, seeds: int) -> float:
    """Return the variance of one language's gain, averaged over models, items and seeds.

    It is that within a family, in squared proportions: what D's test divides by.

    Raises:
        ValueError: If a number is below 1.
    """
    _check_sizes(models=models, items=items, seeds=seeds)
    shared = components.language + components.item_language / items
    return shared + _model_variance(components, items, seeds) / models


def interaction_variance(
    components: VarianceComponents, n_weak: int, n_strong: int, items: int, seeds: int
) -> float:
    """Return the variance of one language's mean gain in weak models minus that in strong models.

    What the models share in a language cancels. It is that within a family, in squared proportions:
    what I's test divides by.

    Raises:
        ValueError: If a number is below 1.
    """
    _check_sizes(weak=n_weak, strong=n_strong, items=items, seeds=seeds)
    return (1 / n_weak + 1 / n_strong) * _model_variance(components, items, seeds)


def variance_components(table: GainTable) -> VarianceComponents:
    """Estimate the variance components of a study's own gains by the method of moments.

    Mean squares of the model by language by item analysis of variance of the gains averaged over
    seeds, languages within families (sums of squares and degrees of freedom added over families),
    are set equal to their expectations (Searle, Casella & McCulloch 1992, chapter 4). With two or
    more seeds, the parts that differ by seed come from the deviations of a seed's answers from
    their mean over seeds. Items count as independent.

    Args:
        table: Gains with item records; at least two models, items, and languages a family.

    Returns:
        The components; negative estimates are set to 0, and the note says which.

    Raises:
        ValueError: If the table has a status other than `ok`, no item records, one model or one
            item; the message can serve as a status.
    """
    if table.status != OK:
        raise ValueError(table.status)
    if table.items is None:
        raise ValueError(table.item_status or "not available: no item records")
    gain = np.asarray(table.items.after.mean(axis=0) - table.items.before, np.float64)
    n_models, n_languages, n_items = gain.shape
    for name, count in (("models", n_models), ("items", n_items)):
        if count < 2:
            raise ValueError(f"needs 2 {name} to tell the variance components apart")
    families = (table.related, ~table.related)
    seed, residual_seed, seed_note = _seed_parts(table.items.after, families)
    n_seeds = len(table.items.after)
    square = {
        name: _mean_square(gain, families, axes)
        for name, axes in {"L": (1,), "ML": (0, 1), "IL": (1, 2), "MIL": (0, 1, 2)}.items()
    }
    raw = {
        "language": (square["L"] - square["ML"] - square["IL"] + square["MIL"])
        / (n_models * n_items),
        "model_language": (square["ML"] - square["MIL"]) / n_items - seed / n_seeds,
        "item_language": (square["IL"] - square["MIL"]) / n_models,
        "residual": square["MIL"] + residual_seed * (1 - 1 / n_seeds),
    }
    negative = [name for name, value in raw.items() if value < -_ROUNDING]
    notes = [f"component {name} came out below 0 and is set to 0" for name in negative]
    values = {name: value if value > _ROUNDING else 0.0 for name, value in raw.items()}
    return VarianceComponents(
        **values,
        seed=seed,
        source=f"{n_models} models, {n_languages} languages, {n_items} items, {n_seeds} "
        f"seed{'s' * (n_seeds > 1)}",
        note="; ".join([*notes, seed_note] if seed_note else notes),
        residual_seed=min(residual_seed, values["residual"]),
    )


def _model_variance(components: VarianceComponents, items: int, seeds: int) -> float:
    """Return the variance that one model adds to a language's mean gain."""
    per_answer = (
        components.residual - components.residual_seed + components.residual_seed / seeds
    ) / items
    return components.model_language + components.seed / seeds + per_answer


def _seed_parts(after: Singles, families: tuple[Bits, ...]) -> tuple[float, float, str]:
    """Return the seed variance of a model and language, that of one answer, and a note.

    `after` has shape (seeds, models, languages, items). What a seed changes in all languages
    alike cancels in every contrast and is left out.
    """
    n_seeds, n_models, _, n_items = after.shape
    if n_seeds < 2:
        return 0.0, 0.0, "one seed: its variance is within model by language, counted as 0"
    answers = np.asarray(after, np.float64)
    # A seed of one model is not the same thing as that seed of another: each model by itself.
    by_cell, by_answer = (
        sum(_mean_square(answers[:, m], families, axes) for m in range(n_models)) / n_models
        for axes in ((0, 1), (0, 1, 2))
    )
    seed = (by_cell - by_answer) / n_items
    note = "component seed came out below 0 and is set to 0" if seed < -_ROUNDING else ""
    return max(seed, 0.0), by_answer, note


def _mean_square(values: Floats, families: tuple[Bits, ...], effect: Axes) -> float:
    """Return the mean square of one effect in a balanced layout, languages within families.

    `values` has languages on axis 1; `effect` are the axes that the effect varies over, axis 1
    among them. Sums of squares and degrees of freedom are added over families.
    """
    total, df = 0.0, 0
    rest = tuple(axis for axis in range(values.ndim) if axis not in effect)
    copies = int(np.prod([values.shape[axis] for axis in rest])) if rest else 1
    for family in families:
        centred = values[:, family].mean(axis=rest, keepdims=True)
        for axis in effect:
            centred = centred - centred.mean(axis=axis, keepdims=True)
        total += copies * float((centred**2).sum())
        df += int(np.prod([centred.shape[axis] - 1 for axis in effect]))
    return total / df


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"number of {name} is {size}; give at least 1")
