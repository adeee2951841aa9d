"""D of unrelated branches of the family tree, and the gain by how near a language is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from analysis.arrays import Floats
from analysis.estimates import OK, ZERO_VARIANCE, Estimate
from analysis.gains.gain_table import POINTS, GainTable
from analysis.tables.numbers import points
from xling.languages import get_language, shared_branches

RANK = "rank of D among unrelated branches"
DOSE = "gain for each branch shared with the source"
LEAST_MEMBERS = 3
LEAST_FAMILIES = 8
_DRAWS = 20_000
_LISTED = 6
_ROUNDING = 2e-7  # as in two_groups: accuracies may have single precision


def branch_rows(
    table: GainTable, sources: Sequence[str], rng: np.random.Generator
) -> list[Estimate]:
    """Return the rank of |D| among unrelated branches, and the slope of gain on nearness.

    - `placebo_branches`: what D would be called if another branch had been trained on. Branches
      are nested and of unequal size, so the rank is a description and no test.
    - `permuted_families`: slope of the gain on the number of branches that a language shares with
      the nearest source, in proportion for each branch. p is the share of permutations of the
      nearness over top families whose slope is at least as large.

    Args:
        table: Gains by unit.
        sources: Codes of the source languages; without any the slope has a status.
        rng: Draws the permutations.
    """
    gain = table.gain[POINTS].mean(axis=0) if table.models else np.empty(0)
    return [_rank_row(table, gain), _dose_row(table, gain, sources, rng)]


def branch_differences(table: GainTable, gain: Floats) -> dict[str, float]:
    """Return the mean gain of each unrelated branch minus that of all other unrelated languages.

    Args:
        table: Whose languages they are.
        gain: By language, shape (L,).

    Returns:
        Branch name to difference, in the gain's units: branches with three languages or more that
        hold no related one, and leave three others. Of branches with the same languages the
        outermost stands for all.
    """
    control = np.flatnonzero(~table.related)
    related = {
        node
        for code, kin in zip(table.languages, table.related, strict=True)
        for node in (get_language(code).lineage if kin else ())
    }
    members: dict[str, list[int]] = {}
    names: dict[str, str] = {}
    for k in control:
        for node in reversed(get_language(table.languages[k]).lineage):
            if node not in related:
                members.setdefault(node.glottocode, []).append(int(k))
                names[node.glottocode] = node.name
    found: dict[tuple[int, ...], tuple[str, float]] = {}
    for code, places in members.items():
        others = np.setdiff1d(control, places)
        if min(len(places), len(others)) >= LEAST_MEMBERS:
            difference = float(gain[places].mean() - gain[others].mean())
            found.setdefault(tuple(places), (names[code], difference))
    return dict(found.values())


def _rank_row(table: GainTable, gain: Floats) -> Estimate:
    """Rank |D| among the differences of unrelated branches."""
    row = Estimate(
        f"{RANK}{table.label}", "rank", "placebo_branches", status=table.status,
        **{**table.shared, "unit": "branches"},
    )  # fmt: skip
    if row.status != OK:
        return row
    found = branch_differences(table, gain)
    row = replace(row, n_control=len(found))
    if not found:
        return replace(row, status=f"no unrelated branch of {LEAST_MEMBERS} languages")
    related, control = table.split(gain)
    d = abs(float(related.mean() - control.mean()))
    largest = sorted(found.items(), key=lambda pair: -abs(pair[1]))
    listed = ", ".join(f"{name} {points(value)}" for name, value in largest[:_LISTED])
    more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    rank = 1 + sum(abs(value) >= d for value in found.values())
    return replace(
        row,
        estimate=float(rank),
        note=f"of {len(found)} unrelated branches and the related one; nested and of unequal size, "
        f"so a description and no test; {listed}{more}",
    )


def _dose_row(
    table: GainTable, gain: Floats, sources: Sequence[str], rng: np.random.Generator
) -> Estimate:
    """Estimate the slope of gain on shared branches, families permuted."""
    row = Estimate(
        f"{DOSE}{table.label}", POINTS, "permuted_families", status=table.status,
        **{**table.shared, "unit": "families"},
    )  # fmt: skip
    if row.status != OK:
        return row
    names, place = np.unique(np.array(table.top_family, np.str_), return_inverse=True)
    if len(names) < LEAST_FAMILIES or not sources:
        return replace(row, status=f"needs {LEAST_FAMILIES} families, has {len(names)}")
    near = np.array(
        [max(shared_branches(source, code) for source in sources) for code in table.languages],
        np.float64,
    )
    if min(np.ptp(near), np.ptp(gain)) < _ROUNDING:
        return replace(row, status=ZERO_VARIANCE)
    # A family keeps its own nearness pattern; what is permuted is which family's gains it meets.
    size = np.bincount(place)
    total = np.bincount(place, near) / size
    by_family = np.bincount(place, gain) / size
    slope = _slope(near, gain)
    order = rng.permuted(np.tile(np.arange(len(names)), (_DRAWS, 1)), axis=1)
    centred = total - total.mean()
    drawn = np.abs(by_family[order] @ centred)
    p = (1 + int((drawn >= abs(by_family @ centred) - 1e-12).sum())) / (1 + _DRAWS)
    return replace(
        row, estimate=slope, p=float(p),
        note=f"p by permuting {len(names)} top families, {_DRAWS:,} draws, over families' means",
    )  # fmt: skip


def _slope(x: Floats, y: Floats) -> float:
    x = x - x.mean()
    return float(x @ y / (x @ x))
