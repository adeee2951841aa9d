"""The routing table: one row per language, layer and expert; its file and its metrics."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from xling.files.atomic import atomic_write
from xling.files.parquet import read_parquet
from xling.messages.values import format_name, join_names

ROUTING_SCHEMA = pa.schema(
    [
        pa.field("language", pa.string(), nullable=False),
        pa.field("layer", pa.int32(), nullable=False),
        pa.field("expert", pa.int32(), nullable=False),
        pa.field("count", pa.int64(), nullable=False),
        pa.field("share", pa.float64(), nullable=False),
    ]
)
_KEY = ["language", "layer", "expert"]
_SHARE_SLACK = 1e-9

Floats = npt.NDArray[np.float64]


def routing_frame(
    counts_by_language: Mapping[str, npt.NDArray[np.int64]], *, layers: Sequence[int] = ()
) -> pd.DataFrame:
    """Make the routing table of one model, from the counts of each language.

    Args:
        counts_by_language: language code to assignments, shape (layers, experts).
        layers: index in the model of each row of the counts, as `RoutingCounter.layers`; empty:
            0, 1, 2, …

    Returns:
        Columns language, layer (int32), expert (int32), count (int64), share (float64; sums to 1
        in each language and layer), sorted by the first three.

    Raises:
        ValueError: no language, shapes that differ, or a language without tokens in a layer.
    """
    if not counts_by_language:
        raise ValueError("routing: there are no counts; score at least one language first")
    shape = np.shape(next(iter(counts_by_language.values())))
    parts = []
    for language, counts in sorted(counts_by_language.items()):
        places = tuple(layers) or tuple(range(len(counts)))
        if counts.ndim != 2 or counts.shape != shape or len(places) != len(counts):
            raise ValueError(
                f"routing: counts of {language} have shape {counts.shape}, those before {shape}, "
                f"and {len(places)} layers are named; give (layers, experts) of one model"
            )
        total = counts.sum(axis=1, keepdims=True)
        if not (total > 0).all():
            raise ValueError(
                f"routing: {language} has no token in layer {places[int(np.argmin(total))]}; "
                "score its items while routing is recorded"
            )
        layer = np.repeat(np.asarray(places, np.int32), counts.shape[1])
        expert = np.tile(np.arange(counts.shape[1], dtype=np.int32), counts.shape[0])
        parts.append(
            pd.DataFrame(
                {
                    "language": language,
                    "layer": layer,
                    "expert": expert,
                    "count": counts.reshape(-1).astype(np.int64),
                    "share": (counts / total).reshape(-1),
                }
            )
        )
    return check_routing(pd.concat(parts, ignore_index=True))


def sum_routing(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Add up routing tables: of several languages, or of several folds' items.

    Args:
        frames: routing tables of models with the same layers and experts.

    Raises:
        ValueError: no table is given, or their layers or experts differ.
    """
    if not frames:
        raise ValueError("routing: there are no tables to add up; score at least one language")
    counts = pd.concat(frames).groupby(_KEY, as_index=False)["count"].sum()
    total = counts.groupby(["language", "layer"])["count"].transform("sum")
    return check_routing(counts.assign(share=counts["count"] / total))


def check_routing(frame: pd.DataFrame) -> pd.DataFrame:
    """Check a routing table and return it sorted, in the schema's columns and types.

    Args:
        frame: columns of ROUTING_SCHEMA in any order.

    Raises:
        ValueError: a column is missing, unknown or of a wrong type, the table is empty, a row
            appears twice, a language lacks a layer or an expert, a count is negative, or a share
            is not count / (sum of the language and layer). The message names the place.
    """
    if sorted(map(str, frame.columns)) != sorted(ROUTING_SCHEMA.names):
        raise ValueError(
            f"routing: columns are {join_names(frame.columns)}; needed are exactly "
            f"{', '.join(ROUTING_SCHEMA.names)}"
        )
    if frame.empty:
        raise ValueError("routing: the table has no rows; write at least one language")
    try:
        ordered = frame[ROUTING_SCHEMA.names]
        table = pa.Table.from_pandas(ordered, schema=ROUTING_SCHEMA, preserve_index=False)
        table.validate(full=True)
    except (pa.ArrowException, ValueError, OverflowError) as error:
        raise ValueError(
            f"routing: a column has a wrong type or an empty value: {format_name(str(error), 200)}"
        ) from None
    checked: pd.DataFrame = table.to_pandas().sort_values(_KEY, ignore_index=True)
    _refuse(checked, checked.duplicated(_KEY), "appears twice; keep one")
    _check_grid(checked)
    _refuse(checked, checked["count"] < 0, "has a count under 0")
    total = checked.groupby(["language", "layer"])["count"].transform("sum")
    _refuse(checked, total == 0, "is of a layer without tokens")
    wrong = ~((checked["share"] - checked["count"] / total).abs() <= _SHARE_SLACK)
    _refuse(checked, wrong, "has a share that is not count / (sum of the language and layer)")
    return checked


