"""Runs token trees through a model: in batches, kept when done, halved where memory runs out."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from tqdm.auto import tqdm

from xling.models.memory import free_memory, is_out_of_memory
from xling.scoring.answer_cache import AnswerCache
from xling.scoring.batch_plan import plan_batches
from xling.scoring.prefix_forward import Batch, can_share, is_trusted, read_logprobs, tolerance
from xling.scoring.prefix_trees import Request, Row, lay_out, plan_rows

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

Read = npt.NDArray[np.float64]

# Logits of one forward pass: 2**27 are 0.5 GiB in single precision, and 512 positions of a
# vocabulary of 262k words.
MAX_LOGITS = 2**27
# Tokens of a row of several sequences at most; where each pair of tokens has a score in memory,
# for every head, less.
LONGEST_ROW = 4096
LONGEST_EAGER_ROW = 1024


@dataclass
class BatchRunner:
    """Computes log-probabilities of targets after token sequences.

    Attributes:
        model: in evaluation mode.
        pad_token: any token.
        batch_tokens: padded tokens of a batch at most; a longer row goes alone.
        share: whether sequences that begin alike are put into one row.
        cache: finished batches; None: none are kept.
        repeats: how many sequences each token of the pass under way is part of, shape
            (rows x length,), 0 where padded and where a pass only tries the model out; None
            before the first.
        limit: padded tokens of a batch since memory has run out; None: it has not.
    """

    model: PreTrainedModel | PeftModel
    pad_token: int
    batch_tokens: int
    share: bool
    cache: AnswerCache | None
    repeats: npt.NDArray[np.int64] | None = None
    limit: int | None = None

    def run(
        self,
        requests: Sequence[Request],
        targets: Sequence[npt.NDArray[np.int64]],
        description: str,
    ) -> list[Read]:
        """Return the log-probabilities of each sequence's targets.

        Args:
            requests: n sequences.
            targets: for each, shape (positions read, m): token ids.
            description: of the progress bar; empty: no bar.

        Returns:
            For each sequence, shape (positions read, m).

        Raises:
            RuntimeError: memory ran out on a single sequence.
        """
        result: list[Read] = [np.empty(0)] * len(requests)
        waiting = self._plan(requests, targets)
        bar = tqdm(total=len(requests), desc=description, unit="item", disable=not description)
        with bar:
            while waiting:
                batch = waiting.popleft()
                if self.limit is not None and batch.tokens > self.limit:
                    parts = _halves(batch, requests)
                    if len(parts) > 1:
                        waiting.extendleft(reversed(parts))
                        continue
                try:
                    read = self._read(batch)
                except (MemoryError, RuntimeError) as error:
                    if not is_out_of_memory(error):
                        raise
                    if batch.sequences == 1:
                        raise RuntimeError(
                            f"memory ran out on a single prompt of {batch.tokens} tokens: {error}"
                            "\nUse shorter passages, a smaller model, or a machine with more memory"
                        ) from error
                    self.limit = batch.tokens // 2
                    logger.warning(
                        "memory ran out on a batch of %d tokens; it goes on with %d",
                        batch.tokens,
                        self.limit,
                    )
                    waiting.extendleft(reversed(_halves(batch, requests)))
                else:
                    _sort_in(result, batch, read)
                    bar.update(batch.sequences)
                    continue
                free_memory()  # outside of the handler, whose traceback holds the tensors
        return result

    def _plan(
        self, requests: Sequence[Request], targets: Sequence[npt.NDArray[np.int64]]
    ) -> deque[Batch]:
        """Plan batches of rows; sequences share rows where the model can do that."""
        if not requests:
            return deque()
        vocabulary = int(self.model.get_input_embeddings().weight.shape[0])
        max_reads = max(1, MAX_LOGITS // vocabulary)
        config = self.model.config.get_text_config()
        most = LONGEST_EAGER_ROW if config._attn_implementation == "eager" else LONGEST_ROW
        limits = {"longest": min(self.batch_tokens, most), "max_reads": max_reads}
        rows = plan_rows(requests, share=self.share and can_share(self.model), **limits)
        if not is_trusted(self.model) and not self._shares_correctly(rows, requests, targets):
            rows = plan_rows(requests, share=False, **limits)
        batches = plan_batches(
            np.array([_length(row) for row in rows]),
            self.batch_tokens,
            reads=[len(row.read_places) for row in rows],
            max_reads=max_reads,
        )
        return deque(_batch([rows[index] for index in chosen], targets) for chosen in batches)

    def _shares_correctly(
        self,
        rows: Sequence[Row],
        requests: Sequence[Request],
        targets: Sequence[npt.NDArray[np.int64]],
    ) -> bool:
        """Check that the model gives the sequences of a row what it gives them alone.

        Architectures differ in what they do with a mask and with positions; this asks the model,
        by the first and the last sequence of the shortest row that branches.
        """
        branching = [row for row in rows if row.branches]
        if not branching:
            return True
        row = min(branching, key=_length)
        ends = [row.sequences[0], row.sequences[-1]]
        alone = _batch([lay_out(requests, [index]) for index in ends], targets)
        try:
            apart = [values[0] for values in self._compute(alone, counted=False)]
            together = self._compute(_batch([row], targets), counted=False)[0]
        except Exception as error:
            # Whatever it is: a model that cannot be asked so may well score each prompt alone.
            logger.debug("scoring prompts in one row", exc_info=True)
            reason = f"{type(error).__name__}: {error}"
        else:
            pairs = zip((together[0], together[-1]), apart, strict=True)
            largest = max(float(np.abs(joint - single).max()) for joint, single in pairs)
            if largest <= tolerance(self.model):
                return True
            reason = f"they differ by {largest:.2g}"
        free_memory()
        logger.warning(
            "%s does not score prompts that share a beginning in one row as it scores them alone "
            "(%s); each is computed alone",
            type(self.model).__name__,
            reason,
        )
        return False

    def _read(self, batch: Batch) -> list[list[Read]]:
        """Return what `read_logprobs` gives, or gave before the work was cut off."""
        key = batch_key(batch)
        if self.cache is not None and key in self.cache:
            values = self.cache[key]["logprobs"]
            return [[np.array(each, np.float64) for each in row] for row in values]
        read = self._compute(batch, counted=True)
        if self.cache is not None:
            self.cache.put(key, {"logprobs": [[each.tolist() for each in row] for row in read]})
        return read

    def _compute(self, batch: Batch, *, counted: bool) -> list[list[Read]]:
        self.repeats = batch.repeats * counted
        return read_logprobs(self.model, batch, pad_token=self.pad_token)


def batch_key(batch: Batch) -> str:
    """Return the hexadecimal sha256 of all that decides a batch's numbers but the model."""
    content = [
        [each.tolist() for each in (row.tokens, row.ends, *row.reads, *targets)]
        for row, targets in zip(batch.rows, batch.targets, strict=True)
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _length(row: Row) -> int:
    return len(row.tokens)


def _batch(rows: Sequence[Row], targets: Sequence[npt.NDArray[np.int64]]) -> Batch:
    return Batch(
        tuple(rows), tuple(tuple(targets[index] for index in row.sequences) for row in rows)
    )


def _halves(batch: Batch, requests: Sequence[Request]) -> list[Batch]:
    """Halve a batch: by its rows, or its only row by its sequences; one sequence stays as it is."""
    if len(batch.rows) > 1:
        middle = len(batch.rows) // 2
        return [
            Batch(batch.rows[part], batch.targets[part])
            for part in (slice(None, middle), slice(middle, None))
        ]
    (row,), (targets,) = batch.rows, batch.targets
    middle = len(row.sequences) // 2
    if not middle:
        return [batch]
    return [
        Batch((lay_out(requests, row.sequences[part]),), (targets[part],))
        for part in (slice(None, middle), slice(middle, None))
    ]


def _sort_in(result: list[Read], batch: Batch, read: list[list[Read]]) -> None:
    for row, values in zip(batch.rows, read, strict=True):
        for index, value in zip(row.sequences, values, strict=True):
            result[index] = value
