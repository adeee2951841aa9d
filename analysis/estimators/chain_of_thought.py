"""Fine-tuning against chain-of-thought: do the same models gain, and do they end up level?

Both gains are taken from one base accuracy, so its noise alone makes them correlate. Here each
gain has its own half of the passages, with its own baseline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pingouin
from scipy import stats

from analysis.arrays import Bits, Floats, Integers, Singles
from analysis.estimates import OK, ZERO_VARIANCE, Estimate
from analysis.estimators.two_groups import check_bound, t_difference
from analysis.gains.gain_table import POINTS
from analysis.gains.items import item_gains
from analysis.gains.responses import Responses

NEEDS_MODELS = "needs 3 models"
NEEDS_PASSAGES = "needs 2 passages"
NO_HEADROOM = "no headroom: a base model answers every question of a half"
_SCORING = "answer-token"
HALVINGS = 200
_ROUNDING = 1e-12
_ALMOST = 1 - 1e-9
AGREEMENT = "r (fine-tuning gain, chain-of-thought gain)"
_LEVEL = "accuracy finetuned - chain-of-thought"


@dataclass(frozen=True)
class ChainOfThought:
    """Accuracy by item of the base model, of finetuned, and of the base model with reasoning.

    `passage` has shape (N,), codes 0 to P - 1; the others (models M, languages L, items N), 0 to
    1, averaged over seeds where there are several. Base and finetuned answer directly.
    """

    models: tuple[str, ...]
    languages: tuple[str, ...]
    passage: Integers
    before: Singles
    finetuned: Singles
    reasoned: Singles

    @property
    def n_passages(self) -> int:
        """How many passages the items stand on."""
        return int(self.passage.max()) + 1


def chain_of_thought_arrays(
    responses: Responses, languages: Sequence[str], models: Sequence[str], seeds: Sequence[int]
) -> tuple[ChainOfThought | None, str]:
    """Find the runs of base direct, finetuned direct and base with chain-of-thought.

    Args:
        responses: Held-out answers of all runs.
        languages: The target languages.
        models: The models; each needs all three kinds of run.
        seeds: Seeds of finetuned; each model needs all of them. The base model has nothing to
            seed: its run of the lowest seed is taken.

    Returns:
        The answers and `ok`; or None and what is missing, with model and arm.
    """
    if not (models and seeds and languages):
        return None, "not available: no gains of finetuned"
    places = np.empty((len(seeds) + 2, len(models)), np.intp)
    for m, model in enumerate(models):
        for k, wanted in enumerate(_wanted_runs(seeds)):
            place = responses.run(model=model, scoring=_SCORING, **wanted)
            if place is None:
                name = "/".join(map(str, wanted.values()))
                return None, f"not available: no item records of {model} {name}"
            places[k, m] = place
    before, after = np.broadcast_to(places[0], places[1:].shape), places[1:]
    # One call for all runs, so that all of them are checked to have the same items.
    items, status = item_gains(responses, before, after, languages)
    if items is None:
        return None, status
    return (
        ChainOfThought(
            tuple(models), tuple(languages), items.passage, items.before,
            np.asarray(items.after[:-1].mean(axis=0), np.float32), items.after[-1],
        ),
        OK,
    )  # fmt: skip


def chain_of_thought_rows(
    answers: ChainOfThought | None,
    status: str,
    bound: float,
    rng: np.random.Generator,
    shared: Mapping[str, Any],
) -> list[Estimate]:
    """Test the correlation of the two gains, and the equivalence of the two accuracies.

    r is the median of HALVINGS random halvings; its interval and p are those of a jackknife over
    models on Fisher's z, df = models - 2.

    Args:
        answers: As chain_of_thought_arrays gives them.
        status: The status that came with them.
        bound: Equivalence bound of the accuracies in proportion, above 0.
        rng: Draws the halves of the passages.
        shared: Columns that describe the data, GainTable.shared of the primary arm.

    Returns:
        Two rows; a row without a number has a status.

    Raises:
        ValueError: If the bound is not a positive number.
    """
    check_bound(bound)
    columns = dict(shared) | {"unit": "models"}
    if answers is not None:
        columns |= {
            "n_models": len(answers.models), "n_items": len(answers.passage),
            "n_passages": answers.n_passages,
        }  # fmt: skip
        status = OK if len(answers.models) >= 3 else NEEDS_MODELS
    r = Estimate(AGREEMENT, "correlation", "pearson_split_half", status=status, **columns,
                 baseline_source="held-out, another half for each gain")  # fmt: skip
    level = Estimate(_LEVEL, POINTS, "tost", status=status, **columns)
    if answers is None or status != OK:
        return [r, level]
    return [_correlation_row(r, answers, rng), _equivalence_row(level, answers, bound)]


def split_half_gains(
    answers: ChainOfThought, rng: np.random.Generator, splits: int = 1
) -> tuple[Floats, Floats]:
    """Return gains normalised by headroom, (after - before) / (1 - before), from two halves.

    Args:
        answers: Answers on at least two passages.
        rng: Draws the halves.
        splits: How many random halvings.

    Returns:
        Fine-tuning gains from one half and chain-of-thought gains from the other, each of shape
        (splits, models); not finite where a base model has no headroom.
    """
    order = rng.permuted(np.tile(np.arange(answers.n_passages), (splits, 1)), axis=1)
    first = (order < answers.n_passages // 2)[:, answers.passage]
    return (
        _headroom_gain(answers.before, answers.finetuned, first),
        _headroom_gain(answers.before, answers.reasoned, ~first),
    )


def _headroom_gain(before: Singles, after: Singles, used: Bits) -> Floats:
    """Return the gain by model on the used items (K, N), as a share of what was wrong."""
    weight = used.T / used.sum(axis=1)
    base, then = (
        np.asarray(values.mean(axis=1) @ weight, np.float64) for values in (before, after)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(((then - base) / np.where(base < 1 - 1e-6, 1 - base, np.nan)).T)


def _wanted_runs(seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Return the runs base direct, finetuned direct of each seed, base with reasoning.

    Runs are sorted by seed, so the first base run is the one of the lowest seed.
    """
    return [
        {"arm": "base", "reasoning": "direct"},
        *({"arm": "finetuned", "reasoning": "direct", "seed": seed} for seed in seeds),
        {"arm": "base", "reasoning": "cot"},
    ]


