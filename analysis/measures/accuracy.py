"""What each run answered, language by language: accuracy, answer mass, option positions."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from analysis.gains.responses import NO_ANSWER, Responses
from xling.records import RUN_COLUMNS

SUMMARY_COLUMNS = (*RUN_COLUMNS, "language", "accuracy", "answer_mass", "position_entropy")


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
