"""Makes scores.json: what lm-evaluation-harness says of our prompts, offline, with a tiny model.

From the project's root, in an environment of its own:

    python3.11 -m venv /tmp/lm-eval
    /tmp/lm-eval/bin/pip install torch==2.13.0 transformers==5.23.0 babel==2.18.0
    /tmp/lm-eval/bin/pip install "lm-eval[hf]==0.4.13"
    PYTHONPATH=. /tmp/lm-eval/bin/python tests/data/lm_eval_scores/make_scores.py

The items are of the embedded mini set. Two tasks of each language: `token` has the four labels as
choices after our answer-token prompt, and `cloze` the answers' texts after our cloze prompt. The
model's weights are drawn by numpy, so that they are the same on every machine.

`--model FOLDER --output FILE` scores with another model instead, for a comparison by hand. With a
large vocabulary add `--softmax float64`: in single precision, which is the harness's default, its
log-probabilities of Gemma's 262k words are off by up to 4e-4.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.tiny_models import byte_tokenizer, tiny_config
from xling.data import load_data
from xling.prompts import LABELS, PromptFormat, render_cloze_prompts, render_prompts

LANGUAGES = ("arb_Arab", "fra_Latn", "heb_Hebr", "jpn_Jpan")
ITEMS = 6
SCORES = Path(__file__).resolve().parent / "scores.json"
METRICS = ("acc", "acc_norm", "acc_mutual_info")
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {name}.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: choices
doc_to_target: gold
target_delimiter: "{delimiter}"
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_mutual_info, aggregation: mean, higher_is_better: true}}
metadata: {{version: 0.0}}
"""
DELIMITERS = {"token": "", "cloze": " "}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="folder; left out: the tiny model")
    parser.add_argument("--output", type=Path, default=SCORES)
    parser.add_argument("--softmax", default="float32", help="precision of the harness's softmax")
    args = parser.parse_args()
    with TemporaryDirectory() as name:
        folder = Path(name)
        if args.model is None:
            save_drawn_model(folder / "model")
        tasks = write_tasks(folder)
        run_harness(folder, args.model or folder / "model", tasks, args.softmax)
        rows = [row for task in tasks for row in read_samples(folder, task)]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    head = json.dumps(
        {"lm_eval": version("lm_eval"), "model": args.model.name if args.model else "drawn"}
    )
    body = ",\n".join(lines)
    args.output.write_text(f'{head[:-1]}, "items": [\n{body}\n]}}\n', encoding="utf-8")


def save_drawn_model(folder: Path) -> None:
    """A Llama of 2 layers and a byte-level tokenizer, the weights drawn by numpy."""
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = byte_tokenizer()
    config = tiny_config("llama", len(tokenizer))
    config.max_position_embeddings = 2048
    model = AutoModelForCausalLM.from_config(config).to(torch.float32)
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            drawn = rng.normal(0, 0.15, size=tuple(parameter.shape)).astype(np.float32)
            parameter.copy_(torch.from_numpy(drawn + (parameter.dim() == 1)))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_tasks(folder: Path) -> list[str]:
    """Writes each task and its items; gives the tasks' names."""
    data = load_data("mini", languages=LANGUAGES, difficulties=(1,))
    tasks = []
    for code in LANGUAGES:
        items = [item for item in data.items[code] if item.part == "heldout"][:ITEMS]
        for kind in DELIMITERS:
            render = render_cloze_prompts if kind == "cloze" else render_prompts
            prompts = render(items, PromptFormat(), None)
            rows = [
                {
                    "item_id": item.item_id,
                    "prompt": prompt,
                    "choices": list(item.answers if kind == "cloze" else LABELS),
                    "gold": item.correct_answer_num - 1,
                }
                for item, prompt in zip(items, prompts, strict=True)
            ]
            name = f"{kind}_{code}"
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
            (folder / f"{name}.yaml").write_text(
                TASK.format(name=name, delimiter=DELIMITERS[kind]), encoding="utf-8"
            )
            tasks.append(name)
    return tasks


def run_harness(folder: Path, model: Path, tasks: list[str], softmax: str) -> None:
    settings = f"pretrained={model},dtype=float32,softmax_dtype={softmax}"
    command = [sys.executable, "-m", "lm_eval", "--model", "hf", "--device", "cpu"]
    command += ["--model_args", settings, "--tasks", ",".join(tasks)]
    command += ["--include_path", ".", "--output_path", "out", "--log_samples", "--batch_size", "4"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "cache")}
    subprocess.run(command, cwd=folder, env=environment, check=True)


def read_samples(folder: Path, task: str) -> list[dict[str, Any]]:
    """One row an item: prompt, choices, log-likelihoods and metrics, as the harness has them."""
    kind, code = task.split("_", maxsplit=1)
    (path,) = (folder / "out").rglob(f"samples_{task}_*.jsonl")
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        sample = json.loads(line)
        values = [float(answer[0]) for answer in sample["filtered_resps"]]
        rows.append(
            {
                "kind": kind,
                "language": code,
                **{key: sample["doc"][key] for key in ("item_id", "prompt", "choices", "gold")},
                "loglikelihood": values[:4],
                "without_context": values[4:],
                **{name: sample[name] for name in METRICS},
            }
        )
    return rows


if __name__ == "__main__":
    main()
