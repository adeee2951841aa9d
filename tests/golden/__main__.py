"""Records golden results anew: ``python -m tests.golden [prepare] [score] [train] [embedded]``.

Run it only when the result version of a stage is raised, for that stage alone, and say in the
same commit why its results change. A test that fails after any other change has found a fault in
that change; recording anew would hide it. Recorded results are of a CPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from tests.golden.comparing import close_calls, write_golden
from tests.golden.results import (
    EMBEDDED,
    Results,
    embedded_results,
    embedded_training_results,
    prepare_results,
    score_results,
    train_results,
)
from tests.tiny_models import save_tiny_model


def main() -> None:
    with TemporaryDirectory() as work:

        @cache
        def models(architecture: str) -> Path:
            folder = Path(work) / architecture
            save_tiny_model(architecture, folder)
            return folder

        stages: dict[str, Callable[[], Results]] = {
            "prepare": prepare_results,
            "score": lambda: score_results(models),
            "train": lambda: train_results(models),
            "embedded": lambda: {
                **{name: embedded_results(name) for name in EMBEDDED},
                "training": embedded_training_results(),
            },
        }
        parser = argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__)
        parser.add_argument("stage", nargs="+", choices=stages)
        chosen = parser.parse_args().stage
        if torch.cuda.is_available():
            parser.error("results are recorded on a CPU; hide the GPU (CUDA_VISIBLE_DEVICES=)")
        for name in chosen:
            results = stages[name]()
            cells = results.items() if name == "score" else ()
            close = [f"{cell}: {call}" for cell, found in cells for call in close_calls(found)]
            if close:
                parser.error(
                    "rounding could turn these choices on another machine; take other questions "
                    f"(data.seed of `golden_study`): {'; '.join(close)}"
                )
            print(write_golden(name, results))


if __name__ == "__main__":
    main()
