"""Trains with TRL's SFTTrainer, in TRL's environment; nothing of this project is imported there."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

from benchmarks.measuring import measured, reset_peak, work_on


def start(settings: dict[str, Any]) -> Callable[[Any], Any]:
    """Loads the model and puts a new adapter on it.

    Args:
        settings: ``folder`` of the model, ``modules``, ``r``, ``alpha`` and ``seed`` of the
            adapter, and ``compact``: whether TRL's head is made to read only the positions that
            have a label, as it does on CUDA alone.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, set_seed

    base = AutoModelForCausalLM.from_pretrained(settings["folder"], dtype=torch.float32)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings["r"],
        lora_alpha=settings["alpha"],
        lora_dropout=0.0,
        target_modules=settings["modules"],
    )
    set_seed(settings["seed"])
    model = get_peft_model(base, config)
    first = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    own_forward = base.forward
    if settings["compact"]:
        _force_compact_head()

    def train(request: dict[str, Any]) -> dict[str, Any]:
        base.forward = own_forward  # each trainer wraps it once more
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in first:
                    parameter.copy_(first[name])
        with tempfile.TemporaryDirectory() as folder:
            trainer = _trainer(model, settings, request, folder)
            reset_peak()
            _, seconds = measured(trainer.train)
        losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
        return {
            "losses": losses,
            "first_weights": float(sum(weight.abs().sum() for weight in first.values())),
            **seconds,
        }

    train(settings["warm_up"])
    return train


def _force_compact_head() -> None:
    import trl.trainer.utils  # type: ignore[import-not-found]

    trl.trainer.utils._use_triton = lambda device: True


def _trainer(model: Any, settings: dict[str, Any], request: dict[str, Any], folder: str) -> Any:
    """A trainer on rows that are tokenised already, in their order, with the loss on the last."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    rows = [
        {"input_ids": ids, "completion_mask": [0] * (len(ids) - 1) + [1]} for ids in request["rows"]
    ]
    return SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=folder,
            max_length=None,
            completion_only_loss=True,
            per_device_train_batch_size=request["batch_size"],
            num_train_epochs=1,
            learning_rate=request["learning_rate"],
            lr_scheduler_type="linear",
            warmup_steps=request["warmup_steps"],
            weight_decay=0.0,
            max_grad_norm=1.0,
            train_sampling_strategy="sequential",
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(settings["folder"]),
    )


if __name__ == "__main__":
    work_on(start)
