"""Which results are of a kind that is more often a mistake than a finding.

Import these from xling.records. Result tables that were published contain such rows: a model that
never writes a label, one that always gives the same option, an adapter that was not used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from xling.records.schema import LOGPROB_COLUMNS

ANSWER_MASS = "answer_mass"
CONSTANT = "constant"
EMPTY = "empty"
SAME_AS_BASE = "same_as_base"

NO_MASS = 0.01
"""Mean answer mass below which a model does not answer with a label. One that knows the form is
near 1; four tokens out of a vocabulary of 50,000, taken blindly, have 0.0001. Below 0.01 more than
99 of 100 times something else than a label would be written, and which of four unlikely tokens is
the least so says little of what the model knows."""

UNCHANGED = 1e-4
"""Difference of log-probabilities up to which an adapter has no effect: the same model gives a
little other last digits where a prompt is in a batch with others, as those of the base do,
which is asked training questions, too. What is trained changes far more."""

LEAST_CONSTANT = 8
"""From so many questions on, the same option for all is not an accident: drawn blindly, all eight
are the same in 1 of 16,384 cases."""


def suspicious_languages(
    frame: pd.DataFrame, languages: Sequence[str] = ()
) -> dict[str, tuple[str, ...]]:
    """Return what is suspicious in the held-out records of one run, by itself.

    Args:
        frame: Item records of one run, checked.
        languages: Codes that should have held-out records.

    Returns:
        Codes, sorted, by ANSWER_MASS, CONSTANT and EMPTY; only kinds that there are.
    """
    heldout = frame[frame["part"] == "heldout"]
    found: dict[str, list[str]] = {}
    for code, rows in heldout.groupby("language", sort=True, observed=True):
        mass = float(rows["answer_mass"].mean())
        if mass < NO_MASS:  # not NaN, as for cloze
            found.setdefault(ANSWER_MASS, []).append(str(code))
        if len(rows) >= LEAST_CONSTANT and rows["prediction"].nunique() == 1:
            found.setdefault(CONSTANT, []).append(str(code))
    lacking = sorted(set(languages) - set(heldout["language"]))
    if lacking:
        found[EMPTY] = lacking
    return {kind: tuple(codes) for kind, codes in found.items()}


def unchanged_languages(frame: pd.DataFrame, base: pd.DataFrame) -> tuple[str, ...]:
    """Return the languages in which a tuned run answers exactly as the base does.

    Args:
        frame: Item records of the tuned run, checked.
        base: Those of the base model's run, asked in the same way.

    Returns:
        Codes, sorted, in which both have the same held-out items, and no log-probability of any
        item differs by more than UNCHANGED.
    """
    columns = ["language", "item_id", *LOGPROB_COLUMNS]
    ours, theirs = (
        rows.loc[rows["part"] == "heldout", columns].set_index("item_id") for rows in (frame, base)
    )
    found = []
    for code, rows in ours.groupby("language", sort=True, observed=True):
        other = theirs[theirs["language"] == code]
        if len(rows) != len(other) or not rows.index.isin(other.index).all():
            continue
        ours_here = rows[list(LOGPROB_COLUMNS)].to_numpy()
        theirs_here = other.loc[rows.index, list(LOGPROB_COLUMNS)].to_numpy()
        # Equal infinities, as of a label that cannot be, have no difference that is a number.
        if np.allclose(ours_here, theirs_here, rtol=0, atol=UNCHANGED):
            found.append(str(code))
    return tuple(found)


def warning_text(found: Mapping[str, Sequence[str]]) -> str:
    """Return a tag's value, such as ``answer_mass: arb_Arab heb_Hebr; constant: kor_Hang``.

    Args:
        found: Language codes by kind; may be empty.
    """
    return "; ".join(f"{kind}: {' '.join(codes)}" for kind, codes in found.items() if codes)
