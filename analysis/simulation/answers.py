"""Simulated answers: right or wrong by a Gaussian copula, so that the truth holds exactly.

A response is right where Phi(z) < p, with z standard normal: P(right) is p exactly, whatever the
responses share. z sums what a passage, an item, an item in one language and an item for one model
contribute, and a remainder that is new for every response (before, after, every seed).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import ndtri

from analysis.arrays import Bits, Floats, Singles
from analysis.simulation.design import Design
from analysis.simulation.probabilities import CellProbabilities, contrasts_of, draw_probabilities
from analysis.simulation.sheets import Block, Run, passage_codes, record_frames

ANSWER_TOKEN, CLOZE, PERMUTED = "answer-token", "cloze", "permuted"


@dataclass(frozen=True)
class SimulatedAnswers:
    """Right and wrong answers of a simulated study, and what they were drawn from.

    Shapes: models M, languages L (in the order of `Design.languages`: related, control, the
    source last), held-out items N, training items T, seeds S. `correct_before` and `cot` are
    (M, L, N), `correct_after` maps an arm to (S, M, L, N), `training` is (M, L, T). `cloze` and
    `permuted` map `before`, `after` and `training` to arrays of these shapes. `cot`, `cloze` and
    `permuted` are None where not asked for. `truth` has `D` and `I` as planted, on the design's
    scale, `D_points` and `I_points` as the drawn cells have them in points (I None without strong
    models) and `clipped`, the share of cells that left the range of probabilities. `probability`
    holds the cells. `sheet_seed` seeds what the records need beyond right and wrong.
    """

    correct_before: Bits
    correct_after: dict[str, Bits]
    training: Bits
    cot: Bits | None
    cloze: dict[str, Bits] | None
    truth: dict[str, float | None]
    probability: CellProbabilities
    sheet_seed: int
    permuted: dict[str, Bits] | None = None


def simulate_correct(design: Design, rng: np.random.Generator) -> SimulatedAnswers:
    """Draw a study: its cells, then every answer.

    Args:
        design: sizes, truth and variance components.
        rng: every draw's generator.
    """
    cells = draw_probabilities(design, rng)
    heldout = _shared_effects(design, design.items, rng)
    trained_on = _shared_effects(design, design.training_items, rng)
    before = _respond(cells.before, heldout, design, rng)
    after = {arm: _respond(p, heldout, design, rng) for arm, p in cells.after.items()}
    training = _respond(cells.before, trained_on, design, rng)
    cot = None if cells.cot is None else _respond(cells.cot, heldout, design, rng)
    cloze, permuted = (
        None
        if base is None
        else {
            "before": _respond(base, heldout, design, rng),
            "after": _respond(cells.after["finetuned"], heldout, design, rng),
            "training": _respond(base, trained_on, design, rng),
        }
        for base in (cells.cloze_before, cells.permuted_before)
    )
    drawn = contrasts_of(cells.after["finetuned"].mean(axis=0) - cells.before, design)
    planted = design.true_contrasts()
    truth = {
        "D": planted[0], "I": planted[1],
        "D_points": drawn[0], "I_points": drawn[1],
        "clipped": cells.clipped,
    }  # fmt: skip
    sheet_seed = int(rng.integers(2**63))
    return SimulatedAnswers(before, after, training, cot, cloze, truth, cells, sheet_seed, permuted)


def _shared_effects(design: Design, items: int, rng: np.random.Generator) -> Singles:
    """Draw what a model's answers to an item in a language have in common, (M, L, N)."""
    models, languages = design.models, len(design.languages)

    def part(share: float, *shape: int) -> Singles:
        return np.float32(np.sqrt(share)) * rng.standard_normal(shape, dtype=np.float32)

    passage = passage_codes(items, design)
    passages = part(design.share_passage, int(passage[-1]) + 1 if items else 0)
    by_item = passages[passage] + part(design.share_item, items)
    by_language = by_item + part(design.share_item_language, languages, items)
    by_model = part(design.share_item_model, models, items)
    return np.asarray(by_language + by_model[:, None], np.float32)


def _respond(p: Floats, shared: Singles, design: Design, rng: np.random.Generator) -> Bits:
    """Draw right answers: p (…, M, L) and shared effects (M, L, N) to (…, M, L, N)."""
    remainder = 1 - (
        design.share_passage + design.share_item
        + design.share_item_language + design.share_item_model
    )  # fmt: skip
    z = rng.standard_normal((*p.shape, shared.shape[-1]), dtype=np.float32)
    z *= np.float32(np.sqrt(max(remainder, 0.0)))
    z += shared
    return np.asarray(z < ndtri(p).astype(np.float32)[..., None], np.bool_)


def run_records(answers: SimulatedAnswers, design: Design) -> Iterator[tuple[Run, pd.DataFrame]]:
    """Yield each run (model, arm, seed, reasoning, scoring) with its records."""
    blocks = blocks_of(answers, design)
    for condition in dict.fromkeys(block.condition for block in blocks):
        parts = [block for block in blocks if block.condition == condition]
        yield from record_frames(parts, design, answers.sheet_seed)


def run_count(design: Design) -> int:
    """Count how many runs the study has."""
    scorings = design.cloze + design.permuted
    conditions = 1 + design.cot + scorings
    return design.models * (conditions + design.seeds * (len(design.arms) + scorings))


def blocks_of(answers: SimulatedAnswers, design: Design) -> list[Block]:
    """Return the answers of every condition and part, base first.

    Under cross-fitting no question is for training alone.
    """
    at = ANSWER_TOKEN
    blocks = [
        Block("base", "direct", at, "heldout", answers.correct_before[None]),
        Block("base", "direct", at, "training", answers.training[None]),
    ]
    blocks += [
        Block(arm, "direct", at, "heldout", correct)
        for arm, correct in answers.correct_after.items()
    ]
    if answers.cot is not None:
        blocks.append(Block("base", "cot", at, "heldout", answers.cot[None]))
    for scoring, correct in ((CLOZE, answers.cloze), (PERMUTED, answers.permuted)):
        if correct is not None:
            blocks += [
                Block("base", "direct", scoring, "heldout", correct["before"][None]),
                Block("base", "direct", scoring, "training", correct["training"][None]),
                Block("finetuned", "direct", scoring, "heldout", correct["after"]),
            ]
    return [block for block in blocks if block.part == "heldout" or design.folds == 1]
