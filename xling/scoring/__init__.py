"""Scoring: prompts in, log-probabilities of four options or free continuations out.

`protocol.py` says what an engine does; `in_process.py` and `server/` are the engines. Which items
are asked and what becomes of the answers is not decided here: no data set, run or record.
"""

from __future__ import annotations

from xling.scoring.cloze import cloze_predictions
from xling.scoring.in_process import InProcessEngine
from xling.scoring.option_orders import (
    AveragedOrders,
    average_over_orders,
    option_orders,
    position_prior,
    recall_std,
    reorder,
)
from xling.scoring.protocol import ChoiceScores, Engine, Generation, Scores, VariantScores
from xling.scoring.sampling import Sampling

__all__ = [
    "AveragedOrders",
    "ChoiceScores",
    "Engine",
    "Generation",
    "InProcessEngine",
    "Sampling",
    "Scores",
    "VariantScores",
    "average_over_orders",
    "cloze_predictions",
    "option_orders",
    "position_prior",
    "recall_std",
    "reorder",
]
