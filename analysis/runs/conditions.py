"""The conditions under which compared runs were made, where they decide the last digits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xling.tracking import LoggedRun

# Parameters that fingerprints leave out, or that a study's memory decides; with how notes name
# them. Of a server nothing of the kind is known: its runs have the value `server`, or none.
CONDITIONS = {
    "device": "device",
    "dtype": "precision",
    "threads": "threads",
    "batch_tokens": "batch_tokens",
    "plain_copy": "plain_copy",
}
TOLERANCE = "1e-4"
"""Log-probability by which threads, batches and copies move a label in single precision."""
_SINGLE = "float32"
_COARSE = ("device", "dtype")


def differing_conditions(runs: Sequence[LoggedRun]) -> list[str]:
    """Note each model whose runs were not all made under the same conditions.

    Gains are differences between runs of one model, so only those are compared. A run that does
    not say what it was made with, such as an imported one, is passed over.

    Args:
        runs: Evaluate runs that are analysed together, in any order.

    Returns:
        Sentences for a reader, sorted by model.
    """
    notes = []
    for model in sorted({run.params.get("cfg.model", "") for run in runs}):
        own = [run for run in runs if run.params.get("cfg.model", "") == model]
        values = {name: _values(own, name) for name in CONDITIONS}
        differing = {name: found for name, found in values.items() if len(found) > 1}
        if not differing:
            continue
        listed = "; ".join(f"{CONDITIONS[name]} {', '.join(v)}" for name, v in differing.items())
        notes.append(
            f"runs of {model} that are compared were not all made with the same {listed}: "
            + _consequence(differing, values["dtype"])
        )
    return notes


def _values(runs: Sequence[LoggedRun], name: str) -> list[str]:
    """Return what runs say of a condition; numbers in their order."""
    found = {run.params.get(f"cfg.{name}", "") for run in runs} - {""}
    return sorted(found, key=lambda value: (len(value) if value.isdigit() else 0, value))


def _consequence(differing: dict[str, list[str]], precision: list[str]) -> str:
    if precision == [_SINGLE] and not set(_COARSE) & set(differing):
        return f"differences of up to {TOLERANCE} in log-probability come from that alone"
    return (
        "differences in log-probability come from that alone, up to "
        f"{TOLERANCE} in float32 on one device, more between devices and in lower precision"
    )
