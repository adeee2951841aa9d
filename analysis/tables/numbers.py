"""Numbers as a reader sees them: points, logits, p, with a real minus sign."""

from __future__ import annotations

from analysis.estimates import Estimate

_MINUS = "\N{MINUS SIGN}"


def signed(value: float, digits: int) -> str:
    """Write a finite number with its sign and so many digits; a rounded zero has no sign."""
    text = fixed(value, digits)
    return text if text.startswith(_MINUS) or float(text) == 0 else f"+{text}"


def fixed(value: float, digits: int) -> str:
    """Write a finite number with so many digits; a rounded zero has no sign."""
    # z: no negative zero (PEP 682).
    return f"{value:z.{digits}f}".replace("-", _MINUS)


def points(value: float) -> str:
    """Write a difference of proportions as signed points, such as +3.5."""
    return signed(100 * value, 1)


def unsigned_points(value: float) -> str:
    """Write a proportion from 0 up as points without a sign, such as 9.6 or 5."""
    return fixed(100 * value, 1).removesuffix(".0")


def in_points(value: float) -> str:
    """Write a proportion from 0 up with its unit, such as `9.6 points` or `1 point`."""
    number = unsigned_points(value)
    return f"{number} point{'' if number == '1' else 's'}"


def on_scale(value: float, scale: str) -> str:
    """Write a number in the units of its scale: a proportion on `points`, else as it is."""
    return points(value) if scale == "points" else signed(value, 2)


def p_value(p: float | None) -> str:
    """Write a p to three digits, such as `0.034` or `< 0.001`; nothing for None."""
    if p is None:
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def p_words(p: float | None, name: str = "p") -> str:
    """Write a p within a sentence, such as `p = 0.034`; nothing for None."""
    if p is None:
        return ""
    return f"{name} {'' if p < 0.001 else '= '}{p_value(p)}"


def interval(row: Estimate) -> str:
    """Write a row's interval in the units of its scale, such as `−2.2 to +9.1`, if it has one."""
    if row.ci_low is None or row.ci_high is None:
        return ""
    scale = units_of(row)
    return f"{on_scale(row.ci_low, scale)} to {on_scale(row.ci_high, scale)}"


def units_of(row: Estimate) -> str:
    """Return the scale in whose units a row's numbers are shown.

    That is `ratio` for a slope on points, which is points for each point; else the row's scale.
    """
    slope = row.estimand.startswith("slope") and row.scale == "points"
    return "ratio" if slope else row.scale
