"""Measures the machine's rate of matrix products in float32."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.measuring import work_on

# Rows, inner and outer size: a large square product, and Gemma 3 270M's own, for a batch of tokens.
SHAPES = {
    "square, 2048": (2048, 2048, 2048),
    "up, 4096 tokens, 640 to 2048": (4096, 640, 2048),
    "down, 4096 tokens, 2048 to 640": (4096, 2048, 640),
    "query, 4096 tokens, 640 to 1024": (4096, 640, 1024),
}
TIMES = 5


def start(settings: dict[str, Any]) -> Callable[[Any], Any]:
    import torch

    torch.set_num_threads(settings["threads"])
    draws = torch.Generator().manual_seed(0)
    made = {
        name: (
            torch.randn(rows, inner, generator=draws),
            torch.randn(outer, inner, generator=draws).t(),
        )
        for name, (rows, inner, outer) in SHAPES.items()
    }

    def rates(_: Any) -> dict[str, dict[str, float]]:
        """Operations a second of each product, by `cpu` and `wall`; the best of several."""
        found = {}
        for name, (left, right) in made.items():
            torch.mm(left, right)
            operations = 2 * left.shape[0] * left.shape[1] * right.shape[1]
            seconds = [timed(partial(torch.mm, left, right)) for _ in range(TIMES)]
            found[name] = {
                "wall": operations / min(wall for wall, _ in seconds),
                "cpu": operations / min(cpu for _, cpu in seconds),
            }
        return found

    rates(None)
    return rates


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


if __name__ == "__main__":
    work_on(start)
