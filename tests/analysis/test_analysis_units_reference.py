"""D's primary rows against R: Welch by t.test, families by metafor (tests/references/units.R)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.estimators.families import families_difference
from analysis.estimators.two_groups import Difference, welch_difference

STORED = Path(__file__).parents[1] / "references" / "units.json"
CASES = {case["name"]: case for case in json.loads(STORED.read_text(encoding="utf-8"))["cases"]}


def agrees(found: Difference | None, stored: dict[str, Any], rel: float) -> None:
    assert found is not None
    for name in ("estimate", "se", "df", "p", "low", "high"):
        assert getattr(found, name) == pytest.approx(stored[name], rel=rel, abs=1e-8), name


@pytest.mark.parametrize("name", CASES)
def test_welch_is_that_of_r(name: str) -> None:
    case = CASES[name]
    found = welch_difference(np.array(case["related"]), np.array(case["control"]))
    agrees(found, case["welch"], 1e-6)


@pytest.mark.parametrize("name", CASES)
def test_families_are_those_of_metafor(name: str) -> None:
    case = CASES[name]
    found = families_difference(
        np.array(case["related"]), np.array(case["control"]), case["family"]
    )  # fmt: skip
    # Both search for the Paule-Mandel variance, each to its own tolerance.
    agrees(found, case["families"], 1e-4)


def test_the_cases_have_and_have_not_a_variance_of_families() -> None:
    found = [case["families"]["tau2"] for case in CASES.values()]
    assert min(found) == 0 and max(found) > 1e-4
