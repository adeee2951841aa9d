"""Every exhibit that a study's runs allow."""

from __future__ import annotations

from analysis.exhibits.arms import arms_exhibit, parts_exhibit
from analysis.exhibits.confidence import calibration_exhibit
from analysis.exhibits.exhibit import Evidence, Exhibit
from analysis.exhibits.experts import routing_exhibits
from analysis.exhibits.logged import cloze_exhibit, reasoning_exhibit
from analysis.exhibits.options import orders_exhibit, positions_exhibit
from analysis.exhibits.primed import primed_exhibit
from analysis.exhibits.specifications import specification_exhibits


def study_exhibits(evidence: Evidence) -> list[Exhibit]:
    """Make the exhibits, in the order to be shown.

    Returns:
        Those that the runs allow, possibly none.
    """
    found = [
        arms_exhibit(evidence),
        parts_exhibit(evidence),
        primed_exhibit(evidence),
        positions_exhibit(evidence),
        orders_exhibit(evidence),
        cloze_exhibit(evidence),
        reasoning_exhibit(evidence),
        calibration_exhibit(evidence),
        *routing_exhibits(evidence),
        *specification_exhibits(evidence),
    ]
    return [exhibit for exhibit in found if exhibit is not None]
