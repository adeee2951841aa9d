"""Puts items to a model as a cell's reasoning and scoring ask, and makes records of the answers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from xling.data import Item
from xling.execution.evaluate.answers import (
    CLOZE_TABLE,
    ORDERS_TABLE,
    REASONING_TABLE,
    Answers,
    server_tables,
)
from xling.prompts import PromptFormat, prompt_sha256, render_cloze_prompts, render_prompts
from xling.records import LOGPROB_COLUMNS
from xling.routing import RoutingCounter, has_known_routers, is_mixture, recording_routing
from xling.scoring import Engine, InProcessEngine, Sampling, Scores
from xling.scoring.answer_cache import ReasoningFile
from xling.scoring.answer_spans import DELIMITER
from xling.scoring.context import check_context
from xling.scoring.option_orders import average_over_orders, option_orders, reorder
from xling.scoring.reasoning import prompts_that_fit, reasoning_prompts, stop_text
from xling.study import Cell, Study
from xling.study.settings import ReasoningSettings

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


class ItemScorer:
    """Puts items to one model, with or without an adapter, in one cell's way.

    Args:
        engine: scores and writes.
        tokenizer: of the model.
        layout: how items are put to it.
        cell: reasoning and scoring.
        study: settings of both.
        model: where it is in this process; a mixture of experts' routing is recorded there.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: PreTrainedTokenizerBase,
        layout: PromptFormat,
        *,
        cell: Cell,
        study: Study,
        model: PreTrainedModel | PeftModel | None = None,
    ) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._layout = layout
        self._cell = cell
        self._study = study
        self._model = model

    def score(self, items: Sequence[Item], *, description: str, unfinished: Path) -> Answers:
        """Get the answers to items, of one language or of many.

        Args:
            items: n items.
            description: what progress bars show.
            unfinished: file of the reasonings that are finished, by language and item.

        Raises:
            ValueError: a prompt, with its reasoning or its answer, is longer than the model's
                context; the labels cannot be scored; or the chat template cannot be used.
        """
        if self._cell.reasoning == "cot":
            return self._score_with_reasoning(items, description, unfinished)
        match self._cell.scoring:
            case "permuted":
                return self._score_in_orders(items, description)
            case "cloze":
                return self._score_cloze(items, description)
            case _:
                return self._score_directly(items, description)

    @property
    def prompts_per_item(self) -> int:
        """Texts that the engine is given at once for each item."""
        match self._cell.scoring:
            case "permuted":
                return len(option_orders(self._study.scoring.orders))
            case "cloze":
                return 4
            case _:
                return 1

    @property
    def records_routing(self) -> bool:
        """Whether answers say which experts the items' tokens went to, of all items together."""
        direct = (self._cell.reasoning, self._cell.scoring) == ("direct", "answer-token")
        return direct and self._routed_model is not None

    def check(self, items: Sequence[Item]) -> None:
        """Check items of one language before the first is asked.

        Raises:
            ValueError: a prompt, with its reasoning or its answer, is longer than the context.
        """
        named = self._longest_texts(items)
        special = not self._layout.chat
        rows = self._tokenizer([text for _, text in named], add_special_tokens=special)
        check_context(
            [len(row) for row in rows["input_ids"]],
            [name for name, _ in named],
            context=self._engine.context,
            max_tokens=self._thought.max_tokens if self._cell.reasoning == "cot" else 0,
        )

    def _longest_texts(self, items: Sequence[Item]) -> list[tuple[str, str]]:
        """Return names and texts of all that the model will read before its own words."""
        names = [f"{item.dialect}/{item.item_id}" for item in items]
        prompts = self.sample_prompts(items)
        pairs = list(zip(names, prompts, strict=True))
        if self._cell.scoring != "cloze":
            return pairs
        return [
            (f"{name}, option {number}", f"{prompt}{DELIMITER}{answer}")
            for (name, prompt), item in zip(pairs, items, strict=True)
            for number, answer in enumerate(item.answers, start=1)
        ]

    def sample_prompts(self, items: Sequence[Item]) -> list[str]:
        """Render the exact prompts of items, up to where the model's own text begins."""
        tokenizer = self._tokenizer
        if self._cell.reasoning == "cot":
            return reasoning_prompts(
                items, self._layout, tokenizer, instruction=self._thought.instruction
            )
        if self._cell.scoring == "cloze":
            return render_cloze_prompts(items, self._layout, tokenizer)
        return render_prompts(items, self._layout, tokenizer)

    @property
    def _thought(self) -> ReasoningSettings:
        return self._study.chain_of_thought

    def _score_directly(self, items: Sequence[Item], description: str) -> Answers:
        """Score the labels; of a mixture of experts also record where the prompts' tokens go."""
        prompts = self.sample_prompts(items)
        with self._recording() as counter:
            scores = self._engine.score(prompts, description=description)
        return replace(_answers(items, prompts, scores, {}), routing=counter)

    def _recording(self) -> AbstractContextManager[RoutingCounter | None]:
        """Record routing in the block; a token that stands for several prompts, as often."""
        engine, routed = self._engine, self._routed_model
        if routed is None or not isinstance(engine, InProcessEngine):
            return nullcontext()
        return recording_routing(routed, repeats=lambda: engine.repeats)

    @cached_property
    def _routed_model(self) -> PreTrainedModel | PeftModel | None:
        """The model whose routing is recorded; None where there is nothing to record."""
        model = self._model
        if model is None or not is_mixture(model):
            return None
        if not has_known_routers(model):
            logger.warning("%s: its expert routing is not recorded", self._cell.model.label)
            return None
        return model

    def _score_with_reasoning(
        self, items: Sequence[Item], description: str, unfinished: Path
    ) -> Answers:
        """Let the model reason, batch by batch on disk, then score the four labels after it."""
        thought = self._thought
        questions = self.sample_prompts(items)
        # The key decides an item's draws, so it names the language, too.
        keys = [f"{item.dialect}/{item.item_id}" for item in items]
        kept = ReasoningFile(unfinished)
        done = kept.done()
        missing = [
            (prompt, key) for prompt, key in zip(questions, keys, strict=True) if key not in done
        ]
        for batch in self._engine.generate(
            [prompt for prompt, _ in missing],
            [key for _, key in missing],
            Sampling(thought.max_tokens, thought.temperature, thought.top_p, thought.seed),
            stop=stop_text(self._layout),
            description=f"{description} reasoning",
        ):
            kept.append(batch)
            done.update(batch)
        written = [done[key] for key in keys]
        prompts, fitted = prompts_that_fit(
            questions, written, self._layout, self._tokenizer, context=self._engine.context
        )
        scores = self._engine.score(prompts, description=f"{description} answers")
        frame = pd.DataFrame(
            {
                "item_id": [item.item_id for item in items],
                "text": [each.text for each in written],
                "n_tokens": np.array([each.n_tokens for each in written], np.int32),
                "truncated": [each.truncated for each in fitted],
                "reasoning_prompt_sha256": [prompt_sha256(prompt) for prompt in questions],
            }
        )
        return _answers(items, prompts, scores, {REASONING_TABLE: frame})

    def _score_in_orders(self, items: Sequence[Item], description: str) -> Answers:
        """Score every order of the options, and average back onto the options."""
        orders = option_orders(self._study.scoring.orders)
        by_order = [
            self.sample_prompts([reorder(item, order) for item in items])  # type: ignore[misc]
            for order in orders
        ]
        variants = [list(prompts) for prompts in zip(*by_order, strict=True)]
        scores = self._engine.score_variants(variants, description=description)
        averaged = average_over_orders(scores.logprobs, orders)
        mass = averaged.answer_mass
        if scores.censored is not None:  # bounds of labels may exceed 1 together
            mass = np.minimum(mass, 1.0)
        n, k = scores.logprobs.shape[:2]
        frame = pd.DataFrame(
            {
                "item_id": np.repeat([item.item_id for item in items], k),
                "order": ["".join(str(option + 1) for option in order) for order in orders] * n,
                **dict(zip(LOGPROB_COLUMNS, scores.logprobs.reshape(-1, 4).T, strict=True)),
                "prediction": averaged.by_order.reshape(-1),
            }
        )
        return Answers(
            prompts=by_order[0],
            logprobs=averaged.logprobs,
            prediction=averaged.prediction,
            answer_mass=mass,
            n_tokens=scores.n_tokens[:, 0],
            more={
                ORDERS_TABLE: frame,
                **server_tables(items, scores.n_tokens[:, 0], scores.censored, scores.tries),
            },
        )

    def _score_cloze(self, items: Sequence[Item], description: str) -> Answers:
        """Score the texts of the answers, without showing them as options."""
        prompts = self.sample_prompts(items)
        scores = self._engine.score_choices(
            prompts,
            [item.answers for item in items],
            unconditional_context=self._layout.cloze_prefix.strip(),
            description=description,
        )
        frame = pd.DataFrame(
            {
                "item_id": np.repeat([item.item_id for item in items], 4),
                "option": np.tile(np.arange(1, 5, dtype=np.int8), len(items)),
                "logprob": scores.total.reshape(-1),
                "n_tokens": scores.n_tokens.reshape(-1),
                "n_characters": scores.n_characters.reshape(-1),
                "logprob_unconditional": scores.unconditional.reshape(-1),
                "logprob_prior": scores.prior.reshape(-1),
            }
        )
        return Answers(
            prompts=prompts,
            logprobs=scores.per_token,
            prediction=(scores.per_token.argmax(axis=1) + 1).astype(np.int8),
            answer_mass=np.full(len(items), np.nan),
            n_tokens=scores.prompt_tokens,
            more={
                CLOZE_TABLE: frame,
                **server_tables(items, scores.prompt_tokens, None, scores.tries),
            },
        )


def _answers(
    items: Sequence[Item], prompts: list[str], scores: Scores, more: Mapping[str, pd.DataFrame]
) -> Answers:
    return Answers(
        prompts,
        scores.logprobs,
        scores.predictions,
        scores.answer_mass,
        scores.n_tokens,
        {**more, **server_tables(items, scores.n_tokens, scores.censored, scores.tries)},
    )
