"""Primed models: what raising the baseline did, and what the source adds after it."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd

from analysis.estimators.primed import ADDED, BEYOND, ENDS, GROUPS, RISE, WRONG, estimand
from analysis.exhibits.exhibit import Evidence, Exhibit
from analysis.figures.family_dots import family_dots_plot
from analysis.gains.primed import BASE, OTHER, TUNED, PrimedAnswers
from analysis.tables.fields import Field, Table, make_table, number_field

_SHOWN = {
    RISE: "base: primed \N{MINUS SIGN} unprimed",
    ENDS: "fine-tuned: primed \N{MINUS SIGN} unprimed",
    ADDED: "primed: fine-tuned \N{MINUS SIGN} base",
    BEYOND: "primed: fine-tuned \N{MINUS SIGN} control source",
    WRONG: "the same, items that the primed base gets wrong",
}
_COLUMNS = (
    ("base", (False, BASE)),
    ("tuned", (False, TUNED)),
    ("primed base", (True, BASE)),
    ("primed, tuned", (True, TUNED)),
    ("primed, control source", (True, OTHER)),
)


def primed_exhibit(evidence: Evidence) -> Exhibit | None:
    """Show each primed model beside its twin: differences with intervals, and accuracies.

    Returns:
        The exhibit; None where no model was primed.
    """
    primed = [answers for answers in evidence.compared.primed if not answers.status]
    if not primed:
        return None
    estimates = {row.estimand: row for row in evidence.estimates if row.estimator == "cluster_t"}
    several = len(primed) > 1
    rows = [
        {
            "label": f"{answers.model}, {words}" if several else words, "family": group,
            "estimate": row.estimate,
            "low": np.nan if row.ci_low is None else row.ci_low,
            "high": np.nan if row.ci_high is None else row.ci_high,
        }
        for answers in primed
        for name, words in _SHOWN.items()
        for group in GROUPS[1:]
        if (row := estimates.get(estimand(name, answers.model, group))) is not None
        and row.estimate is not None
    ]  # fmt: skip
    text = [
        "A primed model is the same model with its baseline raised on purpose: it was tuned on the "
        "task in languages outside the source's branch, and what that trained stays beneath every "
        "arm. Its gain is smaller than its twin's by the rise of the base less the difference of "
        "the ends, whatever transfers, so that comparison is no finding. What counts is whether "
        "the ends differ, and what the source adds to the primed model beyond an unrelated "
        "language.",
        *(_how(answers) for answers in primed),
    ]
    return Exhibit(
        "primed", "Baselines raised on purpose", "Primed models", tuple(text),
        "Means over the languages of each family; lines are 95 % t intervals over items, "
        "clustered by passage: they hold for these languages and adapters.",
        "What priming changed, and what the source adds after it, in points",
        partial(family_dots_plot, pd.DataFrame(rows), axis="difference (points)") if rows else None,
        _accuracies(primed),
    )  # fmt: skip


def _how(answers: PrimedAnswers) -> str:
    how = answers.how
    items = f"{how.items} questions" if how.items else "all questions that no baseline is asked"
    labels = "under shuffled labels" if how.labels == "shuffled" else "under the right labels"
    languages = ", ".join(how.languages)
    return (
        f"{answers.model}: {how.unprimed} tuned in {languages} for {how.steps} steps on {items}, "
        f"{labels}; the comparisons are without these languages."
    )


def _accuracies(primed: list[PrimedAnswers]) -> Table:
    """Tabulate mean accuracies by model and family, in per cent."""
    rows = []
    for answers in primed:
        for family, chosen in (("related", answers.related), ("control", ~answers.related)):
            if not chosen.any():
                continue
            means = [
                100 * float(answers.correct[key][chosen].mean()) if key in answers.correct
                else np.nan
                for _, key in _COLUMNS
            ]  # fmt: skip
            numbers = (number_field(mean, "{:.1f}") for mean in means)
            rows.append((Field(answers.model), Field(family), *numbers))
    columns = [("model", False), ("languages", False), *((f"{n} %", True) for n, _ in _COLUMNS)]
    return make_table(columns, rows)
