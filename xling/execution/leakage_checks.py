"""Checks of each training and evaluation that it does not mix the two parts of the data."""

from __future__ import annotations

from collections.abc import Sequence

from xling import tracking
from xling.data.leakage import check_no_leakage, read_training_items, trained_on
from xling.data.training_rows import TrainingRow
from xling.execution.study_data import ItemsByPart, StudyData
from xling.study import Cell


def check_no_training_leakage(
    data: StudyData, rows: Sequence[TrainingRow], *, name: str, fold: int
) -> str:
    """Prove that a training sees nothing that its fold holds out.

    Args:
        data: study and data.
        rows: what is trained on.
        name: of the adapter, for the message.
        fold: the fold; 0 where there is one split.

    Returns:
        The proof in words, for the tag ``xling.disjoint``.

    Raises:
        ValueError: a held-out question would be trained on.
    """
    heldout = {code: data.items(code, "heldout", fold) for code in data.questions.languages}
    training = trained_on(row.item for row in rows)
    return check_no_leakage(training, heldout, where=f"finetune {name}")


def check_no_evaluation_leakage(
    data: StudyData, cell: Cell, parts: ItemsByPart, fetched: Sequence[tracking.FetchedAdapter]
) -> str:
    """Prove that no adapter is asked what it was trained on, in this study or in another.

    Args:
        data: study and data.
        cell: what is asked.
        parts: its items by part and language.
        fetched: the adapter of each fold; none for the base.

    Returns:
        The proof in words, for the tag ``xling.disjoint``.

    Raises:
        ValueError: an adapter was trained on a question that is held out here, or does not say
            what it was trained on; or the base's baseline shares a question with the held-out
            part.
    """
    where = f"evaluate {cell.name}"
    asked = parts.get("training", {})
    baseline = trained_on(item for items in asked.values() for item in items)
    if not fetched:
        proof = check_no_leakage(baseline, parts["heldout"], where=f"{where}, baseline")
        return f"no training; baseline: {proof}"
    proofs = []
    for fold, adapter in enumerate(fetched):
        heldout = {
            code: data.items(code, "heldout", fold) for code in data.study.languages.evaluated
        }
        trained = read_training_items(adapter.folder, adapter=repr(adapter.uri))
        proof = check_no_leakage(trained, heldout, where=f"{where}, adapter {adapter.uri!r}")
        proofs.append(f"fold {fold}: {proof}" if len(fetched) > 1 else proof)
        if asked:  # of a primed base
            check_no_leakage(baseline, parts["heldout"], where=f"{where}, baseline")
            proof = check_no_leakage(trained, asked, where=f"{where}, baseline, {adapter.uri!r}")
            proofs.append(f"baseline: {proof}")
    return "; ".join(proofs)
