"""Leakage: checks that nothing held out was trained on, by item id and by text.

Ids are the same in every language. The same passage and question under another id are the same
question, too; they are compared within one language, whatever the spaces and the way in which
letters are composed. What an adapter was trained on goes with it as hashes, so that any study that
uses it can check that it holds out other questions.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from xling.data.schema import DataSet, Item
from xling.data.splits import Split

TRAINING_ITEMS = "training_items.json"
_DIGITS = 16


@dataclass(frozen=True)
class TrainedOn:
    """Which questions something was trained on, as hashes.

    Attributes:
        ids: One of each item id.
        texts: One of each passage and question, with its language.
    """

    ids: frozenset[str]
    texts: frozenset[str]

    def __or__(self, other: TrainedOn) -> TrainedOn:
        """Return what either was trained on."""
        return TrainedOn(self.ids | other.ids, self.texts | other.texts)

    @property
    def n_questions(self) -> int:
        """How many questions there are, whatever the number of languages."""
        return len(self.ids)


def trained_on(items: Iterable[Item]) -> TrainedOn:
    """Return the hashes of items that are trained on."""
    rows = list(items)
    return TrainedOn(
        frozenset(_hash(item.item_id) for item in rows),
        frozenset(_text_hash(item) for item in rows),
    )


def write_training_items(folder: Path, items: TrainedOn) -> None:
    """Write what an adapter was trained on beside its files."""
    content = {"ids": sorted(items.ids), "texts": sorted(items.texts)}
    (folder / TRAINING_ITEMS).write_text(json.dumps(content) + "\n", encoding="utf-8")


def read_training_items(folder: Path, *, adapter: str) -> TrainedOn:
    """Read what an adapter was trained on.

    Args:
        folder: Of the adapter's files.
        adapter: Its name, for the messages.

    Raises:
        ValueError: It does not say, or the list is damaged.
    """
    path = folder / TRAINING_ITEMS
    if not path.is_file():
        raise ValueError(
            f"adapter {adapter} does not say which questions it was trained on ({TRAINING_ITEMS} "
            "is missing), so nothing proves that it has not seen the held-out ones: train it again"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return TrainedOn(frozenset(map(str, content["ids"])), frozenset(map(str, content["texts"])))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"adapter {adapter}: {path} is damaged ({error}); train it again"
        ) from error


def check_no_leakage(
    training: TrainedOn, heldout: Mapping[str, Sequence[Item]], *, where: str
) -> str:
    """Check that no held-out question was trained on, by id or by text.

    Args:
        training: What was trained on.
        heldout: Held-out items by language.
        where: What is trained or asked, for the message.

    Returns:
        What was checked, in words, with both numbers.

    Raises:
        ValueError: A held-out question was trained on; names the number and the first ones.
    """
    by_id, by_text = [], []
    ids = set()
    for items in heldout.values():
        for item in items:
            ids.add(item.item_id)
            if _hash(item.item_id) in training.ids:
                by_id.append(item.item_id)
            elif _text_hash(item) in training.texts:
                by_text.append(f"{item.item_id} ({item.dialect})")
    if by_id or by_text:
        both = [
            f"{len(found)} by {what}, first {', '.join(list(found)[:3])}"
            for what, found in (
                ("item id", dict.fromkeys(by_id)),
                ("passage and question", dict.fromkeys(by_text)),
            )
            if found
        ]
        shared = {name.partition(" (")[0] for name in (*by_id, *by_text)}
        raise ValueError(
            f"{where}: {len(shared)} of {len(ids)} held-out questions were trained on "
            f"({'; '.join(both)}): their answers would be remembered, not found. Use the split "
            "that the adapter was trained with, or train it again on this one"
        )
    return (
        f"0 of {training.n_questions} training questions among {len(ids)} held-out "
        "(by item id, and by passage and question)"
    )


def without_repeats(data: DataSet, split: Split) -> Split:
    """Leave out of training what the held-out part says, too, under another id.

    Args:
        data: The data set.
        split: Its split; its ids are disjoint.

    Returns:
        The split, with fewer training questions if there are such.

    Raises:
        ValueError: Every training question is repeated in the held-out part.

    Warns:
        UserWarning: Questions are left out; it names the first, and the one that it repeats.
    """
    duplicates = _duplicates(data, split.training_ids, split.heldout_ids)
    if not duplicates:
        return split
    left = tuple(item_id for item_id in split.training_ids if item_id not in duplicates)
    if not left:
        raise ValueError(
            f"{data.source}: each of the {len(duplicates)} training questions is held out, too, "
            "under another id: none is left to train on. Remove the repeated rows."
        )
    first, (code, other) = next(iter(duplicates.items()))
    warnings.warn(
        f"{data.source}: {len(duplicates)} training questions have the passage and question of "
        f"held-out ones under another id, first {first}, which is {other} in {code}. They are left "
        "out of training.",
        UserWarning,
        stacklevel=2,
    )
    return replace(split, training_ids=left)


def _duplicates(
    data: DataSet, training_ids: Collection[str], heldout_ids: Collection[str]
) -> dict[str, tuple[str, str]]:
    """Return training ids that a held-out item repeats: language and id of the held-out one."""
    training, heldout = set(training_ids), set(heldout_ids)
    found: dict[str, tuple[str, str]] = {}
    for code, items in data.items.items():
        seen = {_content(item): item.item_id for item in items if item.item_id in heldout}
        for item in items:
            if item.item_id in training and _content(item) in seen:
                found.setdefault(item.item_id, (code, seen[_content(item)]))
    return found


def _content(item: Item) -> tuple[str, str]:
    """Return a passage and question as they are compared."""
    return _normal(item.flores_passage), _normal(item.question)


def _normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def _text_hash(item: Item) -> str:
    return _hash("\0".join((item.dialect, *_content(item))))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
