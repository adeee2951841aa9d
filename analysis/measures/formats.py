"""What the answers of each run look like: option positions, calibration, answer mass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import stats

from analysis.arrays import Floats, Integers
from analysis.gains.gain_table import GainTable
from analysis.gains.responses import NO_ANSWER, Responses
from xling.records import LOGPROB_COLUMNS, RUN_COLUMNS

if TYPE_CHECKING:
    from xling.tracking import LoggedRun

GOLD, PREDICTED, PRIOR, BALANCED, RECALL = (
    tuple(f"{name}_{k}" for k in range(1, 5))
    for name in ("gold", "predicted", "prior", "balanced", "recall")
)
MEASURE_COLUMNS = (
    *RUN_COLUMNS, "language", "n_items", *GOLD, *PREDICTED, *PRIOR, *BALANCED, *RECALL,
    "recall_std", "recall_noise", "recall_variance", "ece", "calibration_squared",
)  # fmt: skip
SUMMARY_COLUMNS = (*RUN_COLUMNS, "language", "accuracy", "answer_mass", "position_entropy")
_KEYS = [*RUN_COLUMNS, "language"]
_BINS = 10
_MEAN_OF_CHI = float(np.sqrt(8 / (3 * np.pi)))
"""Mean of the standard deviation of four normal draws over its root mean square, E[chi_3]/√3."""


def format_measures(records: pd.DataFrame) -> pd.DataFrame:
    """Measure option positions and calibration of every run and language.

    Args:
        records: Item records of all runs (xling.records), possibly none.

    Returns:
        Columns MEASURE_COLUMNS over the held-out items, sorted by run and language. For position
        k: `gold_k` and `predicted_k` (how often the right answer and the prediction stand there),
        `prior_k` (mean probability of the option there, the four made to sum to 1), `balanced_k`
        (the same with each position right equally often: the mean over the right positions of
        the mean among items of that right position, so that it is 1/4 without a liking for a
        position however much is known), `recall_k` (share right of the items whose right answer
        stands there; NaN without any). `recall_std` is the standard deviation of the four recalls
        (RStd, Zheng et al. 2024), `recall_noise` what it would be on average if all four were
        alike and only chance told them apart, `recall_variance` its square less what chance adds,
        which is right on average and may be below 0. `ece` is the expected calibration error with
        ten bins of equal width (Guo et al. 2017); `calibration_squared` the mean square of the
        bins' errors less what chance adds (after Kumar, Liang and Ma 2019, Verified uncertainty
        calibration), which may be below 0.
    """
    heldout = records[(records["part"] == "heldout").to_numpy(np.bool_)]
    groups = heldout.groupby(_KEYS, sort=True, observed=True)
    code = np.asarray(groups.ngroup(), np.int64)
    table = groups.size().rename("n_items").reset_index()
    n_groups, size = len(table), table["n_items"].to_numpy(np.float64)
    correct = heldout["correct"].to_numpy(np.float64)
    gold = heldout["gold"].to_numpy(np.int64)
    shares = _probabilities(heldout)
    on_gold, on_prediction = (
        _by_position(code, position, n_groups)
        for position in (gold, heldout["prediction"].to_numpy(np.int64))
    )
    right = _by_position(code, gold, n_groups, correct)
    given = np.stack([_by_position(code, gold, n_groups, shares[:, k]) for k in range(4)], axis=2)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = right / on_gold
        balanced = (given / on_gold[..., None]).mean(axis=1)
    gaps = _Gaps.of(code, shares.max(axis=1, initial=0.0), correct, n_groups)
    values = {
        GOLD: on_gold / size[:, None],
        PREDICTED: on_prediction / size[:, None],
        PRIOR: given.sum(axis=1) / size[:, None],
        BALANCED: balanced,
        RECALL: recall,
    }
    table = table.assign(
        **{name: array[:, k] for names, array in values.items() for k, name in enumerate(names)},
        recall_std=recall.std(axis=1),
        recall_noise=_recall_noise(right.sum(axis=1) / size, on_gold, size),
        recall_variance=_recall_variance(recall, on_gold),
        ece=np.abs(gaps.total).sum(axis=1) / size,
        calibration_squared=_calibration_squared(gaps),
    )
    return table[list(MEASURE_COLUMNS)]


def _probabilities(records: pd.DataFrame) -> Floats:
    """Return probabilities of the four options as if there were no other answer, (rows, 4).

    A row that gives no option any probability (four times minus infinity) is even.
    """
    logs = records[list(LOGPROB_COLUMNS)].to_numpy(np.float64)
    logs = np.where(np.isneginf(logs).all(axis=1, keepdims=True), 0.0, logs)
    logs = np.exp(logs - logs.max(axis=1, keepdims=True, initial=-np.inf))
    return np.asarray(logs / logs.sum(axis=1, keepdims=True), np.float64)


def _by_position(
    code: Integers, position: Integers, n_groups: int, weights: Floats | None = None
) -> Floats:
    """Return counts (or sums of weights) by group and option position, (groups, 4)."""
    flat = np.bincount(code * 4 + position - 1, weights, 4 * n_groups)
    return np.asarray(flat.reshape(n_groups, 4), np.float64)


def _recall_noise(accuracy: Floats, on_gold: Floats, size: Floats) -> Floats:
    """Return the mean standard deviation of recalls that all are the accuracy, (groups,).

    Recalls of n_k items scatter by p(1 - p) / n_k; about their own mean, by three quarters of it.
    The root of that is the root mean square of the standard deviation, which is above its mean.
    """
    one_item = accuracy * (1 - accuracy) * size / np.maximum(size - 1, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        scatter = one_item[:, None] / on_gold
    return np.asarray(_MEAN_OF_CHI * np.sqrt(0.75 * scatter.mean(axis=1)), np.float64)


def _recall_variance(recall: Floats, on_gold: Floats) -> Floats:
    """Return the variance of the four recalls less that of their estimation, unbiased, (groups,).

    r(1 - r) / (n - 1) is the unbiased variance of a recall r of n items; NaN where an n is 1.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        scatter = recall * (1 - recall) / (on_gold - 1)
    return np.asarray(recall.var(axis=1) - 0.75 * scatter.mean(axis=1), np.float64)


