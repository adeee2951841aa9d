"""The targets on a GPU, which say where there is none."""

from __future__ import annotations

import math

from benchmarks.side_by_side import Section, line

GOAL = 0.45


def run(quick: bool, threads: int) -> Section:
    """Lines of scoring and training on a GPU; nothing is measured, whatever the settings."""
    import torch

    if torch.cuda.is_available():
        note = f"not measured here yet, on {torch.cuda.get_device_name()}"
    else:
        note = "no GPU here"
    lines = [
        line(
            f"{what} of a 4B-shaped model on a GPU: share of the card's matrix rate",
            math.nan,
            GOAL,
            note=note,
        )
        for what in ("scoring", "training")
    ]
    return Section("On a GPU", f"{note[0].upper() + note[1:]}.", lines)
