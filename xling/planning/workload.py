"""What a study asks of one model: how many prompts of which lengths are trained on and scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from xling.data import DataSet, Item, cross_fit_splits, load_data, split_items
from xling.planning.lengths import Lengths, estimated_lengths, item_lengths
from xling.prompts import PromptFormat
from xling.scoring.option_orders import option_orders
from xling.study import Cell, Study
from xling.study.settings import ModelSettings, PrimerSettings

BELEBELE_ITEMS = 900
"""Questions in each language of Belebele."""
# Cloze scoring also reads each answer after "Answer:" and after nothing.
_SHORT_CONTEXT = 3


@dataclass(frozen=True)
class Counts:
    """Questions of a study, in each language.

    Attributes:
        training: of a fold's training split.
        heldout: of all folds together.
        baseline: of the training split, that the base model answers too.
        folds: 1 where there is one split.
    """

    training: int
    heldout: int
    baseline: int
    folds: int


@dataclass(frozen=True)
class Pass:
    """Tokens that go through a model.

    Attributes:
        tokens: that are computed; padding not counted.
        attended: sum over them of the tokens that each attends to.
        reads: positions whose logits are computed.
        written: tokens that the model writes one by one, at most.
        longest: tokens of the longest prompt.
    """

    tokens: float = 0.0
    attended: float = 0.0
    reads: float = 0.0
    written: float = 0.0
    longest: int = 0

    @property
    def length(self) -> float:
        """Tokens that a token attends to, on average."""
        return self.attended / self.tokens if self.tokens else 0.0

    def __add__(self, other: Pass) -> Pass:
        return Pass(
            self.tokens + other.tokens,
            self.attended + other.attended,
            self.reads + other.reads,
            self.written + other.written,
            max(self.longest, other.longest),
        )

    def times(self, count: float) -> Pass:
        """Return as many such passes."""
        return replace(
            self,
            tokens=self.tokens * count,
            attended=self.attended * count,
            reads=self.reads * count,
            written=self.written * count,
        )


@dataclass(frozen=True)
class Workload:
    """One model's part of a study.

    Attributes:
        adapters: that are trained.
        examples: of all trainings, epochs counted.
        steps: of the optimiser, of all trainings.
        training: tokens of all trainings.
        scoring: of all cells.
        cached_share: tokens whose keys and values are cached for one of a batch's tokens: all
            where a model writes, else none.
        read_at_once: positions of a text whose logits are read together; 1 but for cloze scoring.
        estimated: languages by how their lengths are known (`Lengths.basis`).
    """

    adapters: int
    examples: float
    steps: int
    training: Pass
    scoring: Pass
    cached_share: float
    read_at_once: int
    estimated: Mapping[str, tuple[str, ...]]


def load_questions(study: Study) -> DataSet | None:
    """Load the questions, where they are surely on this machine; None: they are on the hub."""
    settings = study.data
    if settings.source == "hub":
        return None
    return load_data(
        settings.source,
        path=settings.path,
        languages=study.loaded_languages,
        difficulties=settings.difficulties,
        seed=settings.seed,
    )


def count_questions(study: Study, data: DataSet | None) -> Counts:
    """Count how many questions are trained on and held out.

    Raises:
        ValueError: the data cannot be split as the study asks.
    """
    settings = study.data
    if settings.split == "cross-fit":
        if data is not None:
            splits = cross_fit_splits(data, folds=settings.folds, seed=settings.seed)
            held = sum(len(split.heldout_ids) for split in splits)
            return Counts(round(held * (1 - 1 / settings.folds)), held, 0, settings.folds)
        training = round(BELEBELE_ITEMS * (1 - 1 / settings.folds))
        return Counts(training, BELEBELE_ITEMS, 0, settings.folds)
    if data is None:
        training, held = BELEBELE_ITEMS - settings.held_out, settings.held_out
    else:
        split = split_items(
            data, split=settings.split, held_out=settings.held_out, seed=settings.seed
        )
        training, held = len(split.training_ids), len(split.heldout_ids)
    return Counts(training, held, min(settings.baseline_items, training), 1)


def prompt_lengths(
    study: Study, data: DataSet | None, layout: PromptFormat, tokenizer: Any
) -> dict[str, Lengths]:
    """Find each language's prompt lengths; counted where questions and tokenizer are at hand."""
    codes = study.loaded_languages
    if data is None:
        return {code: estimated_lengths(code, chat=layout.chat) for code in codes}
    items: dict[str, Sequence[Item]] = {code: data.items[code] for code in codes}
    instruction = study.chain_of_thought.instruction
    return item_lengths(items, layout, instruction=instruction, tokenizer=tokenizer)


