"""Expert routing before and after tuning: entropy, and divergence from the source languages."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.arrays import Floats
from analysis.figures.style import FAMILY_ORDER
from xling.records import RUN_COLUMNS, read_parquet

ROUTING_FILE = "routing.parquet"
"""Artifact of an evaluate run of a mixture of experts."""
TABLE_COLUMNS = (*RUN_COLUMNS, "language", "layer", "entropy", "divergence", "assignments")
MEASURES = ("entropy", "divergence")

_COLUMNS = ("language", "layer", "expert", "count", "share")
_SHARE_SLACK = 1e-6

RunKey = tuple[str, str, int, str, str]


def read_routing_file(path: Path) -> pd.DataFrame:
    """Read one run's routing table.

    Args:
        path: A parquet file with the columns language, layer, expert, count and share.

    Returns:
        As check_routing_frame.

    Raises:
        ValueError: If the file is missing or not parquet, or as check_routing_frame; the message
            names the file.
    """
    try:
        return check_routing_frame(read_parquet(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}; repeat the run that wrote it") from error


def check_routing_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """Check a routing table as far as the analysis relies on it.

    Args:
        frame: One row per language, layer and expert; `count` in assignments of a token to an
            expert, `share` in proportion of the language's and layer's assignments.

    Returns:
        The columns that are used, sorted by language, layer and expert.

    Raises:
        ValueError: If a column or every row is missing, a share is not finite or under 0, shares
            of a language and layer do not sum to 1, or languages differ in layers or experts.
    """
    missing = [name for name in _COLUMNS if name not in frame.columns]
    if missing:
        raise ValueError(f"routing: column {missing[0]!r} is missing of {', '.join(_COLUMNS)}")
    if frame.empty:
        raise ValueError("routing: the table has no rows")
    if frame.columns.has_duplicates:
        raise ValueError("routing: a column appears twice")
    if not all(isinstance(code, str) and code for code in frame["language"]):
        raise ValueError("routing: a language is not a text")
    for name in _COLUMNS[1:]:
        kind = frame[name].dtype
        if not pd.api.types.is_numeric_dtype(kind) or frame[name].isna().any():
            raise ValueError(f"routing: column {name!r} holds something that is not a number")
    rows = frame[list(_COLUMNS)].sort_values(list(_COLUMNS[:3]), ignore_index=True)
    share = rows["share"].to_numpy(np.float64)
    if not (np.isfinite(share) & (share >= 0)).all():
        raise ValueError("routing: a share is not finite or is under 0")
    shape = [rows[name].nunique() for name in _COLUMNS[:3]]
    if rows.duplicated(list(_COLUMNS[:3])).any() or len(rows) != np.prod(shape):
        raise ValueError(
            f"routing: {len(rows)} rows do not hold each of {shape[0]} languages, {shape[1]} "
            f"layers and {shape[2]} experts once"
        )
    off = np.abs(share.reshape(-1, shape[2]).sum(axis=1) - 1) > _SHARE_SLACK
    if off.any():
        row = rows.iloc[int(np.argmax(off)) * shape[2]]
        raise ValueError(
            f"routing: the shares of {row['language']}, layer {row['layer']} do not sum to 1"
        )
    return rows


def routing_table(frames: Mapping[RunKey, pd.DataFrame], sources: Collection[str]) -> pd.DataFrame:
    """Measure routing's entropy and divergence from the source, by run, language and layer.

    With p a language's shares of a layer's assignments and q the unweighted mean of the source
    languages' shares in the same run, entropy is H(p) = -sum p log2 p, and divergence that of
    Jensen and Shannon with equal weights, H((p + q)/2) - (H(p) + H(q))/2 (Lin 1991, "Divergence
    measures based on the Shannon entropy", IEEE Trans. Inf. Theory 37:145–151). A source language
    is part of its own q.

    Args:
        frames: Values of RUN_COLUMNS to the run's routing table.
        sources: Codes of the source languages, in every table.

    Returns:
        Columns of TABLE_COLUMNS: entropy (bits, 0 to log2 of the experts), divergence (bits, 0
        to 1) and assignments (tokens times the experts that each is sent to), sorted by the first
        seven. No rows if there are no frames.

    Raises:
        ValueError: If a table is wrong or lacks a source; the message names the run.
    """
    parts = []
    for key, frame in frames.items():
        try:
            measured = _measured(check_routing_frame(frame), sources)
        except ValueError as error:
            raise ValueError(f"{'/'.join(map(str, key))}: {error}") from error
        run = pd.DataFrame([key] * len(measured), columns=list(RUN_COLUMNS))
        parts.append(pd.concat([run, measured], axis=1))
    if not parts:
        return pd.DataFrame(columns=list(TABLE_COLUMNS))
    table = pd.concat(parts)[list(TABLE_COLUMNS)]
    return table.sort_values(list(TABLE_COLUMNS[:7]), ignore_index=True)


def routing_changes(
    table: pd.DataFrame, family: Mapping[str, str], condition: tuple[str, str, str]
) -> pd.DataFrame:
    """Compare routing before and after tuning, averaged over seeds.

    Args:
        table: As routing_table gives it.
        family: Language code to `related`, `control` or `source`; other languages are left out.
        condition: Arm, reasoning and scoring; the base is taken under the same two.

    Returns:
        Columns model, language, family, layer, then entropy_before, entropy_after,
        entropy_change, divergence_before, divergence_after and divergence_change (bits; change
        is after less before); only what both runs have, sorted by model, family, language, layer.
    """
    arm, reasoning, scoring = condition
    same = table[(table["reasoning"] == reasoning) & (table["scoring"] == scoring)]
    place = ["model", "language", "layer"]
    before, after = (
        same[same["arm"] == name].groupby(place)[list(MEASURES)].mean() for name in ("base", arm)
    )
    both = before.add_suffix("_before").join(after.add_suffix("_after"), how="inner").reset_index()
    for name in MEASURES:
        both[f"{name}_change"] = both[f"{name}_after"] - both[f"{name}_before"]
    both["family"] = both["language"].map(dict(family))
    both = both[both["family"].isin(FAMILY_ORDER)]
    rank = both["family"].map(FAMILY_ORDER.index)
    ordered = both.assign(rank=rank).sort_values(
        ["model", "rank", "language", "layer"], ignore_index=True
    )
    return ordered[[*place[:2], "family", "layer", *_change_columns()]]


def routing_by_family(changes: pd.DataFrame) -> pd.DataFrame:
    """Average over each family, over layers and then over its languages.

    Columns model, family, languages (their number) and the six measures (bits), sorted by model and
    family (source, related, control).
    """
    by_language = changes.groupby(["model", "family", "language"])[_change_columns()].mean()
    groups = by_language.groupby(["model", "family"])
    means = groups.mean()
    means.insert(0, "languages", groups.size())
    means = means.reset_index()
    rank = means["family"].map(FAMILY_ORDER.index)
    ordered = means.assign(rank=rank).sort_values(["model", "rank"], ignore_index=True)
    return ordered.drop(columns="rank")


def _change_columns() -> list[str]:
    return [f"{name}_{when}" for name in MEASURES for when in ("before", "after", "change")]


def _measured(rows: pd.DataFrame, sources: Collection[str]) -> pd.DataFrame:
    """Return the entropy and divergence of one checked table."""
    codes: Sequence[str] = [str(code) for code in rows["language"].unique()]
    layers = rows["layer"].unique()
    lacking = sorted(set(sources) - set(codes))
    if lacking or not sources:
        raise ValueError(
            f"routing: source language {lacking[0] if lacking else '(none given)'} is not in the "
            "table; score the source languages in this run"
        )
    shape = (len(codes), len(layers), -1)
    shares = rows["share"].to_numpy(np.float64).reshape(shape)
    source = shares[[codes.index(code) for code in sorted(set(sources))]].mean(axis=0)
    entropy = entropy_bits(shares)
    middle = entropy_bits((shares + source) / 2)
    # Rounding alone can leave the range.
    divergence = np.clip(middle - (entropy + entropy_bits(source)) / 2, 0.0, 1.0)
    return pd.DataFrame(
        {
            "language": np.repeat(codes, len(layers)),
            "layer": np.tile(layers, len(codes)),
            "entropy": entropy.reshape(-1),
            "divergence": divergence.reshape(-1),
            "assignments": rows["count"].to_numpy(np.int64).reshape(shape).sum(-1).reshape(-1),
        }
    )


def entropy_bits(shares: Floats) -> Floats:
    """Return Shannon entropy in bits over the last axis, each row a distribution."""
    logs = np.log2(shares, out=np.zeros_like(shares), where=shares > 0)
    return np.asarray(np.maximum(-(shares * logs).sum(axis=-1), 0.0))
