"""Compares results with recorded ones: text and whole numbers exactly, the rest with tolerance."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "golden"
DIGITS = 7  # of recorded numbers: what float32 has


@dataclass(frozen=True)
class Tolerance:
    """How far a number may be from the recorded one: the larger of the two.

    Attributes:
        absolute: in the number's unit.
        relative: as a share of the recorded number.
    """

    absolute: float
    relative: float

    def allows(self, recorded: float, found: float) -> bool:
        return abs(recorded - found) <= max(self.absolute, self.relative * abs(recorded))


# Other kernels (SSE4 alone, without vector code of PyTorch's, on more threads) move
# log-probabilities and losses of the tiny models by 2e-5, sums over an answer's tokens (100 nats)
# by 5e-5: both stay ten times below these bounds. They must not be much wider: what is looked for
# (a token too many, another mask, another order) moves them by 1e-2 and more.
USUAL = Tolerance(absolute=2e-4, relative=5e-6)
# By name, where numbers are not log-probabilities or made of them. AdamW's first steps move a
# weight by the sign of its gradient almost, so rounding shows more in weights: 1e-5 in one weight,
# 2e-4 in a tensor's sum. Sums cancel, so their bound is absolute; absolute sums go up to 24.
TOLERANCES = {
    "first": Tolerance(absolute=1e-4, relative=1e-3),
    "sum": Tolerance(absolute=4e-3, relative=1e-3),
    "abs_sum": Tolerance(absolute=1e-4, relative=2e-4),
    "grad_norm": Tolerance(absolute=1e-4, relative=1e-3),
    "learning_rate": Tolerance(absolute=0.0, relative=1e-6),
}


def read_golden(name: str) -> Any:
    return json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))


def write_golden(name: str, results: Any) -> Path:
    """Writes results, one list of numbers a line, so that a difference shows where it is."""
    GOLDEN.mkdir(parents=True, exist_ok=True)
    path = GOLDEN / f"{name}.json"
    path.write_text(_text(_rounded(results), "") + "\n", encoding="utf-8")
    return path


def differences(recorded: Any, found: Any, tolerance: Tolerance = USUAL) -> list[str]:
    """Where results are not as recorded, each with both values; empty: nowhere.

    Args:
        recorded: what `read_golden` gives, or a part of it.
        found: the same, computed now.
        tolerance: of numbers that `TOLERANCES` does not name.
    """
    return list(_differences(recorded, found, tolerance, ""))


def _differences(recorded: Any, found: Any, tolerance: Tolerance, place: str) -> Iterator[str]:
    if isinstance(recorded, dict) and isinstance(found, dict):
        for key in recorded.keys() - found.keys():
            yield f"{place}/{key}: recorded, but not found"
        for key in found.keys() - recorded.keys():
            yield f"{place}/{key}: found, but not recorded"
        for key in recorded:
            if key in found:
                own = TOLERANCES.get(key, tolerance)
                yield from _differences(recorded[key], found[key], own, f"{place}/{key}")
    elif isinstance(recorded, list) and isinstance(found, list):
        if len(recorded) != len(found):
            yield f"{place}: {len(recorded)} recorded, {len(found)} found"
            return
        for index, pair in enumerate(zip(recorded, found, strict=True)):
            yield from _differences(*pair, tolerance, f"{place}/{index}")
    elif isinstance(recorded, float) and isinstance(found, float):
        if not tolerance.allows(recorded, found):
            yield f"{place}: {recorded} recorded, {found} found"
    elif type(recorded) is not type(found) or recorded != found:
        yield f"{place}: {recorded!r} recorded, {found!r} found"


def close_calls(results: Any, margin: float = 2 * USUAL.absolute) -> list[str]:
    """Choices in records and tables that rounding could turn; empty: none.

    Predictions, accuracies and calibration are compared as they are, since no recorded one may
    hang by less than both numbers of a choice can move.

    Args:
        results: of the scoring of one cell.
        margin: what decides by less is close.
    """
    found = []
    for table in ("records", "orders"):
        if table in results:
            logprobs = np.array([results[table][f"logprob_{n}"] for n in (1, 2, 3, 4)]).T
            found += _close(table, logprobs, margin)
    records = results["records"]
    logprobs = np.array([records[f"logprob_{n}"] for n in (1, 2, 3, 4)]).T
    shares = np.exp(logprobs - logprobs.max(axis=1, keepdims=True))
    tenths = 10 / shares.sum(axis=1)  # of the surest option's share: calibration's ten bins
    edges = np.abs(tenths - tenths.round()) < 10 * margin
    found += [f"records {row}: confidence {tenths[row] / 10}" for row in np.flatnonzero(edges)]
    if "cloze" in results:
        columns = {name: np.array(values) for name, values in results["cloze"].items()}
        total, characters = columns["logprob"], columns["n_characters"]
        ways = {
            "raw": total,
            "per_token": total / columns["n_tokens"],
            "per_char": total / (characters + 1),
            "norm": total / characters,
            "uncond": total - columns["logprob_unconditional"],
            "mutual_info": total - columns["logprob_prior"],
        }
        for way, values in ways.items():
            found += _close(f"cloze {way}", values.reshape(-1, 4), margin)
    return found


def _close(name: str, values: npt.NDArray[np.float64], margin: float) -> list[str]:
    """Rows whose two largest values differ by less than the margin."""
    ordered = np.sort(values, axis=1)
    gaps = ordered[:, -1] - ordered[:, -2]
    return [f"{name} {row}: by {gaps[row]:.1e}" for row in np.flatnonzero(gaps < margin)]


def _rounded(results: Any) -> Any:
    match results:
        case dict():
            return {key: _rounded(value) for key, value in results.items()}
        case list():
            return [_rounded(value) for value in results]
        case float():
            return float(f"{results:.{DIGITS}g}")
        case _:
            return results


def _text(value: Any, indent: str) -> str:
    """JSON with a line for each entry of a dict and of a list of dicts."""
    deeper = indent + " "
    if isinstance(value, dict):
        lines = [f"{deeper}{json.dumps(key)}: {_text(each, deeper)}" for key, each in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        lines = [f"{deeper}{_text(each, deeper)}" for each in value]
        return "[\n" + ",\n".join(lines) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False)
