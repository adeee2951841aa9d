"""What a simulation gives without the way through runs: gain tables, and all records at once."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.arrays import Floats
from analysis.gains.gain_table import LOGIT, POINTS, GainTable, guess_corrected_logit, top_family
from analysis.gains.items import ItemGains
from analysis.simulation.answers import ANSWER_TOKEN, SimulatedAnswers, blocks_of, run_records
from analysis.simulation.design import Design
from analysis.simulation.sheets import Block, Sheet, fill_in, passage_codes
from xling.records import check_records


def training_accuracy(answers: SimulatedAnswers, design: Design) -> Floats:
    """Base accuracy on training-split items by model and target language, (M, targets).

    Same order as `simulated_table`; no gain is computed from these answers.
    """
    return np.asarray(answers.training[:, : len(design.targets)].mean(axis=-1), np.float64)


def simulated_table(
    answers: SimulatedAnswers,
    design: Design,
    arm: str = "finetuned",
    scoring: str = ANSWER_TOKEN,
) -> GainTable:
    """The gain table of an arm, without the way through records.

    Models and languages are in the design's order, and not sorted.

    Args:
        answers: as `simulate_correct` gives them.
        design: what they were simulated from.
        arm: one of the design's.
        scoring: ``answer-token``, or ``cloze`` or ``permuted`` where there is any (of
            ``finetuned``).

    Raises:
        ValueError: the design has no such arm or scoring.
    """
    condition = (arm, "direct", scoring)
    blocks = {
        block.condition: block for block in blocks_of(answers, design) if block.part == "heldout"
    }
    if condition not in blocks:
        raise ValueError(f"the design has no {'/'.join(condition)}")
    base = _on_targets(blocks["base", "direct", scoring], answers, design)
    tuned = _on_targets(blocks[condition], answers, design)
    before, by_seed = base.correct[0].mean(axis=-1), tuned.correct.mean(axis=-1)
    after = by_seed.mean(axis=0)
    passage = passage_codes(design.items, design)
    n_related, n_control = design.related, design.control
    return GainTable(
        condition=condition,
        models=design.model_names,
        languages=design.targets,
        related=np.arange(n_related + n_control) < n_related,
        before=before,
        after=after,
        after_by_seed=by_seed,
        gain={POINTS: after - before,
              LOGIT: guess_corrected_logit(after) - guess_corrected_logit(before)},
        status="ok" if n_control > 1 else "needs 2 control languages",
        shared={
            "unit": "languages", "n_models": design.models, "n_related": n_related,
            "n_control": n_control, "n_items": design.items,
            "n_passages": int(passage[-1]) + 1, "n_seeds": design.seeds,
        },
        items=ItemGains(
            passage,
            base.correct[0].astype(np.float32), tuned.correct.astype(np.float32),
            base.prediction[0], tuned.prediction, base.mass[0], tuned.mass,
        ),
        item_status="",
        n_items=np.full(before.shape, float(design.items)),
        top_family=tuple(map(top_family, design.targets)),
    )  # fmt: skip


def to_records(answers: SimulatedAnswers, design: Design) -> pd.DataFrame:
    """All answers as item records.

    Wrong predictions fall on the wrong options alike; the prediction has the highest
    log-probability, and the four add up to the answer mass.

    Returns:
        Checked records (xling.records) of every run; the same for the same answers.
    """
    frames = [frame for _, frame in run_records(answers, design)]
    return check_records(pd.concat(frames, ignore_index=True))


def _on_targets(block: Block, answers: SimulatedAnswers, design: Design) -> Sheet:
    """A block's sheet without the source language."""
    sheet, last = fill_in(block, design, answers.sheet_seed), len(design.targets)
    return Sheet(sheet.correct[:, :, :last], sheet.prediction[:, :, :last], sheet.mass[:, :, :last])
