"""Lets a model write freely: batches, and draws that depend on the item alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from xling.scoring.batch_plan import plan_batches
from xling.scoring.context import check_context, context_of
from xling.scoring.protocol import Generation
from xling.scoring.sampling import KeyedSampler, Sampling, uniform_draws

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def generate(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    keys: Sequence[str],
    sampling: Sampling,
    *,
    add_special_tokens: bool,
    stop: str = "",
    batch_tokens: int = 4096,
) -> Iterator[dict[str, Generation]]:
    """Continue each prompt, batch by batch; all arguments are checked before the first batch.

    An item's draws come from (seed, its key), so that neither batches nor order decide them.
    As in scoring, batches move logits in their last digits, which can turn a near tie.

    Args:
        model: in evaluation mode, with or without an adapter, quantised or not.
        tokenizer: pads on the left.
        prompts: n texts.
        keys: n names, each once.
        sampling: how tokens are drawn, and how many at most.
        add_special_tokens: True for plain prompts, False for prompts from a chat template.
        stop: a text that ends a continuation once something else than blanks was written;
            empty: only the end-of-turn token does.
        batch_tokens: tokens of a batch at most, `sampling.max_tokens` counted in full.

    Returns:
        An iterator over batches, each with its items' continuations by key.

    Raises:
        ValueError: keys repeat, or a prompt leaves too little room in the model's context.
    """
    check_keys(prompts, keys)
    if not prompts:
        return iter(())
    rows: list[list[int]] = tokenizer(list(prompts), add_special_tokens=add_special_tokens)[
        "input_ids"
    ]
    lengths = np.array([len(row) for row in rows], dtype=np.int32)
    # The adapter's layers are in the base model itself, whose `generate` has no wrapper.
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    check_context(lengths, keys, context=context_of(base), max_tokens=sampling.max_tokens)
    writer = _Writer(base, tokenizer, sampling, stop)
    batches = plan_batches(lengths + np.int32(sampling.max_tokens), batch_tokens)
    return (
        writer.write([rows[row] for row in batch], [keys[row] for row in batch])
        for batch in batches
    )


@dataclass(frozen=True)
class _Writer:
    """Writes one batch at a time; the fields are those of `generate`."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    sampling: Sampling
    stop: str

    def write(self, rows: Sequence[list[int]], keys: Sequence[str]) -> dict[str, Generation]:
        import torch
        from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

        inputs = self.tokenizer.pad({"input_ids": list(rows)}, return_tensors="pt")
        inputs = inputs.to(self.model.device)
        width = inputs["input_ids"].shape[1]
        ends = end_token_ids(self.model, self.tokenizer)
        settings = GenerationConfig(
            max_new_tokens=self.sampling.max_tokens,
            do_sample=False,
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=list(ends) or None,
        )
        stops = _StopText(self.tokenizer, self.stop, width, len(rows)) if self.stop else None
        with torch.inference_mode(), _no_preset(self.model):
            output = self.model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                generation_config=settings,
                logits_processor=LogitsProcessorList(
                    [self._sampler(keys, width)] if self.sampling.temperature else []
                ),
                stopping_criteria=StoppingCriteriaList([stops] if stops else []),
            )
        written = output[:, width:].tolist()
        stopped = stops.lengths if stops else [0] * len(rows)
        return {
            key: self._read(prompt, ids, ends, at)
            for key, prompt, ids, at in zip(keys, rows, written, stopped, strict=True)
        }

    def _sampler(self, keys: Sequence[str], width: int) -> KeyedSampler:
        import torch

        seed, length = self.sampling.seed, self.sampling.max_tokens
        draws = np.stack([uniform_draws(seed, key, length) for key in keys])
        return KeyedSampler(torch.from_numpy(draws).to(self.model.device), width, self.sampling)

    def _read(
        self, prompt: list[int], ids: list[int], ends: frozenset[int], stopped: int
    ) -> Generation:
        ended = next((at for at, token in enumerate(ids) if token in ends), None)
        length = min(at for at in (stopped or None, ended, len(ids)) if at is not None)
        truncated = not stopped and ended is None
        visible = [token for token in ids[:length] if token != self.tokenizer.pad_token_id]
        text = _decode_after(self.tokenizer, prompt, visible)
        if self.stop:
            text = cut_at(text, self.stop)
        if truncated:
            text = text.rstrip("\N{REPLACEMENT CHARACTER}")  # a letter cut between its bytes
        return Generation(text, length, truncated)


class _StopText:
    """A stopping criterion that notes where each row had its stop text (0: nowhere yet)."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, stop: str, width: int, rows: int
    ) -> None:
        self.lengths = [0] * rows
        self._tokenizer = tokenizer
        self._stop = stop
        self._width = width
        self._tail = 4 * len(stop)  # a letter is four bytes at most, and so four tokens

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        import torch

        written = input_ids[:, self._width :].tolist()
        for row, ids in enumerate(written):
            if not self.lengths[row] and self._stop in self._tokenizer.decode(ids[-self._tail :]):
                text = self._tokenizer.decode(ids)
                self.lengths[row] = len(ids) if cut_at(text, self._stop) != text else 0
        return torch.tensor([at > 0 for at in self.lengths], device=input_ids.device)


def cut_at(text: str, stop: str) -> str:
    """Return `text` up to the first `stop` after its leading blanks; all of it if there is none."""
    at = text.find(stop, len(text) - len(text.lstrip()))
    return text if at < 0 else text[:at]


def end_token_ids(model: Any, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the tokens that end a turn: the tokenizer's, and the model's generation settings'."""
    preset = model.generation_config.eos_token_id
    several = preset if isinstance(preset, list) else [preset]
    return frozenset(token for token in [*several, tokenizer.eos_token_id] if token is not None)


@contextmanager
def _no_preset(model: Any) -> Iterator[None]:
    """Hide the model's own generation settings, which would fill all that ours leave open.

    Some models bring a repetition penalty or sampling settings.
    """
    from transformers import GenerationConfig

    preset = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = preset


def _decode_after(tokenizer: PreTrainedTokenizerBase, prompt: list[int], written: list[int]) -> str:
    """Decode `written` after `prompt`; alone, some tokenizers drop its first blank."""
    options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    before: str = tokenizer.decode(prompt, **options)
    whole: str = tokenizer.decode(prompt + written, **options)
    if whole.startswith(before):
        return whole[len(before) :]
    alone: str = tokenizer.decode(written, **options)
    return alone


def check_keys(prompts: Sequence[str], keys: Sequence[str]) -> None:
    """Check that each prompt has its own key.

    Raises:
        ValueError: names the keys that repeat, or how many there are.
    """
    if len(prompts) != len(keys):
        raise ValueError(f"{len(prompts)} prompts need as many keys; there are {len(keys)}")
    if len(set(keys)) < len(keys):
        repeated = sorted({key for key in keys if keys.count(key) > 1})
        raise ValueError(f"each item needs its own key; repeated: {', '.join(repeated)}")
