"""Scores prompts with a model that a server holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from tqdm.auto import tqdm

from xling.prompts import LABELS, label_token_ids
from xling.scoring.answer_cache import AnswerCache, answer_key
from xling.scoring.answer_spans import AnswerSpan, choice_spans
from xling.scoring.context import check_context
from xling.scoring.generation import check_keys
from xling.scoring.protocol import (
    ChoiceScores,
    Generation,
    Scores,
    VariantScores,
    number_of_variants,
)
from xling.scoring.sampling import Sampling
from xling.scoring.server.capabilities import Capabilities, find_capabilities
from xling.scoring.server.continuations import ContinuationWriter
from xling.scoring.server.logprobs import (
    request_answer_logprob,
    request_label_logprobs,
)
from xling.scoring.server.prompt_form import prompts_of
from xling.scoring.server.served_models import ServedModel
from xling.scoring.server.transport import ServerError, Transport

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from xling.study.settings import ServerSettings


class ServerEngine:
    """Scores prompts over an OpenAI-compatible completions interface.

    It is tried out first: see `find_capabilities`, also for what that raises.

    Args:
        transport: to the server.
        settings: of the study's model.
        model: what to ask there.
        tokenizer: of the study's model; must be the server's.
        add_special_tokens: True for plain prompts, False for prompts from a chat template.
        ending: of the study's prompts, after which a label comes.
    """

    def __init__(
        self,
        transport: Transport,
        settings: ServerSettings,
        model: ServedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        add_special_tokens: bool,
        ending: str,
    ) -> None:
        self._transport = transport
        self._settings = settings
        self._model = model
        self._tokenizer = tokenizer
        self._add_special_tokens = add_special_tokens
        self._name = model.served.request_name(model.adapter)
        self._identity = f"of {model.served.base} {model.cache_name or model.adapter}"
        self._cache = AnswerCache(model.cache_file)
        self._capabilities = find_capabilities(
            transport,
            tokenizer,
            self._name,
            top_logprobs=settings.top_logprobs,
            ending=ending,
        )

    @property
    def context(self) -> int | None:
        """The smaller of the model's and the server's; None where neither names one.

        Less the token that the server writes after a prompt, and the label that it may repeat.
        """
        limits = [each for each in (self._model.context, self._model.served.context) if each]
        return min(limits) - (2 if self._capabilities.echo else 1) if limits else None

    @property
    def capabilities(self) -> Capabilities:
        """How the server is asked."""
        return self._capabilities

    def check_scoring(self, scoring: str, prompt: str = "") -> None:
        """Check that the server can score so, without asking it.

        Args:
            scoring: of the cell.
            prompt: any of the study's; empty: none is at hand.

        Raises:
            ValueError: it cannot, or cannot be sent such prompts; says the remedy.
        """
        if scoring == "cloze" and not self._capabilities.echo:
            raise ValueError(
                f"server {self._transport.url} gives no log-probabilities of a prompt's tokens "
                "(`echo` with `logprobs`), which scoring cloze needs: use vLLM, or scoring "
                "answer-token or permuted"
            )
        for row in prompts_of(
            self._tokenizer, [prompt] * bool(prompt), add_special_tokens=self._add_special_tokens
        ):
            self._capabilities.prompt_form.encode(row)

    def score(self, prompts: Sequence[str], *, description: str = "") -> Scores:
        """Score each prompt's four labels.

        Raises:
            ValueError: the labels are not single tokens after the prompts, or a prompt is longer
                than the context; raised before the first request.
            ServerError: the server fails for good.
        """
        if not prompts:
            none = np.empty(0, dtype=np.int32)
            return Scores(np.empty((0, 4)), none, np.empty((0, 4), dtype=bool), none)
        labels = label_token_ids(
            self._tokenizer, prompts[0], add_special_tokens=self._add_special_tokens
        )
        rows = prompts_of(self._tokenizer, prompts, add_special_tokens=self._add_special_tokens)
        lengths = np.array([len(row.tokens) for row in rows], dtype=np.int32)
        check_context(lengths, [f"number {n}" for n in range(len(rows))], context=self.context)
        answers = self._ask(
            rows,
            [answer_key(f"labels {labels} {self._identity}", row.tokens) for row in rows],
            lambda row: request_label_logprobs(
                self._transport,
                self._capabilities,
                self._name,
                row,
                tokens=labels,
                texts=LABELS,
                top_logprobs=self._settings.top_logprobs,
            ),
            description,
        )
        return Scores(
            np.array([answer["logprobs"] for answer in answers], np.float64),
            lengths,
            np.array([answer["bounded"] for answer in answers], bool),
            np.array([answer["tries"] for answer in answers], np.int32),
            np.array([answer["unlisted"] for answer in answers], np.float64),
        )

    def score_variants(
        self, prompts: Sequence[Sequence[str]], *, description: str = ""
    ) -> VariantScores:
        """Score the four labels after each of k variants of each item's prompt.

        Raises:
            ValueError: items have different numbers of variants; or as `score`.
            ServerError: the server fails for good.
        """
        variants = number_of_variants(prompts)
        flat = [prompt for variants_of_item in prompts for prompt in variants_of_item]
        scores = self.score(flat, description=description)
        shape = (len(prompts), variants if prompts else 0)
        return VariantScores(
            scores.logprobs.reshape(*shape, 4),
            scores.n_tokens.reshape(shape),
            None if scores.censored is None else scores.censored.reshape(*shape, 4),
            None if scores.tries is None else scores.tries.reshape(shape),
        )

    def score_choices(
        self,
        prompts: Sequence[str],
        choices: Sequence[Sequence[str]],
        *,
        unconditional_context: str = "Answer:",
        description: str = "",
    ) -> ChoiceScores:
        """Score the texts of each prompt's four answers, which the server repeats to us.

        Raises:
            ValueError: the server repeats no prompts; or prompts and answers do not fit together,
                an answer is empty, or a prompt with its answer is longer than the context; raised
                before the first request.
            ServerError: the server fails for good.
        """
        self.check_scoring("cloze")
        found = choice_spans(
            self._tokenizer,
            prompts,
            choices,
            unconditional_context,
            add_special_tokens=self._add_special_tokens,
            context=self.context,
        )
        total, tries = self._totals(found.spans, description)
        unconditional, _ = self._totals(found.short, description and f"{description}, no question")
        prior, _ = self._totals(
            found.bare, description and f"{description}, no context", partial=True
        )
        return found.scores(total, unconditional, prior, tries)

    def generate(
        self,
        prompts: Sequence[str],
        keys: Sequence[str],
        sampling: Sampling,
        *,
        stop: str = "",
        description: str = "",
    ) -> Iterator[dict[str, Generation]]:
        """Continue each prompt; draws are the server's own, from a seed of the item's.

        Raises:
            ValueError: keys repeat, or a prompt leaves too little room in the context; raised
                before the first request.
            ServerError: the server fails for good.
        """
        check_keys(prompts, keys)
        rows = prompts_of(self._tokenizer, prompts, add_special_tokens=self._add_special_tokens)
        lengths = [len(row.tokens) for row in rows]
        check_context(lengths, keys, context=self.context, max_tokens=sampling.max_tokens)
        writer = ContinuationWriter(
            self._transport,
            self._capabilities.prompt_form,
            self._name,
            sampling,
            owner=self._model.served.owner,
            stop=stop,
        )

        def run() -> Iterator[dict[str, Generation]]:
            if not rows:
                return
            writer.try_out(rows[0])
            with _bar(len(rows), description) as bar:
                jobs = list(zip(rows, keys, strict=True))
                for index, made in self._transport.map(writer.write, jobs):
                    yield {keys[index]: made}
                    bar.update()

        return run()

    def _totals(
        self, spans: Sequence[AnswerSpan], description: str, *, partial: bool = False
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int32]]:
        """Return sums of the log-probabilities of answers' tokens, and requests; shapes (n,)."""
        answers = self._ask(
            spans,
            [answer_key(f"span {each.start} {self._identity}", each.tokens) for each in spans],
            lambda each: request_answer_logprob(
                self._transport, self._capabilities, self._name, each, partial=partial
            ),
            description,
        )
        totals = [np.nan if answer["total"] is None else answer["total"] for answer in answers]
        return np.array(totals, np.float64), np.array(
            [answer["tries"] for answer in answers], np.int32
        )

    def _ask(
        self,
        jobs: Sequence[Any],
        keys: Sequence[str],
        work: Callable[[Any], dict[str, Any]],
        description: str,
    ) -> list[dict[str, Any]]:
        """Return answers in the jobs' order; what is cached already is not asked again."""

        def careful(job: Any) -> dict[str, Any]:
            try:
                return work(job)
            except ValueError as error:
                raise ServerError(f"server {self._transport.url}: {error}") from error

        missing = {key: job for key, job in zip(keys, jobs, strict=True) if key not in self._cache}
        with _bar(len(keys), description) as bar:
            bar.update(sum(key in self._cache for key in keys))
            names = list(missing)
            for index, answer in self._transport.map(careful, list(missing.values())):
                self._cache.put(names[index], answer)
                bar.update()
        return [self._cache[key] for key in keys]


def _bar(total: int, description: str) -> tqdm[Any]:
    return tqdm(total=total, desc=description, unit="item", disable=not description)
