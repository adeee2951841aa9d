"""Reads one samples file of lm-evaluation-harness: a line for each question.

A choice is the text that the harness scored after the context, its leading space included; the
log-probability is the sum over its tokens. Where the choices are the answer labels this is the
label's log-probability, as the records of scoring `answer-token` ask for. Where they are the
answers' texts, records would ask for the mean per token, which a sum does not give.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xling.data import Item, parse_row
from xling.files.strict_json import parse_json
from xling.messages.values import format_value
from xling.prompts import prompt_sha256
from xling.records import LOGPROB_COLUMNS

SCORING = "answer-token"
LABELS = (("A", "B", "C", "D"), ("1", "2", "3", "4"))


@dataclass(frozen=True)
class Sample:
    """One question as the harness scored it.

    Attributes:
        item: the question.
        logprobs: natural logarithms for options 1 to 4.
        context: the exact prompt.
    """

    item: Item
    logprobs: tuple[float, ...]
    context: str

    @property
    def prediction(self) -> int:
        """The likeliest option, 1-4; the first one among equals, as in the harness."""
        return int(np.argmax(self.logprobs)) + 1

    @property
    def correct(self) -> bool:
        """Whether the likeliest option is the gold one."""
        return self.prediction == self.item.correct_answer_num


def read_samples(path: Path, language: str) -> list[Sample]:
    """Read a samples file, in its own order.

    Args:
        path: The file.
        language: Code that each question's ``dialect`` must equal.

    Raises:
        ValueError: If a line is cut off or is not a scored Belebele question, if the choices are
            not answer labels, if the harness's `acc` contradicts the log-probabilities, or if a
            question appears twice; the message names file and line.
        OSError: If the file cannot be read.
    """
    samples = []
    first: dict[str, int] = {}
    for number, row in _lines(path):
        where = f"{path}, line {number}"
        sample = _read_sample(row, where, language)
        before = first.setdefault(sample.item.item_id, number)
        if before != number:
            raise ValueError(
                f"{where}: question {sample.item.item_id} is in line {before} already; keep "
                "the lines of one run and one filter"
            )
        samples.append(sample)
    if not samples:
        raise ValueError(f"{path} is empty; run lm_eval again with --log_samples")
    return samples


def sample_records(samples: Sequence[Sample], language: str) -> pd.DataFrame:
    """Return item records of one language, but for the columns that name the run.

    The harness does not say how many tokens a prompt has, so `n_tokens` is 0.

    Args:
        samples: n of them.
        language: Belebele code.
    """
    logprobs = np.array([sample.logprobs for sample in samples])
    return pd.DataFrame(
        {
            "language": language,
            "item_id": [sample.item.item_id for sample in samples],
            "passage_id": [sample.item.passage_id for sample in samples],
            "part": "heldout",
            "gold": [sample.item.correct_answer_num for sample in samples],
            "prediction": [sample.prediction for sample in samples],
            "correct": [sample.correct for sample in samples],
            **dict(zip(LOGPROB_COLUMNS, logprobs.T, strict=True)),
            "answer_mass": np.exp(logprobs).sum(axis=1),
            "n_tokens": 0,
            "prompt_sha256": [prompt_sha256(sample.context) for sample in samples],
        }
    )


def _lines(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield each line's number, from 1, and its JSON object."""
    with path.open("rb") as source:
        for number, line in enumerate(source, start=1):
            if not line.strip():
                continue
            try:
                row = parse_json(line)
            except ValueError as error:
                raise ValueError(
                    f"{path}, line {number}: not JSON, or cut off ({error}); copy the file again"
                ) from error
            if not isinstance(row, dict):
                raise ValueError(f"{path}, line {number}: not a sample of lm_eval")
            yield number, row


def _read_sample(row: Mapping[str, Any], where: str, language: str) -> Sample:
    missing = [key for key in ("doc", "arguments", "filtered_resps", "acc") if key not in row]
    if missing:
        raise ValueError(
            f"{where}: missing {', '.join(missing)}; it is not a sample of a multiple-choice task "
            "with the metric acc"
        )
    if not isinstance(row["doc"], dict):
        raise ValueError(
            f"{where}: doc is {format_value(row['doc'])}; it must hold Belebele's fields"
        )
    item = parse_row(row["doc"], where=f"{where}, doc", language=language)
    pairs = _arguments(row["arguments"], where)
    _check_labels([choice for _, choice in pairs], where)
    contexts = {context for context, _ in pairs}
    if len(contexts) > 1:
        raise ValueError(
            f"{where}: the four choices have different contexts; they must follow one prompt"
        )
    sample = Sample(item, _logprobs(row["filtered_resps"], where), contexts.pop())
    if row["acc"] not in (0, 1) or bool(row["acc"]) != sample.correct:
        raise ValueError(
            f"{where}: acc is {format_value(row['acc'])}, but the likeliest option is "
            f"{sample.prediction} and the gold one {item.correct_answer_num}; the task's gold "
            "answers are not Belebele's, or the line was changed"
        )
    return sample


def _arguments(value: object, where: str) -> list[tuple[str, str]]:
    """Return the context and choice of each request, in order."""
    if isinstance(value, dict):  # {"gen_args_0": {"arg_0": context, "arg_1": choice}, …}
        value = [
            list(pair.values()) if isinstance(pair, dict) else pair
            for _, pair in sorted(value.items(), key=lambda entry: _place(entry[0]))
        ]
    pairs = value if isinstance(value, list) else []
    for pair in pairs:
        if (
            not isinstance(pair, list)
            or len(pair) != 2
            or not all(isinstance(text, str) for text in pair)
        ):
            raise ValueError(f"{where}: arguments must be pairs of context and choice")
        if any("\ud800" <= character <= "\udfff" for character in "".join(pair)):
            raise ValueError(
                f"{where}: arguments hold half a surrogate pair; write whole characters"
            )
    if len(pairs) != 4:
        raise ValueError(
            f"{where}: {len(pairs)} scored choices; it must be 4 (a multiple-choice task without "
            "acc_mutual_info)"
        )
    return [(pair[0], pair[1]) for pair in pairs]


def _place(key: str) -> int:
    number = key.rpartition("_")[2]
    return int(number) if number.isascii() and number.isdecimal() and len(number) < 9 else -1


def _check_labels(choices: Sequence[str], where: str) -> None:
    if tuple(choice.strip() for choice in choices) not in LABELS:
        found = ", ".join(format_value(choice, 16) for choice in choices)
        raise ValueError(
            f"{where}: the scored choices are {found}, not the answer labels A to D or 1 to 4. "
            "Scores of whole answers are sums over tokens, and records of scoring cloze need means "
            "per token: use a task with doc_to_choice of labels, such as the harness's own "
            "belebele tasks, or import the accuracies as a CSV table with scoring cloze"
        )


def _logprobs(value: object, where: str) -> tuple[float, ...]:
    """Read four log-probabilities from [logprob, is_greedy] pairs, which may be text."""
    pairs = value if isinstance(value, list) else []
    numbers = tuple(_number(pair[0]) for pair in pairs if isinstance(pair, list) and len(pair) == 2)
    # Rounding may leave a logarithm a little above 0, which records allow; NaN fails this too.
    if len(numbers) != 4 or not all(-math.inf < number <= 1e-6 for number in numbers):
        raise ValueError(
            f"{where}: filtered_resps is {format_value(value)}; it must hold four pairs of a "
            "finite log-probability, at most 0, and whether it is the greedy one"
        )
    return numbers


def _number(value: object) -> float:
    """Return the number, or the number that a text is; NaN if it is not one."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan
