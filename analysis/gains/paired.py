"""Paired proportions of many cells at once: Newcombe's interval and the exact McNemar test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from analysis.arrays import Floats, Integers


@dataclass(frozen=True)
class Interval:
    """Lower and upper limits, arrays of one shape, in proportion."""

    low: Floats
    high: Floats


def wilson_interval(successes: Integers, n: Integers, confidence: float = 0.95) -> Interval:
    """Return Wilson's score interval for proportions (Wilson 1927).

    Args:
        successes: Shape (cells,), counts.
        n: Shape (cells,), number of trials; where it is 0 the limits are NaN.
        confidence: Coverage, between 0 and 1.

    Returns:
        Limits of shape (cells,).
    """
    z = float(stats.norm.ppf((1 + confidence) / 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        share = successes / n
        middle = (successes + z**2 / 2) / (n + z**2)
        half = z / (n + z**2) * np.sqrt(n * share * (1 - share) + z**2 / 4)
    return Interval(middle - half, middle + half)


def newcombe_interval(
    both: Integers, gained: Integers, lost: Integers, neither: Integers, confidence: float = 0.95
) -> Interval:
    """Return the interval of a difference of paired proportions, (gained - lost) / n.

    Method 10 of Newcombe 1998 (Statistics in Medicine 17:2635-2650): the Wilson limits of the
    two margins, put together with the correlation phi of the table, phi with its continuity
    correction. It takes items as independent, so it is somewhat narrow where several items
    share a passage.

    Args:
        both: Shape (cells,), items right before and after.
        gained: Shape (cells,), items right after only.
        lost: Shape (cells,), items right before only.
        neither: Shape (cells,), items wrong both times.
        confidence: Coverage, between 0 and 1.

    Returns:
        Limits of shape (cells,); NaN where a cell has no items.

    Raises:
        ValueError: If a count is negative.
    """
    both, gained, lost, neither = (np.asarray(x, np.int64) for x in (both, gained, lost, neither))
    if any((x < 0).any() for x in (both, gained, lost, neither)):
        raise ValueError("counts of item pairs must not be negative")
    n = both + gained + lost + neither
    after, before = both + gained, both + lost
    first, second = wilson_interval(after, n, confidence), wilson_interval(before, n, confidence)
    with np.errstate(divide="ignore", invalid="ignore"):
        p_after, p_before = after / n, before / n
        phi = _corrected_phi(both, gained, lost, neither)
        down_after, up_after = p_after - first.low, first.high - p_after
        down_before, up_before = p_before - second.low, second.high - p_before
        below = down_after**2 - 2 * phi * down_after * up_before + up_before**2
        above = up_after**2 - 2 * phi * up_after * down_before + down_before**2
        gain = (gained - lost) / n
    # Rounding can take the radicand just below 0, and a limit just past the possible range.
    low = np.maximum(gain - np.sqrt(np.maximum(below, 0)), -1)
    return Interval(low, np.minimum(gain + np.sqrt(np.maximum(above, 0)), 1))


def _corrected_phi(both: Integers, gained: Integers, lost: Integers, neither: Integers) -> Floats:
    """Return Newcombe's phi: 0 if a margin is empty; a positive covariance loses n / 2."""
    a, b, c, d = (x.astype(np.float64) for x in (both, gained, lost, neither))
    margins = (a + b) * (c + d) * (a + c) * (b + d)
    covariance = a * d - b * c
    shrunk = np.where(covariance > 0, np.maximum(covariance - (a + b + c + d) / 2, 0), covariance)
    return np.where(margins > 0, shrunk / np.sqrt(np.where(margins > 0, margins, 1)), 0.0)


def mcnemar_exact(gained: Integers, lost: Integers) -> Floats:
    """Test gained against lost items by the two-sided exact McNemar test (binomial, one half).

    Args:
        gained: Shape (cells,), items right after only.
        lost: Shape (cells,), items right before only.

    Returns:
        p of shape (cells,); 1 where there are no discordant pairs (the caller says so).

    Raises:
        ValueError: If a count is negative.
    """
    gained, lost = np.asarray(gained, np.int64), np.asarray(lost, np.int64)
    if (gained < 0).any() or (lost < 0).any():
        raise ValueError("counts of discordant pairs must not be negative")
    tail = stats.binom.cdf(np.minimum(gained, lost), gained + lost, 0.5)
    return np.minimum(1.0, 2 * np.asarray(tail, np.float64))
