"""One forward pass over rows of token trees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from xling.models.architectures import UNFUSED
from xling.scoring.prefix_trees import Row

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

# Rows of logits that are turned into double precision at a time.
_ROWS = 64
# How far a row of several sequences may be from each sequence alone, in log-probability: rounding
# in single and in half precision.
_TOLERANCE = {4: 1e-3, 2: 0.25}
_KINDS = {"full_attention", "sliding_attention"}
TRUSTED = (
    "deepseek_v3",
    "gemma3_text",
    "gpt_oss",
    "llama",
    "mixtral",
    "olmoe",
    "qwen2",
    "qwen3",
    "qwen3_moe",
)
"""Model types that are tested to compute such rows correctly; others are tried out."""


@dataclass(frozen=True)
class Batch:
    """Rows that are computed together.

    Attributes:
        rows: one or more.
        targets: for each row, for each of its sequences, shape (positions read, m): the token
            ids whose log-probabilities are asked for.
    """

    rows: tuple[Row, ...]
    targets: tuple[tuple[npt.NDArray[np.int64], ...], ...]

    @property
    def tokens(self) -> int:
        """Padded tokens."""
        return len(self.rows) * max(len(row.tokens) for row in self.rows)

    @property
    def sequences(self) -> int:
        """Number of sequences."""
        return sum(len(row.sequences) for row in self.rows)

    @property
    def repeats(self) -> npt.NDArray[np.int64]:
        """How many sequences each token is part of, shape (rows x length,); 0 where padded."""
        length = max(len(row.tokens) for row in self.rows)
        return np.concatenate(
            [np.pad(row.repeats, (0, length - len(row.repeats))) for row in self.rows]
        )


def read_logprobs(
    model: PreTrainedModel | PeftModel, batch: Batch, *, pad_token: int
) -> list[list[npt.NDArray[np.float64]]]:
    """Return natural log-probabilities, over the whole vocabulary, of the targets of a batch.

    Args:
        model: in evaluation mode; `can_share` where a row has several sequences.
        batch: what is computed.
        pad_token: any token; no other attends to it.

    Returns:
        For each row, for each sequence, shape (positions read, m).
    """
    places = [row.read_places for row in batch.rows]
    logits = _logits(model, batch.rows, places, pad_token=pad_token)
    starts = np.cumsum([0, *map(len, places)])
    where, sizes = [], []
    for row, known, start in zip(batch.rows, places, starts[:-1], strict=True):
        for read in row.reads:
            where.append(start + np.searchsorted(known, read))
            sizes.append(len(read))
    wanted = np.concatenate([ids for row in batch.targets for ids in row])
    logprobs = gather_logprobs(logits, np.concatenate(where), wanted)
    parts = iter(np.split(logprobs, np.cumsum(sizes)[:-1]))
    return [[next(parts) for _ in row.reads] for row in batch.rows]


def _logits(
    model: PreTrainedModel | PeftModel,
    rows: Sequence[Row],
    places: Sequence[npt.NDArray[np.int64]],
    *,
    pad_token: int,
) -> torch.Tensor:
    """Return logits at some places of each row, shape (places of all rows, vocabulary)."""
    import torch

    length = max(len(row.tokens) for row in rows)
    # Padding goes to the right: a gap before tokens would count as distance in a sliding window,
    # and no token sees what comes after it. Positions go on there, since transformers takes a
    # position that falls for a new sequence.
    ids = np.full((len(rows), length), pad_token)
    positions = np.tile(np.arange(length), (len(rows), 1))
    read = np.zeros(ids.shape, bool)
    for index, (row, known) in enumerate(zip(rows, places, strict=True)):
        ids[index, : len(row.tokens)] = row.tokens
        positions[index, : len(row.tokens)] = row.positions
        read[index, known] = True
    device = model.device
    with _head_reads(model, torch.from_numpy(read)):
        output = model(
            input_ids=torch.from_numpy(ids).to(device),
            attention_mask=_mask(model, rows, length),
            position_ids=torch.from_numpy(positions).to(device),
            use_cache=False,
        )
    logits: torch.Tensor = output.logits.reshape(-1, output.logits.shape[-1])
    return logits


@contextmanager
def _head_reads(model: PreTrainedModel | PeftModel, read: torch.Tensor) -> Iterator[None]:
    """Give the output matrix, in the block, the hidden states of some positions alone.

    Not by `logits_to_keep`: of a model that is spread over GPUs that lies on the first, and the
    output matrix on the last.

    Args:
        model: the model.
        read: shape (rows, length), bool.
    """
    hook = model.get_output_embeddings().register_forward_pre_hook(
        lambda _, inputs: (inputs[0][read.to(inputs[0].device)], *inputs[1:])
    )
    try:
        yield
    finally:
        hook.remove()


def _mask(model: PreTrainedModel | PeftModel, rows: Sequence[Row], length: int) -> Any:
    """Return which tokens see which, where rows are trees; None: each sees all before it.

    Without a mask GPUs have faster kernels: 8 % of a scoring of a 4B model on an H200.
    """
    import torch

    if all(len(row.sequences) == 1 for row in rows):
        return None
    # Padding sees itself alone, since attention to nothing at all is not a number.
    ends = np.tile(np.arange(1, length + 1), (len(rows), 1))
    positions = np.zeros_like(ends)
    for index, row in enumerate(rows):
        ends[index, : len(row.tokens)] = row.ends
        positions[index, : len(row.tokens)] = row.positions
    return tree_masks(
        model,
        torch.from_numpy(ends).to(model.device),
        torch.from_numpy(positions).to(model.device),
    )


def tree_masks(
    model: PreTrainedModel | PeftModel, ends: torch.Tensor, positions: torch.Tensor
) -> Any:
    """Return attention masks of trees, as transformers' models take them, by kind of layer.

    Args:
        model: what they are for.
        ends: shape (rows, length); as `Row.ends`.
        positions: shape (rows, length); as `Row.positions`. Distances in a sliding window are
            differences of these, not of places in the row.

    Returns:
        Shape (rows, 1, length, length), or one such mask for each kind of layer.
    """
    import torch

    place = torch.arange(ends.shape[1], device=ends.device)
    seen = (place[None, None, :] <= place[None, :, None]) & (
        ends[:, None, :] > place[None, :, None]
    )
    config = model.config.get_text_config()

    def of_kind(kind: str) -> torch.Tensor:
        mask = seen
        if kind == "sliding_attention":
            distance = positions[:, :, None] - positions[:, None, :]
            mask = mask & (distance < config.sliding_window)
        mask = mask[:, None]
        if config._attn_implementation == "sdpa":
            return mask
        hidden = torch.finfo(model.dtype).min
        return torch.zeros_like(mask, dtype=model.dtype).masked_fill(~mask, hidden)

    kinds = _attention_kinds(model)
    if hasattr(config, "layer_types"):
        return {kind: of_kind(kind) for kind in sorted(kinds)}
    return of_kind(*kinds)


def _attention_kinds(model: PreTrainedModel | PeftModel) -> set[str]:
    """Return the kinds of attention that a model's layers have, by transformers' rules."""
    config = model.config.get_text_config()
    if hasattr(config, "layer_types"):
        return set(config.layer_types)
    if getattr(config, "sliding_window", None) is not None:
        return {"sliding_attention"}
    return {
        "chunked_attention" if getattr(config, "attention_chunk_size", None) else "full_attention"
    }


def can_share(model: PreTrainedModel | PeftModel) -> bool:
    """Return whether a model's layers are all attention whose mask can be given.

    A recurrent state or a convolution cannot skip tokens; fused kernels take no mask.
    """
    config = model.config.get_text_config()
    implementation = getattr(config, "_attn_implementation", None)
    return implementation in ("sdpa", "eager") and _attention_kinds(model) <= _KINDS


def is_trusted(model: PreTrainedModel | PeftModel) -> bool:
    """Return whether a model's type is one of `TRUSTED`, its experts set apart or not."""
    return model.config.get_text_config().model_type.removesuffix(UNFUSED) in TRUSTED


def tolerance(model: PreTrainedModel | PeftModel) -> float:
    """Return how far log-probabilities of a row may be from those of its sequences alone."""
    import torch

    return _TOLERANCE[2 if torch.finfo(model.dtype).bits < 32 else 4]


def gather_logprobs(
    logits: torch.Tensor, where: npt.NDArray[np.int64], targets: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Return natural log-probabilities of some tokens, over the whole vocabulary.

    Args:
        logits: shape (k, vocabulary).
        where: shape (n,); which logits each is read from.
        targets: shape (n, m); token ids.

    Returns:
        Shape (n, m).
    """
    import torch

    totals = torch.cat(
        [logits[at : at + _ROWS].double().logsumexp(dim=-1) for at in range(0, len(logits), _ROWS)]
    )
    rows = torch.from_numpy(where).to(logits.device)
    ids = torch.from_numpy(targets).to(logits.device)
    chosen = logits[rows[:, None], ids].double() - totals[rows][:, None]
    result: npt.NDArray[np.float64] = chosen.cpu().numpy()
    return result