def write_routing(frame: pd.DataFrame, path: Path) -> None:
    """Check a routing table and write it as one parquet file, whole or not at all.

    Args:
        frame: as check_routing takes it.
        path: the file; its folder is made if need be, an older file is replaced.

    Raises:
        ValueError: as check_routing.
        OSError: the folder cannot be written; an older file stays as it was.
    """
    table = pa.Table.from_pandas(check_routing(frame), schema=ROUTING_SCHEMA, preserve_index=False)
    with atomic_write(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)


def read_routing(path: Path) -> pd.DataFrame:
    """Read and check a file that write_routing made.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is corrupt, or breaks what check_routing asks; the message names it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such routing file")
    try:
        frame = read_parquet(path)
    except ValueError as error:
        raise ValueError(
            f"{path}: {error}; fetch it again, or repeat the run that wrote it"
        ) from error
    try:
        return check_routing(frame)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def routing_metrics(frame: pd.DataFrame, sources: Collection[str]) -> dict[str, float]:
    """Return the entropy of each language's routing, and its divergence from the sources.

    With p the shares of a language's assignments over a layer's experts, the entropy is
    -sum p log2 p. The divergence is Jensen–Shannon's (Lin 1991, "Divergence measures based on
    the Shannon entropy", IEEE Trans. Inf. Theory 37:145–151) with equal weights,
    H((p + q)/2) - (H(p) + H(q))/2, where q is the unweighted mean of the source languages' shares.
    A source language is part of its own q, so it diverges less for that reason, and not at all
    where it is the only source.

    Args:
        frame: as check_routing takes it.
        sources: codes of the source languages, at least one, all in `frame`.

    Returns:
        `routing_entropy/<code>` (bits, 0 to log2 of the experts) and `routing_divergence/<code>`
        (bits, 0 to 1), each the mean over layers, for every language.

    Raises:
        ValueError: as check_routing; no source is given, or one is not in the table.
    """
    checked = check_routing(frame)
    codes = sorted(map(str, checked["language"].unique()))
    lacking = sorted(set(sources) - set(codes))
    if lacking or not sources:
        raise ValueError(
            f"routing: source language {lacking[0] if lacking else '(none given)'} is not in the "
            f"table, which has {', '.join(codes)}; score it with the others"
        )
    layers = checked["layer"].nunique()
    shares = checked["share"].to_numpy(np.float64).reshape(len(codes), layers, -1)
    source = shares[[codes.index(code) for code in sorted(set(sources))]].mean(axis=0)
    entropy = _entropy_bits(shares)
    middle = _entropy_bits((shares + source) / 2)
    divergence = np.clip(middle - (entropy + _entropy_bits(source)) / 2, 0.0, 1.0)
    metrics: dict[str, float] = {}
    for row, code in enumerate(codes):
        metrics[f"routing_entropy/{code}"] = float(entropy[row].mean())
        metrics[f"routing_divergence/{code}"] = float(divergence[row].mean())
    return metrics


def _entropy_bits(shares: Floats) -> Floats:
    """Return the Shannon entropy over the last axis, in bits."""
    logs = np.log2(shares, out=np.zeros_like(shares), where=shares > 0)
    return np.asarray(np.maximum(-(shares * logs).sum(axis=-1), 0.0))


def _check_grid(frame: pd.DataFrame) -> None:
    """Refuse a table in which a language lacks a layer or an expert."""
    sizes = [frame[name].nunique() for name in _KEY]
    if len(frame) == np.prod(sizes):
        return
    rows = frame.groupby("language").size().reindex(frame["language"].unique())
    fewest = rows.idxmin()
    raise ValueError(
        f"routing: {sizes[0]} languages, {sizes[1]} layers and {sizes[2]} experts make "
        f"{np.prod(sizes)} rows, not {len(frame)}; fewest has {format_name(str(fewest))} "
        f"({rows.min()}); write all "
        "languages of one model, and no other"
    )


def _refuse(frame: pd.DataFrame, bad: pd.Series, words: str) -> None:
    if bad.any():
        row = frame.iloc[int(np.argmax(bad))]
        raise ValueError(
            f"routing: {format_name(row['language'])}, layer {row['layer']}, "
            f"expert {row['expert']} {words}"
        )
