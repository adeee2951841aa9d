"""Scores prompts with lm-evaluation-harness, in its own environment; this project is not used.

The prompts are the documents of a task of its multiple-choice kind, and go through its `evaluate`,
which builds the requests, runs the model and counts the metrics. Four labels after one prompt are
four requests of one token, for which it computes the prompt once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.measuring import measured, reset_peak, work_on

TASK = "belebele_labels"
LABELS = ["1", "2", "3", "4"]


def task_of(prompts: list[str]) -> dict[str, Any]:
    """The task's configuration, as a YAML file would have it."""
    import datasets

    documents = datasets.Dataset.from_dict({"prompt": prompts, "gold": [0] * len(prompts)})
    return {
        "task": TASK,
        "custom_dataset": lambda **_: {"test": documents},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": lambda document: document["prompt"],
        "doc_to_choice": LABELS,
        "doc_to_target": "gold",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
    }


def start(settings: dict[str, Any]) -> Callable[[Any], Any]:
    """Loads the model and warms up.

    Args:
        settings: `folder` of the model, `threads`, `batch_size`, and `warm_up`: prompts.
    """
    import torch
    from lm_eval.evaluator import evaluate  # type: ignore[import-not-found]
    from lm_eval.models.huggingface import HFLM  # type: ignore[import-not-found]
    from lm_eval.tasks import TaskManager  # type: ignore[import-not-found]

    torch.set_num_threads(settings["threads"])
    model = HFLM(
        pretrained=settings["folder"],
        device="cpu",
        dtype="float32",
        batch_size=settings["batch_size"],
    )
    manager = TaskManager(include_defaults=False)

    def score(prompts: list[str]) -> list[list[float]]:
        tasks = manager.load([task_of(prompts)])
        found = evaluate(lm=model, task_dict=tasks, bootstrap_iters=0, log_samples=True)
        samples = sorted(found["samples"][TASK], key=lambda sample: sample["doc_id"])
        return [[float(each[0]) for each in sample["filtered_resps"]] for sample in samples]

    score(settings["warm_up"])
    return lambda request: answer(score, request)


def answer(score: Callable[[list[str]], Any], request: dict[str, Any]) -> dict[str, Any]:
    """As `benchmarks.scoring_worker.answer`."""
    prompts = request["prompts"]
    if request.get("count"):
        from benchmarks.flops import counted

        return {"flops": counted(lambda: score(prompts))}
    before = reset_peak()
    found, seconds = measured(lambda: score(prompts))
    return {"logprobs": found, "held_bytes": before, **seconds}


if __name__ == "__main__":
    work_on(start)
