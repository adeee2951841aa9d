"""What a design can see: minimal detectable effects of D, B and I, and provable bounds of D and I.

An effect is detected where the 98.33 % interval excludes zero, as in the verdict; a bound is proved
by two one-sided tests at 5 %. D over languages goes by Welch's test (welch_power), as in the
verdict; I over languages by the one with one variance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd
import pingouin
from scipy import integrate, optimize, stats

from analysis.estimates import FAMILYWISE, OK, ZERO_VARIANCE, Estimate
from analysis.estimators.primary import find_row, primary_row
from analysis.estimators.variance import (
    VarianceComponents,
    interaction_variance,
    language_variance,
    variance_components,
)
from analysis.estimators.welch_power import welch_detectable, welch_provable
from analysis.gains.baselines import BaselineGroups
from analysis.gains.gain_table import POINTS, GainTable

POWER, ALPHA = 0.8, 0.05
WELCH_POWER = "welch_power"
FAMILYWISE_ALPHA = 1 - FAMILYWISE
POWER_COLUMNS = (
    "models", "related", "control", "items", "seeds", "mde_d", "bound_d", "mde_i", "bound_i",
)  # fmt: skip


@dataclass(frozen=True)
class Reach:
    """What one test can see, in proportion: `mde` it detects, `bound` it can prove."""

    mde: float
    bound: float


def minimal_detectable_effect(
    variance: float, n_related: int, n_control: int, power: float = POWER, alpha: float = ALPHA
) -> float:
    """Return the true difference that the two-sided t test with one variance finds.

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
    """Return the bound that TOST with one variance proves where there is no difference.

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
    """Return what D's tests over languages, Welch's, can see at 80 % power, in proportion.

    Raises:
        ValueError: If a size is too small: models, items and seeds start at 1, languages at 2.
    """
    variance = language_variance(components, models, items, seeds)
    _check(variance, related, control, POWER, ALPHA)
    sd = variance**0.5
    return Reach(
        sd * welch_detectable(related, control, POWER, FAMILYWISE_ALPHA),
        sd * welch_provable(related, control, POWER, ALPHA),
    )


def reach_of_interaction(
    components: VarianceComponents, *, weak: int, strong: int, related: int, control: int,
    items: int, seeds: int,
) -> Reach:  # fmt: skip
    """Return what I's tests over languages can see at 80 % power, in proportion.

    Raises:
        ValueError: If a size is too small: models, items and seeds start at 1, languages at 2.
    """
    variance = interaction_variance(components, weak, strong, items, seeds)
    return Reach(
        minimal_detectable_effect(variance, related, control, alpha=FAMILYWISE_ALPHA),
        smallest_provable_bound(variance, related, control),
    )


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


def power_rows(
    table: GainTable, groups: BaselineGroups, judged: Sequence[Estimate]
) -> list[Estimate]:
    """Return what a study could have seen of D, B and I.

    By languages from its variance components, taken to be alike in both families; by families and
    by models from the standard error and the degrees of freedom of the rows that judge. An interval
    is that of the variance, a multiple of chi-square with its degrees of freedom.

    Args:
        table: The gains of one arm.
        groups: Weak and strong models.
        judged: The rows of D, B and I (analysis.estimators.contrasts and baseline_strength).

    Returns:
        Rows on points with an estimate and no p: the minimal detectable effect at 80 % power of D
        by languages and by families, of B, and of I (the larger of models' and languages'); the
        smallest bound that can be proved with 80 % power where there is no difference, of D and of
        I, the larger of both units'. A row without a number has a status.
    """
    label = table.label
    d_languages, i_languages, note = _by_languages(table, groups)
    d_families = _of_row(find_row(judged, f"D{label}", "random_effects", "families"))
    i_models = _of_row(find_row(judged, f"I{label}", "welch", "models"))
    strength = _of_row(primary_row(judged, "B", label=label))
    if i_models.status != OK and i_languages.status == OK:
        i_models = i_languages  # one model in a group: languages alone
    by_d, by_i = (d_languages, d_families), (i_models, i_languages)
    found = (
        ("MDE of D", WELCH_POWER, "languages", (d_languages,), note),
        ("MDE of D", "noncentral_t", "families", (d_families,), ""),
        ("MDE of B", "noncentral_t", strength.unit, (strength,), ""),
        ("MDE of I", "noncentral_t", "models, languages", by_i, note),
        ("provable bound of D", "tost_power", "languages, families", by_d, note),
        ("provable bound of I", "tost_power", "models, languages", by_i, note),
    )
    return [
        reach_row(
            Estimate(
                f"{name}{label}", POINTS, estimator, note=words,
                baseline_source="none" if name.endswith("D") else groups.source,
                **{**table.shared, "unit": unit},
            ),
            errors,
        )
        for name, estimator, unit, errors, words in found
    ]  # fmt: skip


class StandardError(NamedTuple):
    """A standard error and the degrees of freedom of its estimate, or why there is none.

    `welch` has the numbers of related and control languages where Welch's test judges.
    """

    se: float
    df: float
    status: str
    unit: str
    welch: tuple[int, int] | None = None

    def sees(self, *, bound: bool) -> float:
        """Return the bound that this unit's test can prove, or the effect that it detects."""
        if self.welch is None:
            return self.se * (provable(self.df) if bound else detectable(self.df))
        sd = self.se / float(np.sqrt(sum(1 / n for n in self.welch)))
        if bound:
            return sd * welch_provable(*self.welch, POWER, ALPHA)
        return sd * welch_detectable(*self.welch, POWER, FAMILYWISE_ALPHA)


