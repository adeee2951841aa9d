"""The row of an estimate, and the file estimates.json."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from scipy import special

from xling.files.atomic import atomic_write

OK = "ok"
SCALE_DEPENDENT = "scale_dependent"
ZERO_VARIANCE = "zero variance"
FAMILYWISE = 1 - 0.05 / 3
"""Coverage of the intervals that D, B and I are judged by: 95 % for all three (Bonferroni)."""


@dataclass(frozen=True)
class Estimate:
    """One estimate, or the reason why there is none.

    `estimate`, `se` and the interval are proportions on the scale `points` (0.05 is five points)
    and logits on the scale `logit`. `unit` is the sampling unit, what the interval generalises
    over. `status` is `ok`, says what the numbers hold for (`complete subset: without …`,
    `baselines alike`, `scale_dependent`), or why one is missing; missing numbers are None, never
    NaN.
    """

    estimand: str
    scale: str
    estimator: str
    unit: str
    estimate: float | None = None
    se: float | None = None
    df: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    p: float | None = None
    p_holm: float | None = None
    n_models: int = 0
    n_related: int = 0
    n_control: int = 0
    n_items: int | None = None
    n_passages: int | None = None
    n_seeds: int = 0
    baseline_source: str = "none"
    status: str = OK
    note: str = ""

    def __post_init__(self) -> None:
        """Refuse numbers that are not finite.

        Raises:
            ValueError: If a number is NaN or infinite; leave it None and give a status.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(
                    f"estimate {self.estimand} ({self.scale}, {self.estimator}): "
                    f"{field.name} is {value}; leave it out and give a status"
                )

    def interval_at(self, confidence: float) -> tuple[float, float] | None:
        """Return the t interval with this coverage; None without a standard error and df."""
        if self.estimate is None or self.se is None or self.df is None:
            return None
        half = float(special.stdtrit(self.df, (1 + confidence) / 2)) * self.se
        return self.estimate - half, self.estimate + half


COLUMNS = tuple(field.name for field in fields(Estimate))


def write_estimates(estimates: Sequence[Estimate], path: Path) -> None:
    """Write estimates as a JSON list of rows, whole or not at all.

    Args:
        estimates: The rows, in the order to be shown.
        path: The file to write; its folder is made if need be.

    Raises:
        OSError: If the file cannot be written; an older file stays as it was.
    """
    text = json.dumps(
        [asdict(row) for row in estimates], indent=1, ensure_ascii=False, allow_nan=False
    )
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
