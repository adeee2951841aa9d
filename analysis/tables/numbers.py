"""Numbers as a reader sees them: points, logits, p, with a real minus sign."""

from __future__ import annotations

from analysis.estimates import Estimate

_MINUS = "\N{MINUS SIGN}"


def signed(value: float, digits: int) -> str:
    """Write a number with its sign; a rounded zero has none.

    Args:
        value: Finite.
        digits: After the decimal point.
    """
    text = f"{value:+.{digits}f}".replace("-", _MINUS)
    return text[1:] if float(f"{value:.{digits}f}") == 0 else text


def points(value: float) -> str:
    """Write a proportion as signed points, such as +3.5.

    Args:
        value: A difference of proportions.
    """
    return signed(100 * value, 1)


def unsigned_points(value: float) -> str:
    """Write a proportion from 0 up as points without a sign, such as 9.6 or 5.

    Args:
        value: A size, such as a bound.
    """
    return f"{100 * value:.1f}".removesuffix(".0")


def on_scale(value: float, scale: str) -> str:
    """Write a number in the units of its scale.

    Args:
        value: A proportion on `points`, else a number as it is.
        scale: The estimate's scale.
    """
    return points(value) if scale == "points" else signed(value, 2)


def p_value(p: float | None) -> str:
    """Write a p to three digits.

    Args:
        p: From 0 to 1, or None.

    Returns:
        Such as `0.034`, `< 0.001`, or nothing.
    """
    if p is None:
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def said_p(p: float | None, name: str = "p") -> str:
    """Write a p within a sentence.

    Args:
        p: From 0 to 1, or None.
        name: Whose p.

    Returns:
        Such as `p = 0.034`, or nothing.
    """
    if p is None:
        return ""
    return f"{name} {'' if p < 0.001 else '= '}{p_value(p)}"


def interval(row: Estimate) -> str:
    """Write the interval of a row, such as `−2.2 to +9.1`.

    Args:
        row: Any row.

    Returns:
        The interval in the units of the row's scale, or nothing if it has none.
    """
    if row.ci_low is None or row.ci_high is None:
        return ""
    scale = units_of(row)
    return f"{on_scale(row.ci_low, scale)} to {on_scale(row.ci_high, scale)}"


def units_of(row: Estimate) -> str:
    """Return the scale in whose units a row's numbers are shown.

    Args:
        row: Any row.

    Returns:
        `ratio` for a slope on points, which is points for each point; else the row's scale.
    """
    slope = row.estimand.startswith("slope") and row.scale == "points"
    return "ratio" if slope else row.scale
