"""What a record holds beyond right or wrong: predictions, log-probabilities, answer mass."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit

from analysis.arrays import Array, Bits, Bytes, Floats, Integers, Places, Singles
from analysis.simulation.design import Design
from xling.records import LOGPROB_COLUMNS

Run = tuple[str, str, int, str, str]
"""Model, arm, seed, reasoning, scoring."""

# Log-odds of the answer mass: of base models, and of one whose answers are wholly aligned (0.97).
_MASS_WEAK, _MASS_STRONG, _MASS_ALIGNED, _MASS_SD = 0.2, 0.9, 3.5, 0.5

SHUFFLED = "shuffled-labels"
PRIOR_SHARES = (0.1, 0.4, 0.3, 0.2)
"""How often each position is right in a study with shuffled labels, which that arm learns."""


@dataclass(frozen=True)
class Block:
    """Right and wrong answers of one condition and part, (S, M, L, N); S is 1 for the base."""

    arm: str
    reasoning: str
    scoring: str
    part: str
    correct: Bits

    @property
    def condition(self) -> tuple[str, str, str]:
        """Arm, reasoning and scoring."""
        return self.arm, self.reasoning, self.scoring


@dataclass(frozen=True)
class Sheet:
    """Answers with the option chosen (1 to 4) and the answer mass (NaN for cloze), (S, M, L, N)."""

    correct: Bits
    prediction: Bytes
    mass: Singles


def passage_codes(items: int, design: Design) -> Integers:
    """Return the code of each item's passage, (N,)."""
    return np.arange(items, dtype=np.int64) // design.items_per_passage


def fill_in(block: Block, design: Design, seed: int) -> Sheet:
    """Choose an option and a mass for every answer.

    Args:
        block: right and wrong answers.
        design: the study.
        seed: the study's `sheet_seed`; each block has its own stream of it.
    """
    rng = _stream(seed, *block.condition, block.part)
    shape = block.correct.shape
    gold = _gold(block, design, seed)
    away = rng.integers(1, 4, shape, dtype=np.int8)
    if block.arm == SHUFFLED:
        away = _away_by_prior(gold, rng.random(shape, dtype=np.float32))
    prediction = np.where(block.correct, gold, (gold - 1 + away) % 4 + 1).astype(np.int8)
    if block.scoring == "cloze":
        return Sheet(block.correct, prediction, np.full(shape, np.nan, np.float32))
    level = _mass_level(block, design)[:, None, None].astype(np.float32)
    noise = np.float32(_MASS_SD) * rng.standard_normal(shape, dtype=np.float32)
    return Sheet(block.correct, prediction, expit(level + noise))


def record_frames(
    parts: Sequence[Block], design: Design, seed: int
) -> Iterator[tuple[Run, pd.DataFrame]]:
    """Yield item records of one condition, run by run.

    Args:
        parts: its blocks: held-out, and possibly training.
        design: the study.
        seed: the study's `sheet_seed`.

    Yields:
        The run (model, arm, seed, reasoning, scoring) and its rows, by part, language and item.
    """
    sheets = [(block, fill_in(block, design, seed)) for block in parts]
    fixed = [_fixed_columns(block, design, seed) for block in parts]
    streams = [_stream(seed, *block.condition, block.part, "logprobs") for block in parts]
    arm, reasoning, scoring = parts[0].condition
    for number in range(parts[0].correct.shape[0]):
        for m, model in enumerate(design.model_names):
            frames = [
                pd.DataFrame({**same, **_answer_columns(block, sheet, number, m, rng)})
                for (block, sheet), same, rng in zip(sheets, fixed, streams, strict=True)
            ]
            run = (model, arm, number, reasoning, scoring)
            rows = pd.concat(frames, ignore_index=True)
            yield run, rows.assign(model=model, seed=number)


def _stream(seed: int, *names: str) -> np.random.Generator:
    """Make each name its own generator, so that no draw depends on other draws."""
    digest = hashlib.sha256("/".join(names).encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "big")])


def _gold(block: Block, design: Design, seed: int) -> Bytes:
    """Draw the right options, (N,): the same in every language and run.

    Even over positions, or by PRIOR_SHARES where an arm learns positions alone.
    """
    rng, n = _stream(seed, "gold", block.part), block.correct.shape[-1]
    if SHUFFLED in design.arms:
        return np.asarray(rng.choice(4, n, p=PRIOR_SHARES) + 1, np.int8)
    return np.asarray(rng.integers(1, 5, n), np.int8)


