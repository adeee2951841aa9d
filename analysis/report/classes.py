"""The class that a contrast falls into, which decides in what words it is said."""

from __future__ import annotations

from analysis.estimates import SCALE_DEPENDENT, Estimate

_ALPHA = 0.05
DIFFERS, SMALL, EXCLUDED = "differs", "small but real", "excluded"
CANNOT_TELL, BY_SCALE, NO_NUMBER = "cannot tell", "depends on the scale", "no number"


def classify(
    on_points: Estimate | None,
    on_logit: Estimate | None,
    tost: Estimate | None,
    *,
    removable: bool = True,
) -> str:
    """Return the class of one contrast.

    It differs where Holm's p is below 0.05 with one sign on both scales; beyond the bound a
    difference is excluded where the equivalence test's p is below 0.05 (Lakens 2017). One of both
    kinds is small but real, one of neither cannot be told; where the scales disagree it depends
    on the scale (Loftus 1978).

    Args:
        on_points: Its primary row in points.
        on_logit: Its primary row in logits; without a p the points alone decide.
        tost: Its equivalence row; without a p nothing is excluded.
        removable: Whether a change of scale can make it vanish, as it can an interaction. A
            difference of two groups that holds in points is then not called into doubt by an
            interval in logits that reaches zero: not found is not the same as not there.

    Returns:
        One of the constants of this module.
    """
    if on_points is None or on_points.p is None or on_points.estimate is None:
        return NO_NUMBER
    found = {sign(row) for row in (on_points, on_logit) if row is not None and row.p is not None}
    if not removable and sign(on_points):
        found.discard(0)
    if len(found) > 1 or on_points.status == SCALE_DEPENDENT:
        return BY_SCALE
    equivalent = tost is not None and tost.p is not None and tost.p < _ALPHA
    if found != {0}:
        return SMALL if equivalent else DIFFERS
    return EXCLUDED if equivalent else CANNOT_TELL


def sign(row: Estimate) -> int:
    """Return the sign of an estimate that holds after Holm's correction, else 0."""
    p = row.p if row.p_holm is None else row.p_holm
    if p is None or p >= _ALPHA or not row.estimate:
        return 0
    return 1 if row.estimate > 0 else -1


def only_in_points(on_logit: Estimate | None) -> str:
    """Say what to add where the guess-corrected scale does not show the difference."""
    if on_logit is None or on_logit.p is None or sign(on_logit):
        return ""
    return "; on the guess-corrected scale it is not established"
