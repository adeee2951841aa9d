"""The probability of a right answer in every simulated cell: the truth of a simulated study."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit

from analysis.arrays import Bits, Floats
from analysis.simulation.design import Design

LOW, HIGH = 0.01, 0.99
_CHANCE = 0.25
_LOGITS_PER_POINT = 1 / (0.25 * (1 - _CHANCE))
_COT_MEAN, _COT_SD = 0.25, 0.08
"""Mean and standard deviation over models of the share of headroom that reasoning gains."""

_POSITION_SHARE = 0.5
"""Part of the format's share of the gain that averaging over option orders brings as well."""


@dataclass(frozen=True)
class CellProbabilities:
    """P(correct) by cell; languages in the order of `Design.languages` (the source last).

    `before` has shape (M, L); `after` maps an arm to (S, M, L); `cot`, `cloze_before` and
    `permuted_before` are (M, L) or None (not asked for). Cloze and permuted after fine-tuning have
    the `finetuned` probabilities.
    `clipped` is the share of cells that had to be brought into LOW to HIGH: in these the truth
    is not the planted one.
    """

    before: Floats
    after: dict[str, Floats]
    cot: Floats | None
    cloze_before: Floats | None
    clipped: float
    permuted_before: Floats | None = None


def draw_probabilities(design: Design, rng: np.random.Generator) -> CellProbabilities:
    """Draw models, languages and seeds.

    With v the level that the scale adds on (the probability itself, or eta),
    v_before = level of the model's group + model + language and
    v_after = v_before + gain of the group + family effect + receptivity of the language
    + model by language + seed.

    Args:
        design: sizes, effects and standard deviations.
        rng: every draw's generator.
    """
    weak = np.arange(design.models) < design.n_weak
    start = _start(design, weak, rng)
    arms = _gains(design, weak, rng)
    raw_before = _to_probability(design, start)
    raw_after = {arm: _to_probability(design, start + gain) for arm, gain in arms.items()}
    before = np.clip(raw_before, LOW, HIGH)
    after = {arm: np.clip(values, LOW, HIGH) for arm, values in raw_after.items()}
    everything = [raw_before, *raw_after.values()]
    aligned: dict[str, Floats] = {}
    for scoring, share in (("cloze", 1.0), ("permuted", _POSITION_SHARE)):
        if getattr(design, scoring):
            shift = share * design.format * _group_gain(design, weak)[:, None]
            everything.append(_to_probability(design, start + shift))
            aligned[scoring] = np.clip(everything[-1], LOW, HIGH)
    cot = _cot(design, before, after["finetuned"], rng) if design.cot else None
    outside = sum(int(((values < LOW) | (values > HIGH)).sum()) for values in everything)
    clipped = outside / sum(values.size for values in everything)
    return CellProbabilities(
        before, after, cot, aligned.get("cloze"), clipped, aligned.get("permuted")
    )


def contrasts_of(gain: Floats, design: Design) -> tuple[float, float | None]:
    """Return D and I of one set of gains by model and language.

    Args:
        gain: (M, L) or (M, targets); what follows the targets is left out.
        design: the study.

    Returns:
        D over all models, and D of the weak models - D of the strong ones (None without any).
    """
    by_model = gain[:, : design.related].mean(axis=1)
    by_model = by_model - gain[:, design.related : design.related + design.control].mean(axis=1)
    weak, strong = by_model[: design.n_weak], by_model[design.n_weak :]
    return float(by_model.mean()), float(weak.mean() - strong.mean()) if len(strong) else None


def _unit(design: Design) -> float:
    """Return what a standard deviation of 1 (in proportion) is on the design's scale."""
    return _LOGITS_PER_POINT if design.scale == "latent" else 1.0


def _to_probability(design: Design, values: Floats) -> Floats:
    if design.scale == "points":
        return values
    return np.asarray(_CHANCE + (1 - _CHANCE) * expit(values), np.float64)


def _start(design: Design, weak: Bits, rng: np.random.Generator) -> Floats:
    """Draw the levels of the base models, (M, L).

    Uniform, since a normal's tails would be clipped in points.
    """
    level = np.where(weak, design.base_weak, design.base_strong)
    if design.scale == "latent":
        level = logit((level - _CHANCE) / (1 - _CHANCE))
    width = np.sqrt(3.0) * _unit(design)
    model = rng.uniform(-width, width, design.models) * design.sd_model_base
    language = rng.uniform(-width, width, len(design.languages)) * design.sd_language_base
    return np.asarray((level + model)[:, None] + language, np.float64)


def _group_gain(design: Design, weak: Bits) -> Floats:
    """Return the gain of each model before effects and chance, (M,)."""
    if design.scale == "latent":
        return np.full(design.models, design.gain_latent)
    return np.where(weak, design.gain_weak, design.gain_strong)


def _gains(design: Design, weak: Bits, rng: np.random.Generator) -> dict[str, Floats]:
    """Return the gain of each arm on the design's scale, (S, M, L)."""
    unit = _unit(design)
    family = np.array([name != "control" for name in design.families.values()])
    group = _group_gain(design, weak)[:, None]
    planted = family * (design.effect + design.weak_effect * weak[:, None])
    mean = {
        "finetuned": group + planted,
        "control-source": group + 0.0 * planted,
        "shuffled-labels": design.format * group + 0.0 * planted,
    }
    shape = (design.models, len(design.languages))
    receptivity = rng.normal(0.0, unit * design.sd_language, shape[1])
    return {
        arm: mean[arm]
        + receptivity
        + rng.normal(0.0, unit * design.sd_model_language, shape)
        + rng.normal(0.0, unit * design.sd_seed, (design.seeds, *shape))
        for arm in design.arms
    }


def _cot(design: Design, before: Floats, after: Floats, rng: np.random.Generator) -> Floats:
    """Draw P(correct) with reasoning, (M, L).

    A model gains a share of its headroom. Correlated with fine-tuning are these shares, since
    points gained are bounded by a baseline that both have in common.
    """
    tuned = (after.mean(axis=(0, 2)) - before.mean(axis=1)) / (1 - before.mean(axis=1))
    spread = tuned.std()
    known = (tuned - tuned.mean()) / spread if spread > 0 else np.zeros_like(tuned)
    rho = design.cot_correlation
    own = rng.normal(size=design.models)
    share = _COT_MEAN + _COT_SD * (rho * known + np.sqrt(1 - rho**2) * own)
    cell = rng.normal(0.0, design.sd_model_language, before.shape)
    after_reasoning = before + share[:, None] * (1 - before) + cell
    return np.asarray(np.clip(after_reasoning, LOW, HIGH), np.float64)
