"""Scores prompts in this project's environment: through the package, and by a bare loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measuring import measured, reset_peak, work_on

Score = Callable[[Sequence[str]], list[list[float]]]
BARE_BATCH = 16


def bare_loop(folder: str, *, tokens: int = 0) -> Score:
    """What a careful person would write: sorted, left-padded batches, logits of one position.

    Args:
        folder: of the model.
        tokens: padded tokens of a batch at most, and the head reads the last positions from rows
            that lie side by side in memory; 0: 16 prompts a batch, and the head reads a slice.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    labels = [tokenizer(f"({n}", add_special_tokens=False)["input_ids"][-1] for n in (1, 2, 3, 4)]

    def score(prompts: Sequence[str]) -> list[list[float]]:
        ids = tokenizer(list(prompts))["input_ids"]
        order = sorted(range(len(ids)), key=lambda row: -len(ids[row]))
        found: list[list[float]] = [[] for _ in ids]
        with torch.inference_mode():
            for rows in bare_batches(order, [len(each) for each in ids], tokens):
                batch = tokenizer.pad(
                    {"input_ids": [ids[row] for row in rows]}, return_tensors="pt"
                )
                if tokens:
                    hidden = model.model(**batch, use_cache=False).last_hidden_state[:, -1]
                    logits = model.lm_head(hidden.contiguous())
                else:
                    logits = model(**batch, logits_to_keep=1, use_cache=False).logits[:, -1]
                for row, values in zip(rows, logits.log_softmax(-1)[:, labels], strict=True):
                    found[row] = values.tolist()
        return found

    return score


def bare_batches(order: Sequence[int], lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Rows of each batch, in this order, the longest first; `tokens` 0: so many rows a batch."""
    batches: list[list[int]] = []
    for row in order:
        most = max(1, tokens // lengths[batches[-1][0]]) if tokens and batches else BARE_BATCH
        if batches and len(batches[-1]) < most:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def package(folder: str, **settings: Any) -> Score:
    """This package's engine; a new one each time, since an engine may know what it has answered."""
    from xling.models import locate_model
    from xling.scoring import InProcessEngine

    opened = locate_model(folder, quantise="none").open()

    def score(prompts: Sequence[str]) -> list[list[float]]:
        engine = InProcessEngine(
            opened.model, opened.tokenizer, add_special_tokens=True, **settings
        )
        found: list[list[float]] = engine.score(list(prompts)).logprobs.tolist()
        return found

    return score


def start(settings: dict[str, Any]) -> Callable[[Any], Any]:
    """Loads the model and warms up.

    Args:
        settings: `way` (``package`` or ``bare``), `folder` of the model, `threads`, `engine`:
            arguments of InProcessEngine, `tokens` of the bare loop, and `warm_up`: prompts.
    """
    import torch

    torch.set_num_threads(settings["threads"])
    if settings["way"] == "bare":
        score = bare_loop(settings["folder"], tokens=settings.get("tokens", 0))
    else:
        score = package(settings["folder"], **settings.get("engine", {}))
    score(settings["warm_up"])
    return lambda request: answer(score, request)


def answer(score: Score, request: dict[str, Any]) -> dict[str, Any]:
    """Log-probabilities of `prompts` with seconds and memory, or, if asked to `count`, FLOPs."""
    prompts = request["prompts"]
    if request.get("count"):
        from benchmarks.flops import counted

        return {"flops": counted(lambda: score(prompts))}
    before = reset_peak()
    found, seconds = measured(lambda: score(prompts))
    return {"logprobs": found, "held_bytes": before, **seconds}


def model_folder(name: str = "gemma3-270m") -> Path:
    """Converted weights of an embedded model."""
    from xling.models import locate_model

    return locate_model(name, quantise="none").weights.folder


if __name__ == "__main__":
    work_on(start)
