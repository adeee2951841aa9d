"""What a design can see: minimal detectable effects and provable equivalence bounds of D and I."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

import numpy as np
import pandas as pd
import pingouin
from scipy import integrate, optimize, stats

from analysis.estimates import OK, ZERO_VARIANCE, Estimate
from analysis.estimators.variance import (
    VarianceComponents,
    interaction_variance,
    language_variance,
    variance_components,
)
from analysis.gains.baselines import BaselineGroups
from analysis.gains.gain_table import POINTS, GainTable

POWER, ALPHA = 0.8, 0.05
POWER_COLUMNS = (
    "models", "related", "control", "items", "seeds", "mde_d", "bound_d", "mde_i", "bound_i",
)  # fmt: skip

_KINDS = (("MDE", "power_ttest2n"), ("provable bound", "tost_power"))


@dataclass(frozen=True)
class Reach:
    """What one test can see, in proportion: `mde` it detects, `bound` it can prove."""

    mde: float
    bound: float


def minimal_detectable_effect(
    variance: float, n_related: int, n_control: int, power: float = POWER, alpha: float = ALPHA
) -> float:
    """Return the true difference that the two-sided t test finds with the given power.

    `pingouin.power_ttest2n`, solved for the effect size (Card et al. 2020; Miller 2024). `variance`
    is that of one language's value within a family, in squared proportions; the difference of the
    family means is in proportion.

    Raises:
        ValueError: If an argument is out of range, or the effect is beyond ten standard
            deviations.
    """
    _check(variance, n_related, n_control, power, alpha)
    return float(np.sqrt(variance)) * _detectable(n_related, n_control, power, alpha)


def smallest_provable_bound(
    variance: float, n_related: int, n_control: int, power: float = POWER, alpha: float = ALPHA
) -> float:
    """Return the bound that TOST proves with the given power where there is no difference.

    Exact: given the pooled standard deviation s, equivalence within b is declared where the
    difference lies within b - t s c, c = sqrt(1/n_related + 1/n_control) and t the quantile of
    Student's distribution at 1 - alpha; this is integrated over the chi-square distribution of s
    (Shieh 2016; Lakens 2017). `variance` is that of one language's value within a family, in
    squared proportions; `alpha` is the level of each one-sided test; the bound is in proportion.

    Raises:
        ValueError: If an argument is out of range.
    """
    _check(variance, n_related, n_control, power, alpha)
    error = float(np.sqrt(variance * (1 / n_related + 1 / n_control)))
    return error * _provable(n_related + n_control - 2, power, alpha)


def reach_of_difference(
    components: VarianceComponents, *, models: int, related: int, control: int, items: int,
    seeds: int,
) -> Reach:  # fmt: skip
    """Return what D's tests can see at 80 % power, in proportion.

    Raises:
        ValueError: If a size is too small: models, items and seeds start at 1, languages at 2.
    """
    return _reach(language_variance(components, models, items, seeds), related, control)


def reach_of_interaction(
    components: VarianceComponents, *, weak: int, strong: int, related: int, control: int,
    items: int, seeds: int,
) -> Reach:  # fmt: skip
    """Return what I's tests can see at 80 % power, in proportion.

    Raises:
        ValueError: If a size is too small: models, items and seeds start at 1, languages at 2.
    """
    variance = interaction_variance(components, weak, strong, items, seeds)
    return _reach(variance, related, control)


def power_table(
    components: VarianceComponents,
    *,
    items: Sequence[int],
    languages: Sequence[tuple[int, int]],
    models: Sequence[int],
    seeds: Sequence[int],
) -> pd.DataFrame:
    """Return what every combination of sizes can see.

    Args:
        components: Variances in squared proportions.
        items: Items per language.
        languages: Pairs (related, control), each number at least 2.
        models: Numbers of models; split at the median, the middle one weak.
        seeds: Training seeds per model.

    Returns:
        One row per combination, columns POWER_COLUMNS; the last four are proportions, those of I
        NaN where there is one model.

    Raises:
        ValueError: If a size is too small.
    """
    rows = []
    for n_models, (related, control), n_items, n_seeds in product(models, languages, items, seeds):
        sizes = {"related": related, "control": control, "items": n_items, "seeds": n_seeds}
        d = reach_of_difference(components, models=n_models, **sizes)
        i = Reach(np.nan, np.nan)
        if n_models > 1:
            weak = (n_models + 1) // 2
            i = reach_of_interaction(components, weak=weak, strong=n_models - weak, **sizes)
        rows.append((n_models, *sizes.values(), d.mde, d.bound, i.mde, i.bound))
    return pd.DataFrame(rows, columns=list(POWER_COLUMNS))


def power_rows(table: GainTable, groups: BaselineGroups) -> list[Estimate]:
    """Return what a study could have seen of D and I, by its own variance components and sizes.

    Args:
        table: The gains of one arm.
        groups: Weak and strong models.

    Returns:
        Four rows on points: the minimal detectable effect at 80 % power and the smallest bound
        that can be proved with 80 % power where there is no difference, of D and of I. They have
        an estimate and neither interval nor p; where there is none, a status.
    """
    shared = {**table.shared, "unit": "languages"}
    try:
        components = variance_components(table)
    except ValueError as error:
        return [
            Estimate(f"{kind} of {name}{table.label}", POINTS, how, status=str(error), **shared)
            for name, (kind, how) in product("DI", _KINDS)
        ]
    sizes = {name: int(shared[f"n_{name}"]) for name in ("related", "control", "items", "seeds")}
    n_weak, n_strong = groups.sizes(table.models)

    def of_difference() -> Reach:
        return reach_of_difference(components, models=len(table.models), **sizes)

    def of_interaction() -> Reach:
        return reach_of_interaction(components, weak=n_weak, strong=n_strong, **sizes)

    rows: list[Estimate] = []
    for name, status, reach in (("D", OK, of_difference), ("I", groups.status, of_interaction)):
        source = groups.source if name == "I" else "none"
        for kind, how in _KINDS:
            row = Estimate(
                f"{kind} of {name}{table.label}", POINTS, how, status=status,
                note=_note(components, name == "I" and bool(groups.changing)),
                baseline_source=source, **shared,
            )  # fmt: skip
            rows.append(_filled(row, kind, reach))
    return rows


def _filled(row: Estimate, kind: str, reach: Callable[[], Reach]) -> Estimate:
    """Return the row with its number, or with the reason why it has none."""
    if row.status != OK:
        return row
    try:
        found = reach()
    except ValueError as error:
        return replace(row, status=str(error))
    value = found.mde if kind == "MDE" else found.bound
    return replace(row, estimate=value) if value > 0 else replace(row, status=ZERO_VARIANCE)


def _note(components: VarianceComponents, changing: bool = False) -> str:
    sd = ", ".join(
        f"{words} {100 * np.sqrt(getattr(components, name)):.1f}"
        for name, words in (("language", "language"), ("model_language", "model by language"),
                            ("seed", "seed"), ("item_language", "item by language"),
                            ("residual", "one answer"))
    )  # fmt: skip
    said = f"80 % power; standard deviations in points: {sd}"
    if changing:
        said += "; models change groups between folds, so the numbers of weak and strong are means"
    return f"{said}; {components.note}" if components.note else said


def _reach(variance: float, related: int, control: int) -> Reach:
    return Reach(
        minimal_detectable_effect(variance, related, control),
        smallest_provable_bound(variance, related, control),
    )


@lru_cache(maxsize=4096)
def _detectable(n_related: int, n_control: int, power: float, alpha: float) -> float:
    """Return the minimal detectable difference in standard deviations of one language."""
    d = float(pingouin.power_ttest2n(n_related, n_control, d=None, power=power, alpha=alpha))
    if not np.isfinite(d):
        raise ValueError(
            f"no effect below ten standard deviations is found by {n_related} and {n_control} "
            f"languages with power {power:g}; ask for less power or take more languages"
        )
    return d


@lru_cache(maxsize=4096)
def _provable(df: int, power: float, alpha: float) -> float:
    """Return the smallest provable bound in standard errors of the difference."""
    t = float(stats.t.isf(alpha, df))

    def declared(bound: float) -> float:
        """Return the chance that TOST declares equivalence; u is s over its true value."""

        def at(u: float) -> float:
            density = float(stats.chi2.pdf(df * u**2, df)) * 2 * df * u
            return (2 * float(stats.norm.cdf(bound - t * u)) - 1) * density

        return float(integrate.quad(at, 0, bound / t, limit=200)[0])

    # Both parts of the chance at 1 - (1 - power) / 4: more than enough.
    rest = (1 - power) / 4
    enough = t * float(np.sqrt(stats.chi2.isf(rest, df) / df)) + float(stats.norm.isf(rest / 2))
    return float(optimize.brentq(lambda b: declared(b) - power, 0.0, enough, xtol=1e-10))


def _check(variance: float, n_related: int, n_control: int, power: float, alpha: float) -> None:
    if not (np.isfinite(variance) and variance >= 0):
        raise ValueError(f"the variance is {variance}; give a number from 0 up")
    for name, count in (("related", n_related), ("control", n_control)):
        if count < 2:
            raise ValueError(f"needs 2 {name} languages, has {count}")
    if not 0 < alpha < power < 1:
        raise ValueError(f"power is {power} and alpha {alpha}; give 0 < alpha < power < 1")
