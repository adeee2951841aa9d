"""Scores samples of different size and shape with the package, each timed by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.measuring import measured, reset_peak, work_on


def start(settings: dict[str, Any]) -> Callable[[Any], Any]:
    """Loads the model; `threads` and `warm_up` are settings."""
    import torch

    from xling.models import locate_model
    from xling.scoring import InProcessEngine

    torch.set_num_threads(settings["threads"])
    opened = locate_model("gemma3-270m", quantise="none").open()

    def score(request: dict[str, Any]) -> dict[str, Any]:
        """Seconds and memory of `prompts`, with the engine's arguments `engine`."""
        engine = InProcessEngine(
            opened.model, opened.tokenizer, add_special_tokens=True, **request["engine"]
        )
        held = reset_peak()
        scores, seconds = measured(lambda: engine.score(request["prompts"]))
        return {**seconds, "held_bytes": held, "tokens": int(scores.n_tokens.sum())}

    score({"prompts": settings["warm_up"], "engine": {}})
    return score


if __name__ == "__main__":
    work_on(start)
