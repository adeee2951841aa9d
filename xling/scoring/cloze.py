"""Cloze scoring: which answer's text the model finds likeliest, by each normalisation in use."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from xling.scoring.protocol import ChoiceScores


def cloze_predictions(scores: ChoiceScores) -> dict[str, npt.NDArray[np.int8]]:
    r"""Return the likeliest answer of each item, by each normalisation.

    Names are those of the tools that define them: OLMES (Gu et al. 2024, arXiv 2406.08446; code:
    oe-eval) and lm-evaluation-harness 0.4. With answer $a$ of tokens $a_1 … a_m$, its text of
    $c$ characters, and prompt $x$, the prediction is the answer of the highest

    - ``acc_raw`` (OLMES; ``acc`` of lm-evaluation-harness): $\ln P(a|x) = \sum_i \ln P(a_i|x,
      a_{<i})$;
    - ``acc_per_token`` (OLMES): $\ln P(a|x) / m$ (Brown et al. 2020, arXiv 2005.14165, 2.4);
    - ``acc_per_char`` (OLMES): $\ln P(a|x) / (c + 1)$, since OLMES counts the space before the
      answer;
    - ``acc_norm`` (lm-evaluation-harness): $\ln P(a|x) / c$, without that space;
    - ``acc_uncond`` (OLMES): $\ln P(a|x) - \ln P(a|$"Answer:"$)$ (Brown et al. 2020, 2.4; Holtzman
      et al. 2021, arXiv 2104.08315, PMI_DC);
    - ``acc_mutual_info`` (lm-evaluation-harness): $\ln P(a|x) - \ln P(a)$, where $P(a)$ follows the
      beginning-of-text token.

    Args:
        scores: of n items.

    Returns:
        For each name, shape (n,), 1–4; the lowest in a tie.
    """
    values = {
        "acc_raw": scores.total,
        "acc_per_token": scores.per_token,
        "acc_per_char": scores.per_char,
        "acc_norm": scores.norm,
        "acc_uncond": scores.uncond,
        "acc_mutual_info": scores.mutual_info,
    }
    return {name: (value.argmax(axis=1) + 1).astype(np.int8) for name, value in values.items()}
