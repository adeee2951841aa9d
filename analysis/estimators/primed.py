"""What the source adds to a model whose baseline was raised on purpose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from analysis.arrays import Bits, Floats
from analysis.estimates import OK, ZERO_VARIANCE, Estimate
from analysis.estimators.rows import one_sample, with_difference
from analysis.estimators.two_groups import t_difference
from analysis.gains.gain_table import POINTS
from analysis.gains.primed import BASE, OTHER, TUNED, PrimedAnswers
from xling.records.metrics import clustered_stderr

CEILING, LEAST_ERRORS = 0.85, 30
"""There is no room above this accuracy of a primed base, or below this many errors of it."""
NO_ROOM = "no room"
NO_OTHER = "needs arm control-source"
RISE = "rise of the base"
ENDS = "finetuned: primed - unprimed"
ADDED = "finetuned - base"
BEYOND = "finetuned - control-source"
WRONG = f"{BEYOND}, items still wrong"
MARGIN = f"{BEYOND}, margin of the right label"
GROUPS = ("related and control", "related", "control")
_ROUNDING = 1e-9


def primed_rows(primed: Sequence[PrimedAnswers]) -> list[Estimate]:
    """Estimate what priming did, and what the source adds after it.

    Each row is the mean over the languages of a group. `cluster_t` takes items as the sampling
    unit, clustered by passage (df = passages - 1): it holds for these languages and adapters.
    `one_sample_ttest` takes languages as the unit.

    Args:
        primed: As analysis.gains.primed.primed_answers gives them.

    Returns:
        For each primed model and group of languages: the rise of its base; the difference of the
        ends; what the source adds (finetuned - base), and that beyond what an unrelated source
        adds (finetuned - control-source): on all items, on those that the primed base still gets
        wrong (which conditions on the base, alike for both arms, so that regression to the mean
        cancels), and of the right label's log-odds among the four, in nats. Where the primed base
        is above 0.85, or has fewer than 30 errors, these say `no room`.
    """
    return [row for answers in primed for row in _rows(answers)]


def estimand(name: str, model: str, group: str) -> str:
    """Return the name of a row, such as `rise of the base (gemma3-270m-primed, related)`."""
    return f"{name} ({model}, {group})"


def _rows(answers: PrimedAnswers) -> Iterator[Estimate]:
    groups = dict(
        zip(
            GROUPS,
            (np.ones_like(answers.related), answers.related, ~answers.related),
            strict=True,
        )
    )
    for group, chosen in groups.items():
        for name in (RISE, ENDS, ADDED, BEYOND, WRONG, MARGIN):
            scale = "nats" if name == MARGIN else POINTS
            row = Estimate(
                estimand(name, answers.model, group), scale, "cluster_t", "items", n_models=1,
                n_related=int((answers.related & chosen).sum()),
                n_control=int((~answers.related & chosen).sum()),
                n_items=len(answers.passage), n_passages=len(np.unique(answers.passage)),
                n_seeds=answers.n_seeds, baseline_source="held-out", note=_note(answers),
            )  # fmt: skip
            status = _status(answers, name, chosen)
            if status != OK:
                yield replace(row, status=status)
                continue
            values, counted = _difference(answers, name, chosen)
            yield _by_items(row, values, counted, answers)
            if name != WRONG:
                by_language = values.mean(axis=1)
                of_languages = replace(row, estimator="one_sample_ttest", unit="languages")
                yield one_sample(of_languages, by_language)


def _note(answers: PrimedAnswers) -> str:
    how = answers.how
    items = f"{how.items} questions" if how.items else "all free questions"
    return (
        f"primed in {', '.join(how.languages)}: {how.steps} steps on {items}, {how.labels} labels; "
        "without these languages"
    )


def _status(answers: PrimedAnswers, name: str, chosen: Bits) -> str:
    """Return `ok`, or why a row has no number."""
    if answers.status:
        return answers.status
    if not chosen.any():
        return "no such languages"
    if name == RISE:
        return OK
    if name == ENDS:
        return OK if (False, TUNED) in answers.correct else "needs finetuned of the unprimed model"
    base = answers.correct[True, BASE][chosen]
    errors = int((base < 0.5).sum())
    if base.mean() > CEILING or errors < LEAST_ERRORS:
        return f"{NO_ROOM}: the primed base is right in {base.mean():.2f}, {errors} errors are left"
    if name in (BEYOND, WRONG, MARGIN) and (True, OTHER) not in answers.correct:
        return NO_OTHER
    return OK


def _difference(answers: PrimedAnswers, name: str, chosen: Bits) -> tuple[Floats, Bits]:
    """Return differences (languages, items), and which of them count."""
    correct = answers.correct
    if name == MARGIN:
        values = answers.margin[TUNED] - answers.margin[OTHER]
    else:
        first, second = {
            RISE: ((True, BASE), (False, BASE)),
            ENDS: ((True, TUNED), (False, TUNED)),
            ADDED: ((True, TUNED), (True, BASE)),
        }.get(name, ((True, TUNED), (True, OTHER)))
        values = correct[first] - correct[second]
    counted = correct[True, BASE] < 0.5 if name == WRONG else np.ones(values.shape, np.bool_)
    return values[chosen], counted[chosen]


def _by_items(row: Estimate, values: Floats, counted: Bits, answers: PrimedAnswers) -> Estimate:
    """Fill a row with a ratio of sums over items and its t interval, clustered by passage.

    The mean of what counts is Σ v / Σ 1; its variance is that of the linearised residuals
    (v - mean) of each item, summed over languages (Taylor; Wolter 2007).
    """
    total = int(counted.sum())
    mean = float(values[counted].mean())
    row = replace(row, estimate=mean)
    passages = len(np.unique(answers.passage))
    if passages < 2:
        return replace(row, status="needs 2 passages")
    residual = np.where(counted, values - mean, 0.0).sum(axis=0) * len(answers.passage) / total
    if float(np.abs(residual).max()) < _ROUNDING:
        return replace(row, status=ZERO_VARIANCE)
    error = clustered_stderr(residual, answers.passage)
    return with_difference(row, t_difference(mean, error, passages - 1))