@dataclass(frozen=True)
class _Gaps:
    """Correctness less confidence by group and bin, (groups, bins): number, sum, sum of squares."""

    n: Floats
    total: Floats
    squares: Floats

    @classmethod
    def of(cls, code: Integers, confidence: Floats, correct: Floats, n_groups: int) -> _Gaps:
        flat = code * _BINS + np.minimum((confidence * _BINS).astype(np.int64), _BINS - 1)
        gap = correct - confidence
        sums = [
            np.bincount(flat, weights, _BINS * n_groups).astype(np.float64).reshape(n_groups, _BINS)
            for weights in (np.ones_like(gap), gap, gap**2)
        ]
        return cls(*sums)


def _calibration_squared(gaps: _Gaps) -> Floats:
    """Return the mean square of the bins' gaps without bias, (groups,).

    The mean of products of two different items of a bin estimates its squared gap without the
    items' own variance; a bin with one item says nothing and counts as 0.
    """
    pairs = gaps.n * (gaps.n - 1)
    products = (gaps.total**2 - gaps.squares) / np.where(pairs > 0, pairs, 1)
    weighted = np.where(pairs > 0, gaps.n * products, 0.0)
    return np.asarray(weighted.sum(axis=1) / gaps.n.sum(axis=1), np.float64)


@dataclass(frozen=True)
class GoldShares:
    """How often the right answer stands in each position where models are tuned.

    `values` has shape (4,) and sums to 1, NaN where nothing is known; `source` says in words
    which questions it is of.
    """

    values: Floats
    source: str


def trained_shares(records: pd.DataFrame, runs: Sequence[LoggedRun] = ()) -> GoldShares:
    """Return positions of the labels that the arms were tuned on.

    Shuffled labels have the same shares as the others: they are permuted, not drawn anew.

    Args:
        records: Item records of all runs, possibly none.
        runs: The evaluate runs, which may have logged the shares (`label_share_1` to `_4`).

    Returns:
        The logged shares, averaged over runs. Without any, those of the training-split questions
        that the base model answered, or of the held-out questions under cross-fitting, where all
        of them are trained on; else nothing is known: held-out questions are no training questions.
    """
    names = [f"label_share_{place}" for place in range(1, 5)]
    logged = [[run.metrics[name] for name in names] for run in runs if names[0] in run.metrics]
    if logged:
        return GoldShares(np.mean(logged, axis=0), "training labels")
    parts = [("training", "training-split questions")]
    if (records["fold"] > 0).any():
        parts.append(("heldout", "all questions"))
    for part, source in parts:
        rows = records.loc[records["part"] == part, ["item_id", "gold"]]
        golds = rows.drop_duplicates("item_id")["gold"].to_numpy(np.int64)
        if len(golds):
            return GoldShares(np.bincount(golds, minlength=5)[1:] / len(golds), source)
    return GoldShares(np.full(4, np.nan), "no questions")


