"""The specification curve: D, B and I under every choice that could have been made otherwise.

It describes how much a finding rests on a choice (Simonsohn, Simmons & Nelson 2020); the
specifications are of the same data, so their share is no test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis.arrays import Bits, Floats
from analysis.estimates import OK, Estimate
from analysis.estimators.primary import with_status
from analysis.estimators.two_groups import (
    Difference,
    has_no_variance,
    pooled_difference,
    t_difference,
    welch_difference,
)
from analysis.gains.baselines import BaselineGroups
from analysis.gains.gain_table import CLIP, LOGIT, POINTS, GainTable, guess_corrected_logit
from xling.languages import get_language

CLIPS = (0.01, CLIP, 0.05)
CHOICES = ("scale", "clip", "test", "branch", "baseline", "left_out")
SPECIFICATION_COLUMNS = ("estimand", "estimate", "ci_low", "ci_high", "p", *CHOICES)
NO_NUMBER = "no specification has a number"
_SPLIT, _CONTINUOUS = "weak and strong", "continuous"
_TESTS: dict[str, Callable[[Floats, Floats], Difference]] = {
    "welch": welch_difference,
    "pooled": pooled_difference,
}


@dataclass(frozen=True)
class _Cells:
    """The gains of one choice of scale, clip, branch, models and languages."""

    gain: Floats
    related: Bits
    weak: Bits
    strong: Bits
    baseline: Floats


def specifications(
    table: GainTable, groups: BaselineGroups, sources: Sequence[str]
) -> pd.DataFrame:
    """Estimate D, B and I under every combination of choices, and without each unit.

    Crossed are scale (points; logits clipped at 0.01, 0.02, 0.05, where logits mean something),
    test (Welch, pooled), branch level (each branch of the sources that leaves a related language
    and two controls; not for B, which has no family in it) and, for B and I, baseline (weak and
    strong, or continuous: the regression on the baseline, over the distance between the groups'
    means). Each language and each model is left out on both scales, everything else as in the
    headline.

    Args:
        table: Gains by unit, complete.
        groups: Weak and strong models; without any, D alone.
        sources: Codes of the source languages.

    Returns:
        A row for each specification that has a number, SPECIFICATION_COLUMNS: proportions in
        points, logits in logits, 95 % intervals; `clip` is NaN in points, `left_out` empty,
        `language: <code>` or `model: <name>`.
    """
    if table.status != OK:
        return pd.DataFrame(columns=list(SPECIFICATION_COLUMNS))
    scales = [(POINTS, np.nan)]
    if table.logit_status(groups) == OK:
        scales += [(LOGIT, clip) for clip in CLIPS]
    own = "as in the study"
    found: list[tuple[object, ...]] = []
    for scale, clip in scales:
        gain = _gain(table, scale, clip)
        for branch, related in {own: table.related, **_branches(table, sources)}.items():
            cells = _cells(table, groups, gain, related)
            for test in _TESTS:
                for name, baseline, result in _contrasts(cells, test):
                    if name == "B" and branch != own:
                        continue  # B has no family in it: the same number once more
                    found.append((name, *_numbers(result), scale, clip, test, branch, baseline, ""))
        if scale == LOGIT and clip != CLIP:
            continue
        for left_out, cells in _without_each(table, groups, gain):
            for name, baseline, result in _contrasts(cells, "welch"):
                if baseline != _CONTINUOUS:
                    how = (scale, clip, "welch", own, baseline, left_out)
                    found.append((name, *_numbers(result), *how))
    return pd.DataFrame(found, columns=list(SPECIFICATION_COLUMNS))


def specification_rows(
    found: pd.DataFrame, table: GainTable, signs: dict[str, float | None]
) -> list[Estimate]:
    """Return the share of specifications with the headline's sign, and that with p < 0.05.

    Args:
        found: As specifications gives them.
        table: What they are of.
        signs: The headline's estimate of D, B and I in points; None where there is none.
    """
    rows = []
    for name, headline in signs.items():
        mine = found[found["estimand"] == name]
        same = np.sign(mine["estimate"].to_numpy(np.float64)) == np.sign(headline or 0.0)
        small = mine["p"].to_numpy(np.float64) < 0.05
        for words, share in (("with the headline's sign", same), ("with p below 0.05", small)):
            row = Estimate(
                f"specifications of {name} {words}",
                "share",
                "specification_curve",
                note=f"{len(mine)} specifications of the same data: a description, no test",
                **{**table.shared, "unit": "specifications"},
            )
            if len(mine) and headline is not None:
                rows.append(replace(row, estimate=float(share.mean())))
            else:
                rows.append(replace(row, status=NO_NUMBER if table.status == OK else table.status))
    return with_status(rows, table.subset)


def _gain(table: GainTable, scale: str, clip: float) -> Floats:
    if scale == POINTS:
        return table.gain[POINTS]
    after, before = (
        guess_corrected_logit(values, table.chance, clip) for values in (table.after, table.before)
    )
    return after - before


def _branches(table: GainTable, sources: Sequence[str]) -> dict[str, Bits]:
    """Return the related languages at each other branch level that leaves a contrast."""
    if not sources:
        return {}
    shared = set.intersection(*(set(get_language(code).lineage) for code in sources))
    found: dict[str, Bits] = {}
    seen = {table.related.tobytes()}
    for node in get_language(next(iter(sources))).lineage:
        related = np.array([node in get_language(code).lineage for code in table.languages])
        if node not in shared or related.tobytes() in seen:
            continue
        if related.sum() >= 1 and (~related).sum() >= 2:
            seen.add(related.tobytes())
            found[node.name] = related
    return found


def _cells(table: GainTable, groups: BaselineGroups, gain: Floats, related: Bits) -> _Cells:
    named = np.array([groups.group.get(model, "") for model in table.models], np.str_)
    baseline = np.array([groups.accuracy.get(model, np.nan) for model in table.models], np.float64)
    whole = groups.status == OK and not groups.changing
    weak, strong = ((named == name) & whole for name in ("weak", "strong"))
    return _Cells(gain, related, weak, strong, baseline)


def _without_each(
    table: GainTable, groups: BaselineGroups, gain: Floats
) -> Iterator[tuple[str, _Cells]]:
    """Yield the cells without each language and without each model."""
    cells = _cells(table, groups, gain, table.related)
    for k, code in enumerate(table.languages):
        stays = np.arange(len(table.languages)) != k
        related = cells.related[stays]
        if related.sum() >= 1 and (~related).sum() >= 2:
            yield (
                f"language: {code}",
                _Cells(gain[:, stays], related, cells.weak, cells.strong, cells.baseline),
            )
    for m, model in enumerate(table.models):
        stays = np.arange(len(table.models)) != m
        if stays.any():
            yield f"model: {model}", _Cells(
                gain[stays], cells.related, cells.weak[stays], cells.strong[stays],
                cells.baseline[stays],
            )  # fmt: skip


def _contrasts(cells: _Cells, test: str) -> Iterator[tuple[str, str, Difference]]:
    """Yield D, B and I with their baseline form, so far as the cells give them."""
    by_language = cells.gain.mean(axis=0)
    pair = by_language[cells.related], by_language[~cells.related]
    if not has_no_variance(*pair) and not (test == "pooled" and len(pair[0]) < 2):
        yield "D", "", _TESTS[test](*pair)
    if min(cells.weak.sum(), cells.strong.sum()) < 2:
        return
    own = cells.gain[:, cells.related].mean(axis=1) - cells.gain[:, ~cells.related].mean(axis=1)
    for name, values in (("B", cells.gain.mean(axis=1)), ("I", own)):
        weak, strong = values[cells.weak], values[cells.strong]
        if not has_no_variance(weak, strong):
            yield name, _SPLIT, _TESTS[test](weak, strong)
        if test == "welch" and len(values) > 2 and (slope := _on_baseline(cells, values)):
            yield name, _CONTINUOUS, slope


def _on_baseline(cells: _Cells, values: Floats) -> Difference | None:
    """Return what the regression on the baseline says between the groups' mean baselines."""
    gap = float(cells.baseline[cells.weak].mean() - cells.baseline[cells.strong].mean())
    x = cells.baseline - cells.baseline.mean()
    size, df = float(x @ x), len(x) - 2
    if not np.isfinite(size) or size < 1e-12:
        return None
    slope = float(x @ values) / size
    rest = values - values.mean() - slope * x
    se = float(np.sqrt(rest @ rest / df / size))
    return t_difference(slope * gap, se * abs(gap), df) if se * abs(gap) > 1e-9 else None


def _numbers(found: Difference) -> tuple[float, float, float, float]:
    return found.estimate, found.low, found.high, found.p
