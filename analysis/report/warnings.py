"""Warnings of results that look more like mistakes than findings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.arrays import Bits
from analysis.exhibits.exhibit import Exhibit
from analysis.gains.responses import NO_ANSWER, Responses
from analysis.runs.pull import PulledRuns
from xling.records import (
    ANSWER_MASS,
    CONSTANT,
    EMPTY,
    LEAST_CONSTANT,
    NO_MASS,
    RUN_COLUMNS,
    SAME_AS_BASE,
    UNCHANGED,
    unchanged_languages,
)

SAME_ACCURACY = "same_accuracy"
# Languages from which on equal accuracies are no accident: about 1 in 10 is equal by chance where
# a hundred questions are asked, so three are in 1 of 1,000 cases.
_LEAST_EQUAL = 3
# Share of choices that are the same at least where an adapter has no effect: the last digits may
# decide between options that are as likely.
_ALIKE = 0.99
_MOST_NAMED = 12
_SAYS = {
    ANSWER_MASS: f"the four labels together have less than {NO_MASS:.0%} of the probability (mean "
    "answer mass) in {languages}: the model does not answer with a label there, and which of them "
    "it prefers says little of what it knows",
    CONSTANT: "every question is answered with the same option in {languages}: accuracy there is "
    "how often that option happens to be right",
    EMPTY: "there are no questions behind the accuracy of {languages}",
    SAME_AS_BASE: f"no log-probability differs from the base model's by more than {UNCHANGED:g} in "
    "{languages}: the adapter has no effect there, or was not used",
    SAME_ACCURACY: "every accuracy equals the base model's to the last digit ({languages}): the "
    "adapter has no effect, or was not used",
}

Run = tuple[str | int, ...]
"""A run's values of RUN_COLUMNS."""


@dataclass(frozen=True)
class ResultWarning:
    """What looks wrong in one run: a kind, and the languages that it is found in."""

    run: Run
    kind: str
    languages: tuple[str, ...]


def find_warnings(pulled: PulledRuns, responses: Responses) -> list[ResultWarning]:
    """Find what looks wrong in a study's runs, whoever logged them, in the order of the runs.

    `responses` are the held-out answers of the runs that have records.
    """
    found = [*_answered(responses), *_logged(pulled)]
    found += [*_equal_records(pulled.records, responses), *_equal_accuracies(pulled.accuracies)]
    return sorted(found, key=lambda each: (tuple(map(str, each.run)), list(_SAYS).index(each.kind)))


def warning_notes(pulled: PulledRuns, found: Sequence[ResultWarning]) -> tuple[str, ...]:
    """Write a sentence for each warning: run, languages, and what to think of it."""
    named = {_cell(run.params): f"run {run.name} ({run.run_id}), " for run in pulled.runs}
    return tuple(
        f"{named.get(each.run, '')}model {'/'.join(map(str, each.run))}: "
        + _SAYS[each.kind].format(languages=_listed(each.languages))
        for each in found
    )


def warnings_exhibit(notes: Sequence[str]) -> Exhibit:
    """Make the section of the report that stands before all others, of one note at least."""
    return Exhibit(
        "warnings",
        "Results to look at before the others",
        "Warnings",
        (
            "Some results are of a kind that is more often a mistake than a finding. They are in "
            "all tables and estimates nevertheless; leave the runs out, or repeat them, if they "
            "are mistakes.",
            *notes,
        ),
    )