def _away_by_prior(gold: Bytes, draw: Singles) -> Bytes:
    """Return steps from the right option to the wrong one chosen by PRIOR_SHARES alone.

    Args:
        gold: Shape (N,).
        draw: Shape (..., N), uniform over 0 to 1.

    Returns:
        1, 2 or 3, of the shape of `draw`.
    """
    wrong = (gold[:, None] - 1 + np.arange(1, 4)) % 4
    share = np.asarray(PRIOR_SHARES)[wrong]
    edges = (share / share.sum(axis=1, keepdims=True)).cumsum(axis=1)
    return np.asarray(1 + (draw >= edges[:, 0]) + (draw >= edges[:, 1]), np.int8)


def _mass_level(block: Block, design: Design) -> Floats:
    """Return log-odds of the answer mass by model, (M,)."""
    weak = np.arange(design.models) < design.n_weak
    start = np.where(weak, _MASS_WEAK, _MASS_STRONG)
    moved = design.format if block.arm != "base" else 0.0
    return np.asarray(start + moved * (_MASS_ALIGNED - start), np.float64)


def _fixed_columns(block: Block, design: Design, seed: int) -> dict[str, Any]:
    """Return columns that all models and seeds share, by language and item."""
    n_languages, n = len(design.languages), block.correct.shape[-1]
    passage = passage_codes(n, design)
    passages = [f"simulated-{block.part}-{code + 1:04d}" for code in passage]
    order = np.arange(n) % design.items_per_passage + 1
    items = [f"{name}-q{k}" for name, k in zip(passages, order, strict=True)]
    prompts = [
        hashlib.sha256(f"simulated {code} {item} {'/'.join(block.condition[1:])}".encode())
        for code in design.languages
        for item in items
    ]
    return {
        "arm": block.arm,
        "reasoning": block.reasoning,
        "scoring": block.scoring,
        "language": np.repeat(np.array(design.languages, object), n),
        "item_id": np.tile(np.array(items, object), n_languages),
        "passage_id": np.tile(np.array(passages, object), n_languages),
        "part": block.part,
        "gold": np.tile(_gold(block, design, seed), n_languages),
        # Any number that a prompt could have, always the same for the same prompt.
        "n_tokens": np.array([150 + digest.digest()[0] for digest in prompts], np.int32),
        "prompt_sha256": [digest.hexdigest() for digest in prompts],
        "fold": np.tile((passage % design.folds).astype(np.int16), n_languages),
    }


def _answer_columns(
    block: Block, sheet: Sheet, seed: int, model: int, rng: np.random.Generator
) -> dict[str, Array]:
    """Draw the columns of one model and seed, by language and item."""
    prediction = sheet.prediction[seed, model].ravel()
    mass = sheet.mass[seed, model].ravel().astype(np.float64)
    share = np.sort(rng.exponential(size=(len(prediction), 4)), axis=1)
    share /= share.sum(axis=1, keepdims=True)
    # The largest share goes to the prediction, the rest to the other options in turn.
    place = (np.arange(4) - (prediction[:, None] - 1)) % 4 - 1
    if block.arm == SHUFFLED:
        place = _places_by_prior(prediction)
    share = np.take_along_axis(share, place % 4, axis=1)
    # For cloze: mean per token of an answer's text, where no mass is shared out.
    logprob = np.log(share * np.where(np.isnan(mass), 0.5, mass)[:, None])
    return {
        "prediction": prediction,
        "correct": sheet.correct[seed, model].ravel(),
        **dict(zip(LOGPROB_COLUMNS, logprob.T, strict=True)),
        "answer_mass": mass,
    }


def _places_by_prior(prediction: Bytes) -> Places:
    """Rank each option's share, (n, 4): the prediction first, the others by PRIOR_SHARES."""
    liked = np.tile(np.asarray(PRIOR_SHARES), (len(prediction), 1))
    liked[np.arange(len(prediction)), prediction - 1] = 1.0
    return np.asarray(liked.argsort(axis=1).argsort(axis=1), np.intp)
