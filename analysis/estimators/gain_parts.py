"""What part of the gain is what: format, the task in any language, relatedness.

gain(finetuned) = gain(shuffled-labels) + [gain(control-source) - gain(shuffled-labels)]
+ [gain(finetuned) - gain(control-source)]: what labels without meaning bring, what the same
questions in an unrelated language add, and what the related source adds to that.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np

from analysis.arrays import Bits, Floats
from analysis.estimates import OK, Estimate
from analysis.estimators.primary import with_status
from analysis.estimators.rows import one_sample, two_sample
from analysis.estimators.source_arms import CONTROL_SOURCE, SHUFFLED, kin_note, seeds_note
from analysis.gains.complete import subset_status
from analysis.gains.gain_table import POINTS, PRIMARY, GainTable

PART = "part of the gain: "
TOTAL, FORMAT, TASK, RELATEDNESS = "all of it", "format", "task in any language", "relatedness"
FORMAT_AND_TASK, TASK_AND_RELATEDNESS = "format and task", "task and relatedness"
GROUPS = ("related", "control", "related - control")
ASSUMPTIONS = (
    "assumes that the parts add up in points, that shuffled labels teach the format and no more, "
    "that the arms had the same questions, items and steps, and that the control source is akin to "
    "none of the languages: for its kin it counts as task what is relatedness to it"
)
DIFFERENT_MODELS = "models differ between the arms"
NO_LANGUAGES = "the arms have no languages in common"
NO_NUMBER = "a cell has no number"
_FEW = tuple(f"needs 2 {name} languages" for name in GROUPS[:2])


@dataclass(frozen=True)
class GainParts:
    """Parts of the gain by language, averaged over models; they add up to the last one.

    `values` maps a part's name to an array (languages,) in proportion; `languages` are their codes,
    `related` says which are related; `left_out` names those that the control-source arm was tuned
    on, `without` the models and languages that an arm lacks. `tables` are those of the arms that
    count, the primary one first; `unused` maps an arm that does not to the reason. `status` is `ok`
    or says why there are no parts.
    """

    values: dict[str, Floats]
    languages: tuple[str, ...]
    related: Bits
    left_out: tuple[str, ...]
    without: tuple[str, ...]
    tables: tuple[GainTable, ...]
    unused: dict[str, str]
    status: str

    @property
    def unused_note(self) -> str:
        """Which arms are left out, and why; empty if none is."""
        return "; ".join(f"{arm} is left out: {why}" for arm, why in self.unused.items())


def gain_part_rows(
    tables: Mapping[tuple[str, ...], GainTable],
    left_out: Collection[str] = (),
    kin: Collection[str] = (),
) -> list[Estimate]:
    """Return the parts of the gain in related languages, in controls, and their difference.

    Args:
        tables: Gains by condition (arm, reasoning, scoring).
        left_out: Target languages that the control-source arm was tuned on; they enter no part.
        kin: Target languages that share a branch with one of those; they are named in the notes.

    Returns:
        Three rows for each part and for the whole; no rows without finetuned and one other arm;
        a row without a number has a status, and where an arm lacks cells the status says what
        the numbers are without.
    """
    parts = gain_parts(tables, left_out)
    if parts is None:
        return []
    tuned = parts.tables[0]
    notes = [ASSUMPTIONS]
    if parts.left_out:
        notes.append(f"without {', '.join(parts.left_out)}, on which control-source was tuned")
    if any(table.condition == CONTROL_SOURCE for table in parts.tables):
        notes.append(kin_note(tuned, [code for code in parts.languages if code in kin]))
    notes += [parts.unused_note, seeds_note(parts.tables)]
    shared = tuned.shared | {
        "n_related": int(parts.related.sum()), "n_control": int((~parts.related).sum()),
        "n_seeds": min(table.shared["n_seeds"] for table in parts.tables),
    }  # fmt: skip
    rows = []
    for name, values in parts.values.items():
        for group in GROUPS:
            estimator = "ttest" if group == GROUPS[2] else "one_sample_ttest"
            row = Estimate(
                f"{PART}{name} ({group})", POINTS, estimator, status=parts.status,
                note="; ".join(filter(None, notes)), **shared,
            )  # fmt: skip
            rows.append(row if parts.status != OK else _filled(row, values, parts.related, group))
    return with_status(rows, subset_status(parts.without))


def gain_parts(
    tables: Mapping[tuple[str, ...], GainTable], left_out: Collection[str] = ()
) -> GainParts | None:
    """Take the gain of finetuned apart with the arms that there are.

    Args:
        tables: Gains by condition (arm, reasoning, scoring).
        left_out: Target languages that the control-source arm was tuned on.

    Returns:
        The parts, or None without finetuned and one other arm. With one of the two arms alone
        the parts that it cannot tell apart stay together. An arm with a gap, or with other
        models, is left out, unless no arm would remain.
    """
    found = [
        tables[condition]
        for condition in (PRIMARY, CONTROL_SOURCE, SHUFFLED)
        if condition in tables and tables[condition].models
    ]
    if PRIMARY not in tables or len(found) < 2 or not tables[PRIMARY].models:
        return None
    tuned, *others = found
    gaps = [_gap(tuned) or _gap(table) or _unlike(tuned, table) for table in others]
    whole = [table for table, gap in zip(others, gaps, strict=True) if not gap]
    used = (tuned, *(whole or others))
    with_source = any(table.condition == CONTROL_SOURCE for table in used)
    dropped = set(left_out) if with_source else set()
    common = [
        code
        for code in tuned.languages
        if code not in dropped and all(code in table.languages for table in used)
    ]
    gains: dict[tuple[str, ...], Floats] = {
        table.condition: table.gain[POINTS][:, _places(table, common)].mean(axis=0)
        for table in used
    }
    return GainParts(
        values=_parts(gains),
        languages=tuple(common),
        related=tuned.related[_places(tuned, common)],
        left_out=tuple(code for code in tuned.languages if code in dropped),
        without=_lacking(used, common, dropped),
        tables=used,
        unused={
            table.condition[0]: gap
            for table, gap in zip(others, gaps, strict=True)
            if gap and whole
        },
        status=(OK if common else NO_LANGUAGES) if whole else gaps[0],
    )


def _places(table: GainTable, codes: Collection[str]) -> list[int]:
    return [table.languages.index(code) for code in codes]


def _lacking(
    tables: Collection[GainTable], common: Collection[str], dropped: Collection[str]
) -> tuple[str, ...]:
    """Name what any arm lacks: its own missing cells, and languages that another arm has."""
    own = [name for table in tables for name in table.without]
    others = [code for table in tables for code in table.languages if code not in common]
    return tuple(name for name in dict.fromkeys((*own, *others)) if name not in dropped)


def _gap(table: GainTable) -> str:
    """Return what a table lacks for its parts; a family with few languages lacks nothing here.

    How many languages a family has is asked where it is needed, after leaving out.
    """
    if table.status not in (OK, *_FEW):
        return table.status
    return "" if np.isfinite(table.gain[POINTS]).all() else NO_NUMBER


def _unlike(tuned: GainTable, table: GainTable) -> str:
    return "" if table.models == tuned.models else DIFFERENT_MODELS


def _parts(gains: Mapping[tuple[str, ...], Floats]) -> dict[str, Floats]:
    tuned, other, shuffled = (gains.get(key) for key in (PRIMARY, CONTROL_SOURCE, SHUFFLED))
    parts: dict[str, Floats | None] = {}
    if tuned is None:
        return {}
    if shuffled is not None:
        parts[FORMAT] = shuffled
    if other is not None and shuffled is not None:
        parts[TASK] = other - shuffled
    elif other is not None:
        parts[FORMAT_AND_TASK] = other
    if other is not None:
        parts[RELATEDNESS] = tuned - other
    elif shuffled is not None:
        parts[TASK_AND_RELATEDNESS] = tuned - shuffled
    parts[TOTAL] = tuned
    return {name: values for name, values in parts.items() if values is not None}


def _filled(row: Estimate, values: Floats, related: Bits, group: str) -> Estimate:
    sides = dict(zip(GROUPS, (values[related], values[~related]), strict=False))
    for name in sides if group not in sides else (group,):
        if len(sides[name]) < 2:
            return replace(row, status=f"needs 2 {name} languages")
    if group in sides:
        return one_sample(row, sides[group])
    return two_sample(row, values[related], values[~related])