def _correlation_row(row: Estimate, answers: ChainOfThought, rng: np.random.Generator) -> Estimate:
    if answers.n_passages < 2:
        return replace(row, status=NEEDS_PASSAGES)
    tuned, reasoned = split_half_gains(answers, rng, HALVINGS)
    if not (np.isfinite(tuned).all() and np.isfinite(reasoned).all()):
        return replace(row, status=NO_HEADROOM)
    found = _correlations(tuned, reasoned)
    if not np.isfinite(found).all():
        return replace(row, status=ZERO_VARIANCE)
    row = replace(row, estimate=float(np.median(found)), note=_correlation_note(answers, found))
    n = len(answers.models)
    if n == 3:
        return replace(row, note=f"{row.note}; a test needs 4 models")
    z, se = _jackknifed(tuned, reasoned)
    if not se > _ROUNDING:  # as well where a correlation of fewer models is not there
        return replace(row, status=ZERO_VARIANCE)
    tested = t_difference(z, se, n - 2)
    low, high = np.tanh([tested.low, tested.high])
    return replace(row, ci_low=float(low), ci_high=float(high), df=tested.df, p=tested.p)


def _jackknifed(tuned: Floats, reasoned: Floats) -> tuple[float, float]:
    """Return Fisher's z of the median correlation, and its standard error over models.

    Many halvings use every answer many times, so their median varies less than one correlation
    does, and Pearson's own test would reject a true null in 0.00 instead of 0.05 of studies. A
    permutation of the models would in 0.09: over many halvings each answer of a base model is in
    both of its gains, but not in those of two models. So each model is left out in turn (jackknife;
    Efron & Tibshirani 1993, chapter 11), without the factor (n - 1) / n, which with few models
    would be too narrow: 0.02 to 0.065. NaN where a correlation of fewer models is.
    """
    n = tuned.shape[1]
    kept = [np.arange(n) != m for m in range(n)]
    found = [np.median(_correlations(tuned[:, k], reasoned[:, k])) for k in kept]
    median = np.median(_correlations(tuned, reasoned))
    z, without = (np.arctanh(np.clip(r, -_ALMOST, _ALMOST)) for r in (median, np.array(found)))
    return float(z), float(np.std(without) * np.sqrt(n))


def _correlation_note(answers: ChainOfThought, found: Floats) -> str:
    everything = np.ones((1, len(answers.passage)), np.bool_)
    both = [
        _headroom_gain(answers.before, after, everything)[0]
        for after in (answers.finetuned, answers.reasoned)
    ]
    low, high = np.quantile(found, [0.05, 0.95])
    notes = [
        f"median of {len(found)} random halvings of the passages, each gain from its own half and "
        f"as a share of headroom (5 to 95 % of them {low:.2f} to {high:.2f}); noise draws r "
        "towards 0"
    ]
    shared = _correlations(both[0][None], both[1][None])[0]
    if np.isfinite(shared):
        notes.append(f"with one shared baseline r is {shared:.2f}, inflated by its noise")
    return "; ".join(notes)


def _correlations(x: Floats, y: Floats) -> Floats:
    """Return Pearson's r along the last axis, NaN where a side does not vary."""
    x, y = (values - values.mean(axis=-1, keepdims=True) for values in (x, y))
    size = np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1))
    return np.asarray((x * y).sum(axis=-1) / np.where(size > _ROUNDING**2, size, np.nan))


def _equivalence_row(row: Estimate, answers: ChainOfThought, bound: float) -> Estimate:
    """Test equivalence paired over models; the base accuracy does not enter (Lakens 2017)."""
    tuned, reasoned = (
        np.asarray(values.mean(axis=(1, 2), dtype=np.float64))
        for values in (answers.finetuned, answers.reasoned)
    )
    difference = tuned - reasoned
    note = f"equivalence bound {bound:g}; the interval is the 90 % one that TOST goes with"
    row = replace(row, note=note, estimate=float(difference.mean()))
    if np.ptp(difference) < _ROUNDING:
        return replace(row, status=ZERO_VARIANCE)
    # float(): pingouin asserts on numpy scalars.
    tested = pingouin.tost(tuned, reasoned, bound=float(bound), paired=True).iloc[0]
    limits = stats.ttest_1samp(difference, 0).confidence_interval(0.90)
    low, high = float(limits.low), float(limits.high)
    proved = f"{note}; smallest bound that can be proved {max(abs(low), abs(high)):.4f}"
    return replace(
        row, se=float(difference.std(ddof=1) / np.sqrt(len(difference))), df=float(tested["dof"]),
        ci_low=low, ci_high=high, p=float(tested["pval"]), note=proved,
    )  # fmt: skip
