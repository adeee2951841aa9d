"""What a simulated study looks like, and the truth that is planted in it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from xling.languages import belebele_codes, family_of

Scale = Literal["points", "latent"]

SOURCE = "arb_Arab"
BRANCH = "Semitic"
SCALES = ("points", "latent")
ARMS = ("finetuned", "control-source", "shuffled-labels")
_FIRST = {
    "related": ("heb_Hebr", "amh_Ethi", "mlt_Latn", "tir_Ethi"),
    "control": ("jpn_Jpan", "kor_Hang", "fra_Latn", "eng_Latn"),
}
MOST_ANSWERS = 50_000_000
_COUNTS = ("models", "related", "control", "items", "items_per_passage", "seeds", "folds")
_LEVELS = ("base_weak", "base_strong")
_SPREADS = (
    "sd_model_base", "sd_language_base", "sd_language", "sd_model_language", "sd_seed",
)  # fmt: skip
_SHARES = ("share_passage", "share_item", "share_item_language", "share_item_model")
_SHIFTS = ("effect", "weak_effect", "gain_weak", "gain_strong", "gain_latent")


@dataclass(frozen=True)
class Design:
    """Sizes, truth and variance components of a simulated study.

    Gains, effects and standard deviations are proportions (0.1 is ten points). On the latent
    scale the effects and the gain are shifts of eta in p = 1/4 + 3/4 logistic(eta), and the
    standard deviations are put on eta by the curve's steepest slope, 3/16.

    Attributes:
        models: how many; the first half, rounded up, is weak, the rest strong.
        related: languages of the source's branch.
        control: languages outside it.
        items: held-out items, in every language.
        items_per_passage: consecutive items that share a passage.
        training_items: training-split items that the base model answers; 0: none.
        seeds: of fine-tuning.
        effect: added to the gain in related languages (and the source), in all models.
        weak_effect: added to it in weak models only: the interaction I.
        scale: what the effects and gains are shifts of.
        gain_weak: gain of weak models in control languages, in points.
        gain_strong: the same of strong models.
        gain_latent: gain of all models on the latent scale, in logits.
        base_weak: base accuracy of weak models.
        base_strong: base accuracy of strong models.
        sd_model_base: of models within their group, in base accuracy (uniform).
        sd_language_base: of languages, in base accuracy, shared by the models (uniform).
        sd_language: of the gain, by language, shared by models and arms.
        sd_model_language: of the gain, by model and language.
        sd_seed: of the gain, by seed, model and language.
        share_passage: share of a response's latent variance that its passage decides.
        share_item: the same of its item.
        share_item_language: of item by language, shared by models.
        share_item_model: of item by model, shared by languages, before and after.
        format: share of the gain that is format alignment: it appears with answer-token
            scoring only, moves answer mass, and is all that shuffled labels bring. The family
            effect is no part of it.
        arms: ``finetuned``, and possibly ``control-source`` (the same gain without the family
            effect) and ``shuffled-labels``.
        cot: whether the base model also answers with reasoning ``cot``.
        cot_correlation: over models, of the headroom-normalised gains of ``cot`` and
            ``finetuned``.
        cloze: whether base and finetuned are also scored by ``cloze``.
        permuted: whether base and finetuned are also scored by ``permuted``: averaged over
            option orders. Half of the format's share of the gain is what averaging brings the
            base model already; recalls are as even over positions without it.
        folds: 1: one split. More: cross-fitting, every item held out in one of so many folds of
            passages, and no training-split answers: those to the other folds take their place.
    """

    models: int = 7
    related: int = 3
    control: int = 3
    items: int = 100
    items_per_passage: int = 2
    training_items: int = 100
    seeds: int = 1
    effect: float = 0.0
    weak_effect: float = 0.0
    scale: Scale = "points"
    gain_weak: float = 0.30
    gain_strong: float = 0.05
    gain_latent: float = 0.8
    base_weak: float = 0.40
    base_strong: float = 0.70
    sd_model_base: float = 0.02
    sd_language_base: float = 0.04
    sd_language: float = 0.02
    sd_model_language: float = 0.03
    sd_seed: float = 0.01
    share_passage: float = 0.1
    share_item: float = 0.2
    share_item_language: float = 0.05
    share_item_model: float = 0.1
    format: float = 0.5
    arms: tuple[str, ...] = ("finetuned",)
    cot: bool = False
    cot_correlation: float = 0.0
    cloze: bool = False
    permuted: bool = False
    folds: int = 1

    @property
    def answers(self) -> int:
        """How many answers the simulated models give, at most."""
        per_model = 1 + self.seeds * len(self.arms) * (1 + self.cloze + self.permuted) + self.cot
        languages = self.related + self.control + 1
        return self.models * languages * (self.items + self.training_items) * per_model

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: names the field and what it may be.
        """
        for name in _COUNTS:
            _check(self, name, getattr(self, name) >= 1, "must be at least 1")
        _check(self, "training_items", self.training_items >= 0, "must be at least 0")
        for name in (*_SHIFTS, *_LEVELS, *_SPREADS, *_SHARES, "format", "cot_correlation"):
            _check(self, name, math.isfinite(getattr(self, name)), "must be a finite number")
        for name in ("effect", "weak_effect") if self.scale == "points" else ():
            within = abs(getattr(self, name)) <= 1
            _check(self, name, within, "must lie in -1 to 1 (0.05 is five points)")
        for name in _LEVELS:
            _check(self, name, 0.25 < getattr(self, name) < 1, "must lie between 0.25 and 1")
        for name in (*_SPREADS, *_SHARES):
            _check(self, name, getattr(self, name) >= 0, "must not be negative")
        shared = sum(getattr(self, name) for name in _SHARES)
        if shared > 1 + 1e-9:
            raise ValueError(f"{', '.join(_SHARES)} add up to {shared:g}; at most 1 is possible")
        _check(self, "format", 0 <= self.format <= 1, "must lie in 0 to 1")
        _check(self, "cot_correlation", abs(self.cot_correlation) <= 1, "must lie in -1 to 1")
        _check(self, "scale", self.scale in SCALES, f"must be one of {', '.join(SCALES)}")
        _check_arms(self.arms)
        passages = -(-self.items // self.items_per_passage)
        rule = f"must not exceed the number of passages, {passages}"
        _check(self, "folds", self.folds <= passages, rule)
        for name in ("related", "control"):
            there = len(_candidates(name))
            asked = getattr(self, name)
            _check(self, name, asked <= there, f"is too many: Belebele has {there} such languages")
        if self.answers > MOST_ANSWERS:
            raise ValueError(
                f"the design has {self.answers} answers, which is more than {MOST_ANSWERS}: more "
                "than memory holds; take fewer models, items or seeds"
            )

    @property
    def n_weak(self) -> int:
        """How many models are weak."""
        return (self.models + 1) // 2

    @property
    def model_names(self) -> tuple[str, ...]:
        """``sim-weak-1`` …, then ``sim-strong-1`` …; zero-padded."""
        strong = self.models - self.n_weak
        width = len(str(self.n_weak))
        return tuple(
            f"sim-{group}-{number:0{width}d}"
            for group, count in (("weak", self.n_weak), ("strong", strong))
            for number in range(1, count + 1)
        )

    @property
    def targets(self) -> tuple[str, ...]:
        """Codes of the related languages, then of the controls."""
        return _candidates("related")[: self.related] + _candidates("control")[: self.control]

    @property
    def languages(self) -> tuple[str, ...]:
        """The targets, then the source language."""
        return (*self.targets, SOURCE)

    @property
    def control_source(self) -> tuple[str, ...]:
        """What the arm ``control-source`` is tuned on: an unrelated language, not a target."""
        if "control-source" not in self.arms:
            return ()
        others = [code for code in _candidates("control") if code not in self.targets]
        # With every control a target, the last of them is that arm's own source.
        return tuple(others[:1]) or self.targets[-1:]

    @property
    def families(self) -> dict[str, str]:
        """``related``, ``control`` or ``source`` by code, in the order of `languages`."""
        names = ("related",) * self.related + ("control",) * self.control + ("source",)
        return dict(zip(self.languages, names, strict=True))

    def changed(self) -> dict[str, Any]:
        """Return the fields that differ from the defaults, by name."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        }

    def true_contrasts(self, arm: str = "finetuned") -> tuple[float, float | None]:
        """Return D and I that an arm's gains have, on the design's scale.

        D is the mean over the models; I is None without strong models.
        """
        planted = arm == "finetuned"
        interaction = self.weak_effect if planted else 0.0
        d = self.effect + interaction * self.n_weak / self.models if planted else 0.0
        return d, interaction if self.n_weak < self.models else None

    @property
    def true_strength(self) -> float | None:
        """B that the gains of `finetuned` have, on the design's scale; None without strong models.

        Mean gain of weak minus that of strong models over the target languages.
        """
        if self.n_weak == self.models:
            return None
        group = self.gain_weak - self.gain_strong if self.scale == "points" else 0.0
        return group + self.weak_effect * self.related / (self.related + self.control)


def _check(design: Design, name: str, holds: bool, rule: str) -> None:
    if not holds:
        raise ValueError(f"{name} {rule} (got {getattr(design, name)!r})")


def _check_arms(arms: tuple[str, ...]) -> None:
    unknown = [arm for arm in arms if arm not in ARMS]
    if unknown or len(set(arms)) < len(arms) or "finetuned" not in arms:
        raise ValueError(
            f"arms must hold 'finetuned' and otherwise only {', '.join(ARMS[1:])}, each once "
            f"(got {', '.join(arms) or 'none'})"
        )


@cache
def _candidates(family: str) -> tuple[str, ...]:
    """Return Belebele's languages of a family, the study's own first, then by code."""
    codes = [
        code
        for code in belebele_codes()
        if family_of(code, source_languages=(SOURCE,), branch=BRANCH) == family
    ]
    first = _FIRST[family]
    return first + tuple(code for code in codes if code not in first)
