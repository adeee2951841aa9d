"""Which experts a mixture-of-experts model sends a language's tokens to."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import pandas as pd

from analysis.exhibits.exhibit import Evidence, Exhibit
from analysis.figures.routing import routing_plot
from analysis.gains.gain_table import PRIMARY
from analysis.measures.routing import routing_by_family, routing_changes
from analysis.tables.fields import Field, Table, make_table, number_field
from analysis.tables.numbers import signed


def routing_exhibits(evidence: Evidence) -> list[Exhibit]:
    """Show routing before and after fine-tuning, one exhibit for each mixture-of-experts model.

    Returns:
        The exhibits; none without routing of both the base and the fine-tuned model.
    """
    changes = routing_changes(evidence.routing, evidence.family, PRIMARY)
    models = sorted(changes["model"].unique())
    return [
        _exhibit(number, model, changes[changes["model"] == model], evidence.names)
        for number, model in enumerate(models, 1)
    ]


def _exhibit(number: int, model: str, rows: pd.DataFrame, names: Mapping[str, str]) -> Exhibit:
    """Show the routing of one model; the number keeps the names of files and sections apart."""
    return Exhibit(
        f"routing-{number}",
        f"Expert routing of {model}",
        f"Routing {number}",
        (
            "Divergence of a language's routing from that of the source language: 0 where its "
            "tokens go to the same experts, 1 where no expert is shared "
            "(Jensen\N{EN DASH}Shannon, in bits). If tuning draws related languages towards the "
            "source, theirs falls more.",
        ),
        "Languages by layers: before, after, and the change.",
        f"Divergence of expert routing from the source, by language and layer, {model}",
        partial(routing_plot, rows, names=names),
        _table(rows),
    )


def _table(changes: pd.DataFrame) -> Table:
    columns = [
        ("family", False), ("languages", True), ("divergence before", True), ("after", True),
        ("change", True), ("entropy before", True), ("entropy after", True),
    ]  # fmt: skip
    rows = [
        (
            Field(row["family"]), Field(str(row["languages"]), row["languages"]),
            *(number_field(row[f"divergence_{when}"], "{:.3f}") for when in ("before", "after")),
            Field(signed(row["divergence_change"], 3), row["divergence_change"]),
            *(number_field(row[f"entropy_{when}"], "{:.3f}") for when in ("before", "after")),
        )
        for row in routing_by_family(changes).to_dict("records")
    ]  # fmt: skip
    return make_table(columns, rows)
