"""One stage of an evaluate cell: items of many languages, asked together, written apart."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from xling.data import Item
from xling.execution.evaluate.answers import Answers, record_frame
from xling.execution.evaluate.item_scorer import ItemScorer
from xling.execution.evaluate.log_results import ROUTING, write_parquet
from xling.execution.study_data import ItemsByPart, StudyData
from xling.files.checksums import difference, read_stamps, stamp_file, write_stamps
from xling.records import write_records
from xling.routing import routing_frame, write_routing
from xling.study import Cell

SAMPLE_PROMPTS = 2
# Of one call: their tokens lie in memory together (half a gigabyte, if they have 500 each).
MOST_PROMPTS = 20_000
UNFINISHED = "unfinished.jsonl"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Share:
    """Items of one language and part, at least one."""

    language: str
    part: str
    items: Sequence[Item]


def answer_by_language(
    data: StudyData, cell: Cell, scorer: ItemScorer, items: ItemsByPart, folder: Path
) -> None:
    """Ask all languages' items in one stream, and write each language's files.

    The engine keeps what it has computed as it goes (answers of servers, batches of a model in
    this process, reasonings), so that an interruption loses little: what was asked before is asked
    in the same batches again, and read from there. Where a model's routing is recorded, it is
    asked language by language: its counts are the language's.

    Args:
        data: study and data.
        cell: what is asked.
        scorer: asks it.
        items: by part and language.
        folder: of the stage; gets ``<code>.parquet`` (the records), a folder of each further
            table, ``prompts``, and ``sealed`` (checksums, written last). A language whose files
            are not what was written is asked again.

    Raises:
        ValueError: a prompt, with its reasoning or its answer, is longer than the context;
            raised before the first answer.
    """
    (folder / "prompts").mkdir(parents=True, exist_ok=True)
    codes = data.study.languages.evaluated
    missing = [code for code in codes if not _is_written(folder, code)]
    for code in missing:
        for share in _shares(items, [code]):
            scorer.check(share.items)
    for code in missing:
        first = items["heldout"][code][:SAMPLE_PROMPTS]
        samples = "\n\n=====\n\n".join(scorer.sample_prompts(first)) + "\n"
        (folder / "prompts" / f"{code}.txt").write_text(samples, encoding="utf-8")
    for together in _streams(scorer, items, codes):
        if not set(together) & set(missing):
            continue
        shares = _shares(items, together)
        named = together[0] if len(together) == 1 else f"{len(together)} languages"
        answers = _score(scorer, shares, f"{cell.name} {named}", folder / UNFINISHED)
        for code in [code for code in together if code in missing]:
            own = [pair for pair in zip(shares, answers, strict=True) if pair[0].language == code]
            _write_language(data, cell, own, code, folder)


def _is_written(folder: Path, code: str) -> bool:
    """Return whether a language's files are there and whole; damaged ones are made again."""
    if not (folder / f"{code}.parquet").is_file():
        return False
    try:
        written = read_stamps(_checksums(folder, code))
    except FileNotFoundError:
        return False  # it ended between the two
    except ValueError as error:
        logger.warning("%s of %s: %s; its items are asked again", code, folder, error)
        return False
    wrong = next(filter(None, (difference(folder, *each) for each in written.items())), "")
    if wrong:
        logger.warning("%s: %s; its items are asked again", folder, wrong)
    return not wrong


def _checksums(folder: Path, code: str) -> Path:
    """Return the file of checksums of a language's files, written after all of them."""
    return folder / "sealed" / f"{code}.json"


def _shares(items: ItemsByPart, codes: Sequence[str]) -> list[Share]:
    """List what is asked in these languages, language by language."""
    return [
        Share(code, part, by_language[code])
        for code in codes
        for part, by_language in items.items()
        if by_language[code]
    ]


def _streams(scorer: ItemScorer, items: ItemsByPart, codes: Sequence[str]) -> Iterator[list[str]]:
    """Group the languages that are asked in one call: all, up to `MOST_PROMPTS`."""
    together: list[str] = []
    prompts = 0
    for code in codes:
        own = scorer.prompts_per_item * sum(len(each.items) for each in _shares(items, [code]))
        if together and (scorer.records_routing or prompts + own > MOST_PROMPTS):
            yield together
            together, prompts = [], 0
        together.append(code)
        prompts += own
    if together:
        yield together


def _score(
    scorer: ItemScorer, shares: Sequence[Share], description: str, unfinished: Path
) -> list[Answers]:
    """Get the answers to each share, in their order."""
    if scorer.records_routing:
        return [
            scorer.score(
                share.items, description=f"{description} {share.part}", unfinished=unfinished
            )
            for share in shares
        ]
    items = [item for share in shares for item in share.items]
    answers = scorer.score(items, description=description, unfinished=unfinished)
    return answers.split([len(share.items) for share in shares])


def _write_language(
    data: StudyData,
    cell: Cell,
    answered: Sequence[tuple[Share, Answers]],
    code: str,
    folder: Path,
) -> None:
    """Write whatever one language's answers left, then its records, and checksums last."""
    _checksums(folder, code).unlink(missing_ok=True)
    records: list[pd.DataFrame] = []
    more: dict[str, list[pd.DataFrame]] = {}
    written: set[str] = set()
    for share, answers in answered:
        folds = [data.fold_of.get(item.item_id, 0) for item in share.items]
        frame = record_frame(
            share.items, answers, cell=cell, language=code, part=share.part, folds=folds
        )
        records.append(frame)
        for name, rows in answers.more.items():
            known = frame[["item_id", "language", "part", "gold"]]
            more.setdefault(name, []).append(known.merge(rows, on="item_id"))
        if share.part == "heldout" and answers.routing is not None:
            table = routing_frame({code: answers.routing.counts()}, layers=answers.routing.layers)
            write_routing(table, folder / ROUTING / f"{code}.parquet")
            written.add(ROUTING)
    for name, frames in more.items():
        written.add(name)
        write_parquet(pd.concat(frames, ignore_index=True), folder / name / f"{code}.parquet")
    write_records(pd.concat(records), folder / f"{code}.parquet")
    names = [f"{code}.parquet", *(f"{name}/{code}.parquet" for name in sorted(written))]
    write_stamps(_checksums(folder, code), {name: stamp_file(folder / name) for name in names})
