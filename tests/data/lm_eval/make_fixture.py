"""Makes the fixture: a true run of lm-evaluation-harness, offline, on a tiny random model.

From the project's root, in an environment of its own:

    python3.11 -m venv /tmp/lm-eval
    /tmp/lm-eval/bin/pip install torch==2.13.0 transformers==5.23.0 babel==2.18.0
    /tmp/lm-eval/bin/pip install "lm-eval[hf]==0.4.13"
    PYTHONPATH=. /tmp/lm-eval/bin/python tests/data/lm_eval/make_fixture.py

The task is the harness's own Belebele template (same prompt, labels, gold and metrics) on items of
the embedded mini set. The samples files are kept byte for byte; of the results file only the keys
in KEPT, since the others describe the machine.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.tiny_models import save_tiny_model
from xling.data import load_data

LANGUAGES = ("fra_Latn", "heb_Hebr", "mlt_Latn")
ITEMS = 12
KEPT = (
    "results",
    "n-samples",
    "config",
    "date",
    "lm_eval_version",
    "transformers_version",
    "model_source",
    "model_name",
    "model_name_sanitized",
)
KEPT_CONFIG = ("model", "model_args", "limit", "random_seed")
TASK = r"""
task: belebele_{code}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {code}.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "P: {{{{flores_passage}}}}\nQ: {{{{question.strip()}}}}\nA: {{{{mc_answer1}}}}\nB: {{{{mc_answer2}}}}\nC: {{{{mc_answer3}}}}\nD: {{{{mc_answer4}}}}\nAnswer:"
doc_to_choice: ["A", "B", "C", "D"]
doc_to_target: "{{{{['1', '2', '3', '4'].index(correct_answer_num)}}}}"
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
metadata: {{version: 0.0}}
"""  # noqa: E501


def main() -> None:
    target = Path(__file__).resolve().parent / "tiny-llama"
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_tasks(folder)
        save_tiny_model("llama", folder / "tiny-llama")
        run_harness(folder)
        (made,) = [path for path in (folder / "out").iterdir() if path.is_dir()]
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        for path in made.glob("samples_*.jsonl"):
            shutil.copy(path, target)
        (results,) = made.glob("results_*.json")
        (target / results.name).write_text(trimmed(results), encoding="utf-8")


def write_tasks(folder: Path) -> None:
    """The tasks, and their items with gold answers as text, as the hub's Belebele has them."""
    data = load_data("mini", languages=LANGUAGES, difficulties=(1,))
    for code, items in data.items.items():
        held_out = [item for item in items if item.part == "heldout"][:ITEMS]
        rows = [
            {key: value for key, value in vars(item).items() if key != "part"}
            | {"correct_answer_num": str(item.correct_answer_num), "ds": "2026-01-01"}
            for item in held_out
        ]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{code}.jsonl").write_text(text, encoding="utf-8")
        (folder / f"belebele_{code}.yaml").write_text(TASK.format(code=code), encoding="utf-8")


def run_harness(folder: Path) -> None:
    command = [sys.executable, "-m", "lm_eval", "--model", "hf", "--device", "cpu"]
    command += ["--model_args", "pretrained=./tiny-llama,dtype=float32,max_length=2048"]
    command += ["--tasks", ",".join(f"belebele_{code}" for code in LANGUAGES)]
    command += ["--include_path", ".", "--output_path", "out", "--log_samples"]
    command += ["--limit", str(ITEMS), "--batch_size", "4"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "cache")}
    subprocess.run(command, cwd=folder, env=environment, check=True)


def trimmed(path: Path) -> str:
    content = json.loads(path.read_text(encoding="utf-8"))
    kept = {key: content[key] for key in KEPT}
    kept["config"] = {key: kept["config"][key] for key in KEPT_CONFIG}
    return json.dumps(kept, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    main()