def _of_row(row: Estimate | None) -> StandardError:
    """Take a row's standard error."""
    if row is None:
        return StandardError(0.0, 0.0, "not available", "models")
    if row.se is None or row.df is None:
        return StandardError(0.0, 0.0, row.status, row.unit)
    return StandardError(row.se, row.df, OK, row.unit)


def _by_languages(
    table: GainTable, groups: BaselineGroups
) -> tuple[StandardError, StandardError, str]:
    """Return the standard errors of D and of I over languages, and a note on the components."""
    missing = StandardError(0.0, 0.0, table.status, "languages")
    if table.status != OK:
        return missing, missing, ""
    n_related, n_control = int(table.related.sum()), int((~table.related).sum())
    sizes = {"items": table.shared["n_items"], "seeds": table.shared["n_seeds"]}
    try:
        components = variance_components(table)
        variance = language_variance(components, len(table.models), **sizes)
    except ValueError as error:
        missing = missing._replace(status=str(error))
        return missing, missing, ""
    # One related language has the controls' variance, and adds nothing to what is known of it.
    share, df = 1 / n_related + 1 / n_control, n_related + n_control - 2
    d = StandardError((variance * share) ** 0.5, df, OK, "languages", (n_related, n_control))
    i = missing._replace(status=groups.status)
    if groups.status == OK:
        n_weak, n_strong = groups.sizes(table.models)
        variance = interaction_variance(components, n_weak, n_strong, **sizes)
        i = StandardError((variance * share) ** 0.5, df, OK, "languages")
    return d, i, _note(components, bool(groups.changing))


def reach_row(row: Estimate, errors: Sequence[StandardError]) -> Estimate:
    """Fill a row with the largest of what the units can see, and its interval."""
    lacking = next((error.status for error in errors if error.status != OK), OK)
    if lacking != OK:
        return replace(row, status=lacking)
    if min(error.se for error in errors) <= 0:
        return replace(row, status=ZERO_VARIANCE)
    bound = row.estimator == "tost_power"
    of = max(errors, key=lambda error: error.sees(bound=bound))
    value = of.sees(bound=bound)
    low, high = (value * float(np.sqrt(of.df / stats.chi2.ppf(q, of.df))) for q in (0.975, 0.025))
    said = (
        f"80 % power; by {of.unit}, {of.df:.3g} degrees of freedom; interval: 95 % of its variance"
    )
    return replace(
        row, estimate=value, df=of.df, ci_low=low, ci_high=high,
        note="; ".join(filter(None, [said, row.note])),
    )  # fmt: skip


def detectable(df: float, power: float = POWER, alpha: float = FAMILYWISE_ALPHA) -> float:
    """Return the effect, in standard errors, that a two-sided t test finds with this power."""
    critical = float(stats.t.isf(alpha / 2, df))

    def found(effect: float) -> float:
        # The other tail holds next to nothing where the power is 80 %.
        return float(stats.nct.sf(critical, df, effect))

    # With one or two degrees of freedom effects are huge: double until one is found.
    high = critical + 3.0
    while found(high) < power:
        high *= 2
    return float(optimize.brentq(lambda effect: found(effect) - power, 0.0, high, xtol=1e-8))


def provable(df: float, power: float = POWER, alpha: float = ALPHA) -> float:
    """Return the smallest bound, in standard errors, that TOST proves with this power."""
    return _provable(df, power, alpha)


def _note(components: VarianceComponents, changing: bool = False) -> str:
    sd = ", ".join(
        f"{words} {100 * np.sqrt(getattr(components, name)):.1f}"
        for name, words in (("language", "language"), ("model_language", "model by language"),
                            ("seed", "seed"), ("item_language", "item by language"),
                            ("residual", "one answer"))
    )  # fmt: skip
    said = f"standard deviations in points: {sd}"
    if changing:
        said += "; models change groups between folds, so the numbers of weak and strong are means"
    return f"{said}; {components.note}" if components.note else said


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
def _provable(df: float, power: float, alpha: float) -> float:
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
