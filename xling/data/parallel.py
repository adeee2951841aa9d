"""Makes a data set of several languages' items, which must be parallel."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping, Sequence

from xling.data.schema import DataSet, Item, look_of
from xling.messages.values import join_names, shorten_middle

# Items that one warning names.
_MOST_NAMED = 10


def make_data_set(
    items: Mapping[str, Sequence[Item]], *, name: str, source: str, revision: str
) -> DataSet:
    """Check that languages are parallel, bring them into one order and make a data set.

    Args:
        items: Items by language code, in file order. The first language sets the order.
        name: Short name.
        source: Where the items came from.
        revision: What identifies them.

    Raises:
        ValueError: No languages, no items, an item twice, or languages that are not parallel.

    Warns:
        UserWarning: Items whose options are not all different (Belebele has two), or that a reader
            cannot tell apart.
    """
    check_parallel(items, source=source)
    order = [item.item_id for item in next(iter(items.values()))]
    ordered = {}
    for code, rows in items.items():
        by_id = {item.item_id: item for item in rows}
        ordered[code] = tuple(by_id[item_id] for item_id in order)
    _warn_of_equal_options(ordered, source=source)
    return DataSet(name=name, source=source, revision=revision, items=ordered)


def check_parallel(items: Mapping[str, Sequence[Item]], *, source: str) -> None:
    """Check that every language has the same items with the same gold answers and parts.

    Args:
        items: Items by language code, in any order.
        source: Where they came from, for the messages.

    Raises:
        ValueError: No languages, no items, an item twice, or two languages that differ; the
            message names the languages and the first ids.
    """
    if not items:
        raise ValueError(f"{source}: no languages were asked for. Name at least one.")
    first, *others = items
    reference = _facts(items[first], first, source)
    if not reference:
        raise ValueError(f"{source}: {first} has no items.")
    for code in others:
        facts = _facts(items[code], code, source)
        for has, lacks, left, right in (
            (first, code, reference, facts),
            (code, first, facts, reference),
        ):
            extra = [item_id for item_id in left if item_id not in right]
            if extra:
                # A file that was cut off between two rows lacks the last ones.
                cut = extra == list(left)[-len(extra) :] and not any(r not in left for r in right)
                raise ValueError(
                    f"{source}: {has} and {lacks} are not parallel: {len(extra)} items of {has} "
                    f"are not in {lacks}, first {', '.join(map(shorten_middle, extra[:3]))}. Each "
                    "language needs the same links and question numbers."
                    + (f" They are the last ones: is {lacks} cut off?" if cut else "")
                )
        unlike = [item_id for item_id in reference if reference[item_id] != facts[item_id]]
        if unlike:
            item_id = unlike[0]
            raise ValueError(
                f"{source}: {first} and {code} are not parallel: {len(unlike)} items differ in "
                f"the gold answer or the split, first {', '.join(map(shorten_middle, unlike[:3]))} "
                f"({shorten_middle(item_id)} has {_say(reference[item_id])} in {first}, "
                f"{_say(facts[item_id])} in {code})."
            )


def _facts(rows: Sequence[Item], code: str, source: str) -> dict[str, tuple[int, str]]:
    """Return gold and part by item id; raise on an item that appears twice."""
    facts: dict[str, tuple[int, str]] = {}
    for item in rows:
        if item.item_id in facts:
            raise ValueError(
                f"{source}: item {shorten_middle(item.item_id)} appears twice in {code}. Link and "
                "question_number together must name one item; remove or renumber one of the two."
            )
        facts[item.item_id] = (item.correct_answer_num, item.part)
    return facts


def _say(facts: tuple[int, str]) -> str:
    gold, part = facts
    return f"gold {gold}" + (f" in {part}" if part else "")


def _warn_of_equal_options(items: Mapping[str, Sequence[Item]], *, source: str) -> None:
    """Warn once of all items with equal options, with their languages."""
    found: dict[str, list[str]] = {}
    for code, rows in items.items():
        for item in rows:
            if len(set(map(look_of, item.answers))) < 4:
                found.setdefault(item.item_id, []).append(code)
    if found:
        first = [
            f"{shorten_middle(item_id)} ({join_names(codes, 3)})"
            for item_id, codes in itertools.islice(found.items(), _MOST_NAMED)
        ]
        more = f"; … ({len(found) - len(first)} more)" if len(found) > len(first) else ""
        warnings.warn(
            f"{source}: {len(found)} items have options that are not all different: "
            f"{'; '.join(first)}{more}. They are kept.",
            UserWarning,
            stacklevel=3,
        )
