"""Metrics of what stands beside the item records: reasonings, option orders, cloze scores."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pandas as pd

from xling.execution.frames import CLOZE_TABLE, ORDERS_TABLE, REASONING_TABLE, SERVER_TABLE
from xling.records import LOGPROB_COLUMNS
from xling.scoring.cloze import cloze_predictions
from xling.scoring.orders import average_over_orders, position_prior, recall_std
from xling.scoring.protocol import ChoiceScores


def instrument_metrics(name: str, frame: pd.DataFrame) -> dict[str, float]:
    """Metrics by language of one artifact's held-out rows.

    Args:
        name: `reasoning`, `orders`, `cloze` or `server`.
        frame: its rows, with the columns `language`, `part` and `gold` beside its own.

    Returns:
        For `reasoning`: `reasoning_tokens/<code>` (mean) and `truncated/<code>` (share that
        filled the limit). For `orders`: `order_agreement/<code>` (mean share of the orders that
        choose the averaged answer), `recall_std/<code>` (of the options as the data orders them)
        and `recall_std_averaged/<code>`, and `position_prior_1/<code>` to `_4` (what each position
        is given, whatever option stands there). For `cloze`: `acc_raw/<code>` and its siblings, see
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