def logged_measures(runs: Sequence[LoggedRun], formats: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Measure the same in runs whose item records are not at hand, from what they logged.

    Args:
        runs: Evaluate runs without records.
        formats: Their tables format.csv by run id, where they have one.

    Returns:
        Columns MEASURE_COLUMNS; what was not logged is NaN. Without a table only `ece` is known,
        from the metrics `ece/<code>`.
    """
    rows: list[pd.DataFrame] = []
    for run in runs:
        cell = {name: run.params[f"cfg.{name}"] for name in RUN_COLUMNS}
        if run.run_id in formats:
            found = formats[run.run_id]
        else:
            known = {k[4:]: v for k, v in run.metrics.items() if k.startswith("ece/")}
            found = pd.DataFrame({"language": list(known), "ece": list(known.values())})
        rows.append(found.assign(**cell | {"seed": int(cell["seed"])}))
    whole = pd.concat(rows) if rows else pd.DataFrame()
    return whole.reindex(columns=list(MEASURE_COLUMNS)).reset_index(drop=True)


def before_and_after(
    measures: pd.DataFrame, table: GainTable, columns: Sequence[str]
) -> tuple[Floats, Floats]:
    """Return measures of the base model and of an arm in the cells of a gain table.

    The base run is that of the arm's seed if there is one, else that of the lowest seed, as for
    gains; both sides are averaged over the arm's seeds.

    Args:
        measures: As format_measures gives them.
        table: Which arm, models and languages.
        columns: K of MEASURE_COLUMNS.

    Returns:
        Two arrays of shape (models, languages, K), NaN where a run or a measure is missing.
    """
    arm, reasoning, scoring = table.condition
    same = measures[(measures["reasoning"] == reasoning) & (measures["scoring"] == scoring)]
    wanted = pd.MultiIndex.from_product([table.models, table.languages])
    shape = (len(table.models), len(table.languages), len(columns))
    seeds = sorted(same.loc[same["arm"] == arm, "seed"].unique().tolist())
    base, tuned = same[same["arm"] == "base"], same[same["arm"] == arm]
    lowest = base[base["seed"] == base.groupby("model")["seed"].transform("min")]

    def values(rows: pd.DataFrame) -> Floats:
        found = rows.set_index(["model", "language"])[list(columns)].reindex(wanted)
        return found.to_numpy(np.float64).reshape(shape)

    if not seeds:
        return np.full(shape, np.nan), np.full(shape, np.nan)
    before = []
    for seed in seeds:
        own = values(base[base["seed"] == seed])
        has_own = np.isin(table.models, base.loc[base["seed"] == seed, "model"])
        before.append(np.where(has_own[:, None, None], own, values(lowest)))
    after = [values(tuned[tuned["seed"] == seed]) for seed in seeds]
    return np.mean(before, axis=0), np.mean(after, axis=0)


def responses_summary(responses: Responses) -> pd.DataFrame:
    """Average over the held-out items of each run and language.

    Args:
        responses: Held-out answers of all runs.

    Returns:
        Columns SUMMARY_COLUMNS, one row per run and language that has answers: accuracy in
        proportion, mean answer mass (NaN for cloze), entropy of the chosen positions in bits.
    """
    answered = responses.correct != NO_ANSWER
    n = answered.sum(axis=-1)
    run, language = np.nonzero(n)
    with np.errstate(invalid="ignore", divide="ignore"):
        accuracy = np.where(answered, responses.correct, 0).sum(axis=-1) / n
        mass = np.where(answered, responses.answer_mass, 0).sum(axis=-1, dtype=np.float64) / n
    positions = np.stack(
        [(responses.prediction == k).sum(axis=-1)[run, language] for k in range(1, 5)], axis=-1
    )
    table = responses.runs.iloc[run].reset_index(drop=True)
    return table.assign(
        language=[responses.languages[code] for code in language],
        accuracy=accuracy[run, language],
        answer_mass=mass[run, language],
        position_entropy=stats.entropy(positions, base=2, axis=-1),
    )[list(SUMMARY_COLUMNS)]