def _listed(codes: Sequence[str]) -> str:
    more = len(codes) - _MOST_NAMED
    return ", ".join(codes[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _cell(params: Mapping[str, str]) -> Run:
    return tuple(
        int(params[f"cfg.{name}"]) if name == "seed" else params[f"cfg.{name}"]
        for name in RUN_COLUMNS
    )


def _answered(responses: Responses) -> Iterator[ResultWarning]:
    """Find, in runs with records, answer mass near zero, and one option for all questions."""
    answered = responses.correct != NO_ANSWER
    n = answered.sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mass = np.where(answered, responses.answer_mass, 0).sum(axis=-1, dtype=np.float64) / n
        low = (n > 0) & (mass < NO_MASS)
    most = np.where(answered, responses.prediction, 0).max(axis=-1, initial=0)
    least = np.where(answered, responses.prediction, 9).min(axis=-1, initial=9)
    constant = (n >= LEAST_CONSTANT) & (most == least)
    for place, run in enumerate(_cells(responses.runs)):
        for kind, flags in ((ANSWER_MASS, low), (CONSTANT, constant)):
            codes = _chosen(responses.languages, flags[place])
            if codes:
                yield ResultWarning(run, kind, codes)


def _cells(rows: pd.DataFrame) -> list[Run]:
    return [
        tuple(int(value) if name == "seed" else str(value) for name, value in row.items())
        for row in rows[list(RUN_COLUMNS)].to_dict("records")
    ]


def _chosen(languages: Sequence[str], flags: Bits) -> tuple[str, ...]:
    return tuple(code for code, flag in zip(languages, flags, strict=True) if flag)


def _logged(pulled: PulledRuns) -> Iterator[ResultWarning]:
    """Find the same in runs without records by format.csv, or by their metrics."""
    rows = pulled.accuracies
    with_records = set(rows.loc[rows["has_records"].astype(bool), "run_id"])
    for run in pulled.runs:
        empty = {
            key.removeprefix("n_items/")
            for key, value in run.metrics.items()
            if key.startswith("n_items/") and value == 0
        }
        low: set[str] = set()
        constant: set[str] = set()
        if run.run_id not in with_records:
            low = {
                key.removeprefix("answer_mass/")
                for key, value in run.metrics.items()
                if key.startswith("answer_mass/") and value < NO_MASS
            }
            for row in pulled.formats.get(run.run_id, pd.DataFrame()).to_dict("records"):
                n = row.get("n_items", np.nan)
                share = max(row.get(f"predicted_{k}", 0) for k in range(1, 5))
                if n == 0:
                    empty.add(row["language"])
                if n >= LEAST_CONSTANT and share == 1:
                    constant.add(row["language"])
        for kind, codes in ((ANSWER_MASS, low), (CONSTANT, constant), (EMPTY, empty)):
            if codes:
                yield ResultWarning(_cell(run.params), kind, tuple(sorted(codes)))


def _equal_records(records: pd.DataFrame, responses: Responses) -> Iterator[ResultWarning]:
    """Find tuned runs with records that answer as the base does, item by item."""
    runs = _cells(responses.runs)
    for place, run in enumerate(runs):
        for other, base in _bases(run, runs):
            # Log-probabilities are compared only where nearly every choice is the same already.
            same = responses.prediction[place] == responses.prediction[other]
            alike = (same.mean(axis=-1) >= _ALIKE) & (responses.prediction[place] > 0).any(axis=-1)
            codes = _chosen(responses.languages, alike)
            if not codes:
                continue
            rows = records[records["language"].isin(codes)]
            equal = unchanged_languages(_of_run(rows, run), _of_run(rows, base))
            if equal:
                yield ResultWarning(run, SAME_AS_BASE, equal)
                break


def _bases(run: Run, runs: Sequence[Run]) -> list[tuple[int, Run]]:
    """Find the base runs of a tuned run, asked as it was; a base run has none."""
    model, arm, _, *asked = run
    if arm == "base":
        return []
    return [
        (place, other)
        for place, other in enumerate(runs)
        if (other[0], other[1], *other[3:]) == (model, "base", *asked)
    ]


def _of_run(records: pd.DataFrame, run: Run) -> pd.DataFrame:
    chosen = np.ones(len(records), np.bool_)
    for name, value in zip(RUN_COLUMNS, run, strict=True):
        chosen &= (records[name] == value).to_numpy(np.bool_)
    return records[chosen]


def _equal_accuracies(accuracies: pd.DataFrame) -> Iterator[ResultWarning]:
    """Find tuned runs, one side without records, whose accuracies equal the base's."""
    by_run: dict[Run, tuple[bool, dict[str, float]]] = {}
    for _, rows in accuracies.groupby(list(RUN_COLUMNS), sort=True, observed=True):
        (run,) = _cells(rows.head(1))
        accuracy = {
            str(code): float(value)
            for code, value in zip(rows["language"], rows["accuracy"], strict=True)
        }
        by_run[run] = bool(rows["has_records"].astype(bool).all()), accuracy
    for run, (has_records, accuracy) in by_run.items():
        for _, base in _bases(run, list(by_run)):
            base_has_records, others = by_run[base]
            shared = sorted(set(accuracy) & set(others))
            if (has_records and base_has_records) or len(shared) < _LEAST_EQUAL:
                continue
            if all(accuracy[code] == others[code] for code in shared):
                yield ResultWarning(run, SAME_ACCURACY, tuple(shared))
                break
