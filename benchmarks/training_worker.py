"""Trains with this package, in its own environment."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measuring import measured, reset_peak, work_on


def start(settings: dict[str, Any]) -> Callable[[Any], Any]:
    """Loads the model.

    Args:
        settings: ``model``, ``quantise``, ``plain_copy``, ``r``, ``alpha`` and ``seed``.
    """

    from xling.models import locate_model
    from xling.study.settings import TrainingSettings
    from xling.training.batching import MemoryUse
    from xling.training.loop import Example, TrainingSet, train_adapter

    opened = locate_model(settings["model"], quantise=settings["quantise"]).open()

    def train(request: dict[str, Any]) -> dict[str, Any]:
        lora = {name: settings[name] for name in ("r", "alpha", "seed")}
        examples = [Example(prompt, gold) for prompt, gold in request["examples"]]
        recipe = TrainingSettings(
            batch_size=request["batch_size"],
            learning_rate=request["learning_rate"],
            warmup_steps=request["warmup_steps"],
            checkpoints=1,
        )
        with (
            opened.trainable(**lora, dropout=0.0) as (model, _),
            tempfile.TemporaryDirectory() as folder,
        ):
            trained = [p.detach() for p in model.parameters() if p.requires_grad]
            first_weights = float(sum(weight.abs().sum() for weight in trained))
            reset_peak()
            result, seconds = measured(
                lambda: train_adapter(
                    model,
                    opened.tokenizer,
                    TrainingSet(examples, request["label_ids"], add_special_tokens=True),
                    recipe,
                    seed=settings["seed"],
                    folder=Path(folder),
                    memory=MemoryUse(False, plain_copy=settings["plain_copy"]),
                )
            )
        losses = [row["loss"] for row in result.curve]
        return {"losses": losses, "first_weights": first_weights, **seconds}

    train(settings["warm_up"])
    return train


if __name__ == "__main__":
    work_on(start)
