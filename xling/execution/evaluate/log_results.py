"""Logs what an evaluate cell left on this machine's disk: records, tables and metrics."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from xling import tracking
from xling.execution.evaluate.answers import (
    CLOZE_TABLE,
    ORDERS_TABLE,
    REASONING_TABLE,
    SERVER_TABLE,
)
from xling.execution.study_data import StudyData
from xling.files.atomic import atomic_write
from xling.files.parquet import read_parquet
from xling.records import (
    LOGPROB_COLUMNS,
    describe_format,
    read_records,
    summarize_records,
    suspicious_languages,
    warning_text,
    write_records,
)
from xling.routing import read_routing, routing_metrics, sum_routing, write_routing
from xling.scoring.cloze import cloze_predictions
from xling.scoring.option_orders import average_over_orders, position_prior, recall_std
from xling.scoring.protocol import ChoiceScores
from xling.study import Cell

RECORDS = "records.parquet"
FORMAT = "format.csv"
ROUTING = "routing"
# Metrics that take log-probabilities as they are, or the position of every choice: not to be had
# where a server gave only bounds of some.
CALIBRATION = ("ece/", "position_entropy/", "position_prior_", "recall_std")


logger = logging.getLogger(__name__)


def instrument_metrics(name: str, frame: pd.DataFrame) -> dict[str, float]:
    """Compute metrics by language of one artifact's held-out rows.

    Args:
        name: `reasoning`, `orders`, `cloze` or `server`.
        frame: its rows, with the columns `language`, `part` and `gold` beside its own.

    Returns:
        For `reasoning`: `reasoning_tokens/<code>` (mean) and `truncated/<code>` (share that
        filled the limit). For `orders`: `order_agreement/<code>` (mean share of the orders that
        choose the averaged answer), `recall_std/<code>` (of the options as the data orders them)
        and `recall_std_averaged/<code>`, and `position_prior_1/<code>` to `_4` (what each position
        is given, whatever option is there). For `cloze`: `acc_raw/<code>` and its siblings, see
        `xling.scoring.cloze.cloze_predictions` (`acc_mutual_info` only where every answer has a
        prior). For `server`: `bounded/<code>` (share of items of which some label's
        log-probability is only an upper bound). What is not finite is left out.
    """
    measures: dict[str, Callable[[pd.DataFrame], dict[str, float]]] = {
        REASONING_TABLE: _reasoning_metrics,
        ORDERS_TABLE: _order_metrics,
        CLOZE_TABLE: _cloze_metrics,
        SERVER_TABLE: _server_metrics,
    }
    heldout = frame[frame["part"] == "heldout"]
    return {
        f"{metric}/{code}": value
        for code, rows in heldout.groupby("language", sort=True)
        for metric, value in measures[name](rows).items()
        if np.isfinite(value)
    }


def _reasoning_metrics(rows: pd.DataFrame) -> dict[str, float]:
    return {
        "reasoning_tokens": float(rows["n_tokens"].mean()),
        "truncated": float(rows["truncated"].mean()),
    }


def _order_metrics(rows: pd.DataFrame) -> dict[str, float]:
    orders = [tuple(int(digit) - 1 for digit in order) for order in rows["order"].unique()]
    logprobs = rows[list(LOGPROB_COLUMNS)].to_numpy(np.float64).reshape(-1, len(orders), 4)
    averaged = average_over_orders(logprobs, orders)
    gold = rows["gold"].to_numpy().reshape(-1, len(orders))[:, 0]
    return {
        "order_agreement": float(averaged.agreement.mean()),
        "recall_std": recall_std(gold, averaged.by_order[:, 0]),
        "recall_std_averaged": recall_std(gold, averaged.prediction),
        **{
            f"position_prior_{place}": float(share)
            for place, share in enumerate(position_prior(logprobs, orders), start=1)
        },
    }


def _server_metrics(rows: pd.DataFrame) -> dict[str, float]:
    return {"bounded": float((rows["bounded_labels"] != "").mean())}


def _cloze_metrics(rows: pd.DataFrame) -> dict[str, float]:
    def options(column: str) -> npt.NDArray[np.float64]:
        return rows[column].to_numpy().reshape(-1, 4)

    scores = ChoiceScores(
        total=options("logprob"),
        n_tokens=options("n_tokens").astype(np.int32),
        n_characters=options("n_characters").astype(np.int32),
        unconditional=options("logprob_unconditional"),
        prior=options("logprob_prior"),
        prompt_tokens=np.zeros(len(rows) // 4, np.int32),
    )
    gold = rows["gold"].to_numpy().reshape(-1, 4)[:, 0]
    unknown = {"acc_mutual_info"} if np.isnan(scores.prior).any() else set()
    return {
        name: float((prediction == gold).mean())
        for name, prediction in cloze_predictions(scores).items()
        if name not in unknown
    }


def write_parquet(frame: pd.DataFrame, path: Path) -> None:
    """Write a table, whole or not at all."""
    with atomic_write(path) as temporary:
        frame.to_parquet(temporary, index=False, write_page_checksum=True)


def read_kept(path: Path) -> pd.DataFrame:
    """Read a table that `write_parquet` or `write_records` left in a work folder.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is cut off or corrupt.
    """
    return read_parquet(path, remedy="repeat the command: its items are asked again")


def log_results(
    data: StudyData, cell: Cell, folder: Path, stages: list[str], *, model_id: str
) -> None:
    """Log records, what goes with them, and the metrics of both.

    Languages that the arm was trained on are in no family mean. Routing diverges from that of the
    study's source languages in every arm, so that arms can be compared. Calibration and position
    are left out of languages in which a server only bounds some label. Results that look like
    mistakes get the tag ``xling.warning``.
    """
    languages = data.study.languages
    frame = pd.concat(
        [
            read_records(folder / stage / f"{code}.parquet")
            for code in languages.evaluated
            for stage in stages
        ]
    )
    write_records(frame, folder / RECORDS)
    tracking.log_records_file(folder / RECORDS)
    trained = dict.fromkeys(data.study.trained_languages(cell), "source")
    metrics = summarize_records(frame, {**languages.families, **trained})
    for name in sorted({path.parent.name for path in folder.glob("*/*/*.parquet")}):
        paths = [
            folder / stage / name / f"{code}.parquet"
            for code in languages.evaluated
            for stage in stages
        ]
        if name == ROUTING:
            table = sum_routing([read_routing(path) for path in paths])
            write_routing(table, folder / f"{name}.parquet")
            metrics |= routing_metrics(table, languages.source)
        else:
            rows = pd.concat([read_kept(path) for path in paths], ignore_index=True)
            write_parquet(rows, folder / f"{name}.parquet")
            metrics |= instrument_metrics(name, rows)
        tracking.log_file(folder / f"{name}.parquet")
    bounded = {code for code in languages.evaluated if metrics.get(f"bounded/{code}", 0.0) > 0}
    metrics = {
        name: value
        for name, value in metrics.items()
        if not (name.startswith(CALIBRATION) and name.rpartition("/")[2] in bounded)
    }
    described = describe_format(frame)
    described.loc[described["language"].isin(bounded), ["ece"]] = np.nan
    described.to_csv(folder / FORMAT, index=False)
    tracking.log_file(folder / FORMAT)
    tracking.log_file(folder / stages[0] / "prompts", "prompts")
    tracking.log_metrics(metrics, model_id=model_id)
    _warn(cell, suspicious_languages(frame, languages.evaluated))


def _warn(cell: Cell, found: Mapping[str, Sequence[str]]) -> None:
    """Say once, in the log and in the tag ``xling.warning``, which results look like mistakes."""
    if not found:
        return
    text = warning_text(found)
    logger.warning("evaluate %s: look at these results before you use them: %s", cell.name, text)
    tracking.set_tags({"warning": text})
