"""Two groups of languages, or two paired means, compared: tests with guards and intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pingouin
from scipy import special, stats

from analysis.arrays import Floats

# Gains of n items move in steps of 1 / n, above 1e-6 even for means over many cells. Accuracies
# that came as metrics may have single precision, so what is smaller than this is rounding.
_ROUNDING = 2e-7
_ROUNDING_OF_RATIOS = 1e-9


@dataclass(frozen=True)
class Difference:
    """A difference of two group means; `low` and `high` are its limits at `confidence`."""

    estimate: float
    se: float
    df: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Equivalence:
    """TOST: `p` against a difference beyond the bound; the smallest bound that has p = 0.05."""

    difference: Difference
    p: float
    smallest_bound: float


def has_no_variance(related: Floats, control: Floats) -> bool:
    """Return whether neither group varies but for rounding, so that no test means anything."""
    return bool(max(np.ptp(related), np.ptp(control)) < _ROUNDING)


def mean_difference(related: Floats, control: Floats, confidence: float = 0.95) -> Difference:
    """Test the mean of one group minus that of the other, equal variances assumed, df = n - 2.

    T, df and p are those of `pingouin.ttest(correction=False)`. The interval is scipy's for the
    same test: pingouin rounds its own to two decimals unless a global option is changed, and
    changing that is not safe where several analyses run in threads.

    Args:
        related: Shape (n1,), n1 >= 2, finite.
        control: Shape (n2,), n2 >= 2, finite.
        confidence: Coverage of the interval.

    Returns:
        The difference on the values' own scale.

    Raises:
        ValueError: If a group has fewer than two values, a value is not finite, or no group
            varies; the caller turns these into a status.
    """
    related, control = _checked(related, control)
    tested = pingouin.ttest(related, control, correction=False).iloc[0]
    df = float(tested["dof"])
    limits = stats.ttest_ind(related, control).confidence_interval(confidence)
    low, high = float(limits.low), float(limits.high)
    se = (high - low) / 2 / float(stats.t.ppf((1 + confidence) / 2, df))
    estimate = float(related.mean() - control.mean())
    return Difference(estimate, se, df, low, high, float(tested["p_val"]))


def interaction(weak: tuple[Floats, Floats], strong: tuple[Floats, Floats]) -> Difference:
    """Test how weak and strong models differ in what the families differ by.

    p is that of the Interaction row of `pingouin.mixed_anova` (between: family, within: baseline
    group, subject: language). With two levels within, its F is the square of the t of the
    languages' differences weak minus strong, from which the interval comes.

    Args:
        weak: Mean gain by language, (related of shape (n1,), control of shape (n2,)).
        strong: The same languages in the same order.

    Returns:
        I = (related - control in weak) - (related - control in strong), 95 % interval.

    Raises:
        ValueError: As mean_difference, of the differences by language.
    """
    differences = [w - s for w, s in zip(weak, strong, strict=True)]
    if len(differences[0]) < 2:
        return welch_difference(differences[0], differences[1])
    result = mean_difference(differences[0], differences[1])
    frame = pd.DataFrame(
        [(f"{family}{i}", family, group, float(value))
         for group, values in (("weak", weak), ("strong", strong))
         for family, gains in zip(("related", "control"), values, strict=True)
         for i, value in enumerate(gains)],
        columns=["language", "family", "baseline_group", "gain"])  # fmt: skip
    table = pingouin.mixed_anova(
        frame, dv="gain", within="baseline_group", between="family", subject="language"
    ).set_index("Source")
    p = float(table.loc["Interaction", "p_unc"])
    return Difference(result.estimate, result.se, result.df, result.low, result.high, p)


def pooled_difference(first: Floats, second: Floats, confidence: float = 0.95) -> Difference:
    """Test the mean of one group minus that of another, variances equal, df = n - 2 (Student).

    mean_difference is the same test with pingouin's p, which takes milliseconds.

    Args:
        first: Shape (n1,), n1 >= 2, finite.
        second: Shape (n2,), n2 >= 2, finite.
        confidence: Coverage of the interval.

    Raises:
        ValueError: As welch_difference.
    """
    first, second = _checked(first, second)
    df = len(first) + len(second) - 2
    squares = sum(float(((group - group.mean()) ** 2).sum()) for group in (first, second))
    se = (squares / df * (1 / len(first) + 1 / len(second))) ** 0.5
    return t_difference(float(first.mean() - second.mean()), se, df, confidence)


def welch_difference(first: Floats, second: Floats, confidence: float = 0.95) -> Difference:
    """Test the mean of one group minus that of another, variances unequal (Welch 1947).

    Where the first group is a single value, its variance is taken to be the second's: then the
    difference has the standard error s * sqrt(1 + 1 / n2), df = n2 - 1.

    Args:
        first: Shape (n1,), n1 >= 1, finite.
        second: Shape (n2,), n2 >= 2, finite.
        confidence: Coverage of the interval.

    Returns:
        The difference on the values' own scale.

    Raises:
        ValueError: If a group has too few values, a value is not finite, or no group varies; the
            caller turns these into a status.
    """
    first, second = _checked(first, second, least=1)
    n, k = len(first), len(second)
    of_second = float(second.var(ddof=1)) / k
    if n == 1:
        return t_difference(
            float(first[0] - second.mean()), float(np.sqrt(of_second * (k + 1))), k - 1, confidence
        )
    of_first = float(first.var(ddof=1)) / n
    variance = of_first + of_second
    df = variance**2 / (of_first**2 / (n - 1) + of_second**2 / (k - 1))
    estimate = float(first.mean() - second.mean())
    return t_difference(estimate, float(np.sqrt(variance)), df, confidence)


def equivalence(found: Difference, bound: float) -> Equivalence:
    """Test by two one-sided t tests that a difference is smaller than a bound.

    Args:
        found: The difference, its standard error and degrees of freedom.
        bound: The largest difference that counts as none, on its scale, above 0.

    Returns:
        p, the difference with its 90 % interval (the one that TOST at 5 % goes with), and the
        smallest bound that could be proved at 5 % (Schuirmann 1987; Lakens 2017).

    Raises:
        ValueError: If the bound is not a positive number.
    """
    check_bound(bound)
    narrow = t_difference(found.estimate, found.se, found.df, 0.90)
    t = (bound - abs(found.estimate)) / found.se
    smallest = max(abs(narrow.low), abs(narrow.high))
    return Equivalence(narrow, float(stats.t.sf(t, found.df)), smallest)


def check_bound(bound: float) -> None:
    """Refuse an equivalence bound that is not a positive number, with a ValueError."""
    if not (np.isfinite(bound) and bound > 0):
        raise ValueError(
            f"the equivalence bound is {bound}; give a number above 0 (0.05 is five points)"
        )


def t_difference(estimate: float, se: float, df: float, confidence: float = 0.95) -> Difference:
    """Give an estimate its t interval and two-sided p; `se` and `df` are above 0."""
    # Student's quantile itself: stats.t is the same, and takes a hundred times as long.
    half = float(special.stdtrit(df, (1 + confidence) / 2)) * se
    p = 2 * float(special.stdtr(df, -abs(estimate) / se))
    return Difference(estimate, se, df, estimate - half, estimate + half, p)


def fieller(numerator: Floats, denominator: Floats, confidence: float = 0.95) -> Difference | None:
    """Return the ratio of two paired means with Fieller's interval (Fieller 1954).

    The interval holds every ratio r that a paired t test of numerator - r * denominator does not
    reject.

    Args:
        numerator: Shape (n,), n >= 2.
        denominator: Shape (n,), paired with it.
        confidence: Coverage.

    Returns:
        The ratio; `p` is that of the one-sample t test of the numerator against 0, to which the
        interval is dual, and `se` the delta method's. None if the denominator's mean does not
        differ from 0 at this level, for then the interval has no end.
    """
    n = len(numerator)
    critical = float(stats.t.ppf((1 + confidence) / 2, n - 1)) ** 2
    top, bottom = float(numerator.mean()), float(denominator.mean())
    covariance = np.cov(numerator, denominator) / n
    a = bottom**2 - critical * float(covariance[1, 1])
    if a <= _ROUNDING_OF_RATIOS**2:
        return None
    b = top * bottom - critical * float(covariance[0, 1])
    c = top**2 - critical * float(covariance[0, 0])
    root = float(np.sqrt(max(b**2 - a * c, 0.0)))
    ratio = top / bottom
    weights = np.array([1.0, -ratio])
    se = float(np.sqrt(max(weights @ covariance @ weights, 0.0))) / abs(bottom)
    p = float(pingouin.ttest(numerator, 0)["p_val"].iloc[0])
    return Difference(ratio, se, float(n - 1), (b - root) / a, (b + root) / a, p)


def _checked(first: Floats, second: Floats, least: int = 2) -> tuple[Floats, Floats]:
    """Check that both groups are fit for a test; return float64 arrays."""
    related, control = np.asarray(first, np.float64), np.asarray(second, np.float64)
    for name, values, needed in (("first", related, least), ("second", control, 2)):
        if values.ndim != 1 or len(values) < needed:
            raise ValueError(f"{name} group: needs {needed} values, has {len(values)}")
        if not np.isfinite(values).all():
            raise ValueError(f"{name} group: every value must be finite")
    if has_no_variance(related, control):
        raise ValueError("zero variance in both groups: no test of their difference means anything")
    return related, control