def workload(
    study: Study, model: ModelSettings, counts: Counts, lengths: Mapping[str, Lengths]
) -> Workload:
    """Work out what a study asks of one model.

    Args:
        study: its arms, reasoning, scoring, seeds and languages.
        model: of the study.
        counts: of questions.
        lengths: of prompts, by language.
    """
    trained = [arm for arm in study.arms if arm != "base"]
    questions = min(counts.training, model.training_items or counts.training)
    training, examples = Pass(), 0.0
    for arm in trained:
        once = _training_pass(study, arm, questions, lengths)
        repeats = study.training.epochs * len(study.seeds) * counts.folds
        training += once.times(repeats)
        examples += once.reads * repeats
    rows = questions * len(study.languages.source)
    adapters = len(trained) * len(study.seeds) * counts.folds
    steps = adapters * study.training.epochs * -(-rows // study.training.batch_size)
    if model.primed is not None:
        adapters, steps = adapters + 1, steps + model.primed.steps
        primer = _primer_pass(study, model.primed, lengths)
        training, examples = training + primer, examples + primer.reads
    cells = [cell for cell in study.cells() if cell.model == model]
    scoring = sum((_scoring_pass(study, cell, counts, lengths) for cell in cells), Pass())
    modes = {cell.scoring for cell in cells}
    basis: dict[str, tuple[str, ...]] = {}
    for code, each in lengths.items():
        basis[each.basis] = (*basis.get(each.basis, ()), code)
    answer = max(each.answer for each in lengths.values())
    return Workload(
        adapters=adapters,
        examples=examples,
        steps=steps,
        training=training,
        scoring=scoring,
        cached_share=1.0 if any(cell.reasoning == "cot" for cell in cells) else 0.0,
        read_at_once=round(4 * answer) if "cloze" in modes else 1,
        estimated=basis,
    )


def _training_pass(study: Study, arm: str, questions: int, lengths: Mapping[str, Lengths]) -> Pass:
    """Return one epoch of one adapter; of the control source the languages take turns."""
    languages = study.languages
    codes = languages.control_source if arm == "control-source" else languages.source
    share = len(languages.source) / len(codes)
    return sum((_direct(lengths[code]).times(questions * share) for code in codes), Pass())


def _primer_pass(study: Study, primed: PrimerSettings, lengths: Mapping[str, Lengths]) -> Pass:
    """Return all steps of what primes a model; its languages take turns."""
    each = primed.steps * study.training.batch_size / len(primed.languages)
    return sum((_direct(lengths[code]).times(each) for code in primed.languages), Pass())


def _scoring_pass(study: Study, cell: Cell, counts: Counts, lengths: Mapping[str, Lengths]) -> Pass:
    base = cell.arm == "base" and cell.reasoning == "direct"
    items = counts.heldout + (counts.baseline if base else 0)
    return sum(
        (_one_item(study, cell, lengths[code]).times(items) for code in study.languages.evaluated),
        Pass(),
    )


def _direct(lengths: Lengths) -> Pass:
    return Pass(lengths.prompt, lengths.prompt**2, 1, 0, lengths.longest)


def _one_item(study: Study, cell: Cell, lengths: Lengths) -> Pass:
    """Return what one question costs in a cell."""
    if cell.reasoning == "cot":
        written = study.chain_of_thought.max_tokens
        asked = lengths.prompt + lengths.instruction
        after = asked + written
        return Pass(
            # Written tokens go through the model once when written, once more when answered after.
            tokens=asked + written + after,
            attended=asked**2 + written * (asked + written / 2) + after**2,
            reads=written + 1,
            written=written,
            longest=round(lengths.longest + lengths.instruction + written),
        )
    match cell.scoring:
        case "permuted":
            orders = len(option_orders(study.scoring.orders))
            rest = orders * (lengths.prompt - lengths.cloze)
            return Pass(
                lengths.cloze + rest,
                lengths.cloze**2 + rest * lengths.prompt,
                orders,
                0,
                lengths.longest,
            )
        case "cloze":
            answers = 4 * lengths.answer
            short = 2 * answers + 4 * _SHORT_CONTEXT
            return Pass(
                lengths.cloze + answers + short,
                lengths.cloze**2 + answers * lengths.cloze + short * lengths.answer,
                3 * answers,
                0,
                lengths.longest,
            )
        case _:
            return _direct(lengths)
