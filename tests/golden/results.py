"""Results of each stage on fixed inputs, as plain dicts: computed to be compared, or recorded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch

from tests.tiny_models import byte_tokenizer
from xling.data import build_mini, mini_languages
from xling.execution import StudyData, prepare_study
from xling.execution.evaluate.by_language import answer_by_language
from xling.execution.evaluate.item_scorer import ItemScorer
from xling.execution.evaluate.log_results import instrument_metrics
from xling.models import LoadedModel, locate_model
from xling.prompts import (
    PromptFormat,
    label_token_ids,
    render_cloze_prompts,
    render_prompts,
)
from xling.records import read_records, summarize_records
from xling.routing import read_routing, routing_metrics, sum_routing
from xling.scoring import InProcessEngine
from xling.scoring.reasoning import answer_prompts, reasoning_prompts
from xling.study import Cell, Study
from xling.study.load import parse_study
from xling.study.settings import TrainingSettings
from xling.training.loop import Example, TrainingSet, train_adapter

Results = dict[str, Any]
Models = Callable[[str], Path]
"""Folder of a tiny model, by architecture."""

TEMPLATES = Path(__file__).resolve().parents[1] / "data" / "chat_templates"
# Those that can put a question to a model, each in its family's way.
CHAT_TEMPLATES = ("chatml", "closed_think", "empty_think", "harmony", "open_think", "trimmed")
# Dense; dense with sliding windows; a mixture of experts.
ARCHITECTURES = ("llama", "gemma3_text", "qwen3_moe")
TRAINED_ARMS = ("finetuned", "control-source", "shuffled-labels")
WAYS = {
    "answer-token": ("direct", "answer-token"),
    "permuted": ("direct", "permuted"),
    "cloze": ("direct", "cloze"),
    "chain-of-thought": ("cot", "answer-token"),
}
# What of the scoring of tiny models is recorded: each way once, what differs by architecture
# (attention, experts) with each, and drawn reasonings beside the likeliest ones.
SCORED = {
    **{f"llama/{way}": ("llama", way, {}) for way in WAYS},
    "llama/chain-of-thought-drawn": ("llama", "chain-of-thought", {"temperature": 0.8, "seed": 3}),
    "gemma3_text/answer-token": ("gemma3_text", "answer-token", {}),
    "gemma3_text/cloze": ("gemma3_text", "cloze", {}),
    "qwen3_moe/answer-token": ("qwen3_moe", "answer-token", {}),
    "qwen3_moe/permuted": ("qwen3_moe", "permuted", {}),
    "qwen3_moe/chain-of-thought": ("qwen3_moe", "chain-of-thought", {}),
}
TRAINED = {
    "llama/finetuned": ("llama", "finetuned", {}),
    "llama/shuffled-labels": ("llama", "shuffled-labels", {}),
    "llama/gradient-checkpointing": ("llama", "finetuned", {"gradient_checkpointing": True}),
    "gemma3_text/finetuned": ("gemma3_text", "finetuned", {}),
    "qwen3_moe/finetuned": ("qwen3_moe", "finetuned", {}),
}
TRAINING = {
    "epochs": 2,
    "batch_size": 8,
    "micro_batch_size": 0,
    "learning_rate": 1e-2,
    "warmup_steps": 1,
    "weight_decay": 0.1,
    "max_grad_norm": 1.0,
    "gradient_checkpointing": False,
    "checkpoints": 1,
}
EMBEDDED = ("gemma3-270m", "smollm2-135m-instruct")
EMBEDDED_LANGUAGES = ("arb_Arab", "eng_Latn")
EMBEDDED_TRAINED = "smollm2-135m-instruct"


def golden_study(model: str = "chosen/by-test", **changes: Any) -> Study:
    """A tiny study of every arm, reasoning and scoring on the mini set.

    Args:
        model: folder or Hugging Face id; no result depends on the name.
        changes: sections of the study file that are other than here.
    """
    settings: dict[str, Any] = {
        "name": "golden",
        "models": [{"id": model, "name": "golden", "training_items": 8}],
        "data": {
            "source": "mini",
            "difficulties": [1],
            "split": "given",
            "held_out": 4,
            "baseline_items": 2,
            "seed": 12,  # no choice of a tiny model among these questions is close
        },
        "languages": {
            "source": ["arb_Arab", "arz_Arab"],
            "target": ["mlt_Latn", "eng_Latn"],
            "branch": "Semitic",
            "control_source": ["fra_Latn", "kor_Hang"],
        },
        "arms": ["base", *TRAINED_ARMS],
        "reasoning": ["direct", "cot"],
        "scoring_modes": ["answer-token", "permuted", "cloze"],
        "chain_of_thought": {"max_tokens": 8},
        "lora": {"r": 4, "alpha": 8},
    }
    return parse_study(json.dumps({**settings, **changes}), where="golden.yaml")


def cell_of(study: Study, arm: str, *, seed: int = 0, way: str = "answer-token") -> Cell:
    reasoning, scoring = WAYS[way]
    return Cell(study.models[0], arm, seed, reasoning, scoring)  # type: ignore[arg-type]


def prepare_results() -> Results:
    """Data, splits, training rows and prompts: text and whole numbers, the same everywhere."""
    prepared = prepare_study(golden_study())
    return {
        "data": mini_hashes(),
        "splits": {kind: split_hashes(kind) for kind in ("given", "question", "passage")},
        "folds": split_hashes("cross-fit"),
        "rows": {
            f"{arm}/seed-{seed}": row_names(prepared, arm, seed)
            for arm in TRAINED_ARMS
            for seed in (0, 1)
        },
        "evaluated": {
            part: {code: [item.item_id for item in items] for code, items in by_language.items()}
            for part, by_language in prepared.evaluated_items(
                cell_of(prepared.study, "base")
            ).items()
        },
        "prompts": prompt_hashes(prepared),
    }


def mini_hashes() -> Results:
    """Content of the embedded set, by language; a second seed to show that draws go by it."""
    whole = build_mini(languages=mini_languages())
    other = build_mini(languages=["eng_Latn"], difficulties=[1], seed=1)
    return {"seed-0": whole.sha256_by_language(), "seed-1": other.sha256_by_language()}


def split_hashes(kind: str) -> list[dict[str, Any]]:
    """Ids of both parts of each split, hashed: one split, or one a fold."""
    data: dict[str, Any] = {"source": "mini", "difficulties": [1], "split": kind}
    data |= {"folds": 3} if kind == "cross-fit" else {"held_out": 100}
    return [
        {
            "n": [len(split.training_ids), len(split.heldout_ids)],
            "training": text_sha256(list(split.training_ids)),
            "heldout": text_sha256(list(split.heldout_ids)),
        }
        for split in prepare_study(golden_study(data=data)).splits
    ]


def row_names(prepared: StudyData, arm: str, seed: int) -> list[str]:
    """Training rows in their order: language, item and the label that is trained on."""
    rows = prepared.training_rows(cell_of(prepared.study, arm, seed=seed))
    return [f"{row.item.dialect} {row.item.item_id} {row.label}" for row in rows]


def prompt_hashes(prepared: StudyData) -> Results:
    """Every form of a language's prompts: plain, and in each family's chat template."""
    tokenizers = {"plain": byte_tokenizer()}
    for name in CHAT_TEMPLATES:
        tokenizers[name] = byte_tokenizer()
        tokenizers[name].chat_template = (TEMPLATES / f"{name}.jinja").read_text("utf-8")
    instruction = prepared.study.chain_of_thought.instruction
    found: Results = {}
    for name, tokenizer in tokenizers.items():
        layout = PromptFormat(chat=name != "plain")
        for code in prepared.study.languages.evaluated:
            items = prepared.items(code, "heldout")
            asked = reasoning_prompts(items, layout, tokenizer, instruction=instruction)
            thought = [f"Because of {number}." for number, _ in enumerate(items)]
            found[f"{name}/{code}"] = {
                "answer": text_sha256(render_prompts(items, layout, tokenizer)),
                "cloze": text_sha256(render_cloze_prompts(items, layout, tokenizer)),
                "reasoning": text_sha256(asked),
                "after-reasoning": text_sha256(answer_prompts(asked, thought, layout, tokenizer)),
            }
    return found


@cache
def prepared_once(study: Study) -> StudyData:
    """A study's data, which many cells share."""
    return prepare_study(study)


@cache
def open_model(model: str) -> LoadedModel:
    """A base in four bits, loaded once; trainings take their adapters off it again."""
    return locate_model(model).open()


def score_results(models: Models, names: Sequence[str] = tuple(SCORED)) -> Results:
    """Records, instruments, routing and metrics of evaluate cells of tiny base models."""
    found: Results = {}
    for name in names:
        architecture, way, thought = SCORED[name]
        folder = str(models(architecture))
        study = golden_study(folder, chain_of_thought={"max_tokens": 8, **thought})
        found[name] = evaluate(study, way, open_model(folder))
    return found


def evaluate(study: Study, way: str, opened: LoadedModel) -> Results:
    """What an evaluate run of the base logs, but for the logging."""
    prepared = prepared_once(study)
    cell = cell_of(prepared.study, "base", way=way)
    scorer = ItemScorer(
        engine_of(opened),
        opened.tokenizer,
        prepared.prompt_format(opened.recipe),
        cell=cell,
        study=prepared.study,
        model=opened.model,
    )
    languages = prepared.study.languages
    with TemporaryDirectory() as work:
        folder = Path(work)
        answer_by_language(prepared, cell, scorer, prepared.evaluated_items(cell), folder)
        records = pd.concat(
            read_records(folder / f"{code}.parquet") for code in languages.evaluated
        )
        tables = {
            path.name: [path / f"{code}.parquet" for code in languages.evaluated]
            for path in sorted(folder.iterdir())
            if (path / f"{languages.evaluated[0]}.parquet").is_file()
        }
        families = {**languages.families, **dict.fromkeys(languages.source, "source")}
        metrics = summarize_records(records, families)
        found: Results = {"records": columns(records.drop(columns=["model"]))}
        for name, paths in tables.items():
            if name == "routing":
                table = sum_routing([read_routing(path) for path in paths])
                metrics |= routing_metrics(table, languages.source)
            else:
                table = pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True)
                metrics |= instrument_metrics(name, table)
            found[name] = columns(table)
    return {**found, "metrics": dict(sorted(metrics.items()))}


def train_results(models: Models, names: Sequence[str] = tuple(TRAINED)) -> Results:
    """Four steps of QLoRA on tiny models: curves, adapters, and what these answer."""
    found: Results = {}
    for name in names:
        architecture, arm, changes = TRAINED[name]
        folder = str(models(architecture))
        found[name] = train(golden_study(folder), arm, open_model(folder), **changes)
    return found


def train(
    study: Study, arm: str, opened: LoadedModel, *, dropout: float = 0.0, **changes: Any
) -> Results:
    """One training, as a finetune run does it, but for the logging.

    Args:
        study: has the rows and the adapter's size.
        arm: what is trained on.
        opened: the base.
        dropout: of the adapter. Recorded trainings have none: which numbers are drawn is up to
            the library that PyTorch was built with.
        changes: settings other than in `TRAINING`.
    """
    prepared = prepared_once(study)
    rows = prepared.training_rows(cell_of(prepared.study, arm))
    heldout = prepared.items("eng_Latn", "heldout")
    layout = prepared.prompt_format(opened.recipe)
    special = not layout.chat
    texts = render_prompts([row.item for row in rows], layout, opened.tokenizer)
    examples = [Example(text, row.label) for text, row in zip(texts, rows, strict=True)]
    labels = label_token_ids(opened.tokenizer, texts[0], add_special_tokens=special)
    lora = {**prepared.study.lora.model_dump(), "dropout": dropout}
    with TemporaryDirectory() as work, opened.trainable(**lora, seed=0) as (model, modules):
        result = train_adapter(
            model,
            opened.tokenizer,
            TrainingSet(examples, labels, special),
            TrainingSettings.model_validate({**TRAINING, **changes}),
            seed=0,
            folder=Path(work),
        )
        engine = InProcessEngine(model, opened.tokenizer, add_special_tokens=special)
        scores = engine.score(render_prompts(heldout, layout, opened.tokenizer))
        adapter = {
            tensor: summary(parameter.detach())
            for tensor, parameter in model.named_parameters()
            if parameter.requires_grad
        }
    return {
        "curve": columns(pd.DataFrame(list(result.curve))),
        "tokens": result.tokens,
        "modules": len(modules),
        "adapter": dict(sorted(adapter.items())),
        "heldout_logprobs": plain(scores.logprobs),
    }


def embedded_results(name: str) -> Results:
    """What an embedded model's base says of four questions in two languages."""
    opened = open_model(name)
    prepared = prepare_study(golden_study(name))
    layout = prepared.prompt_format(opened.recipe)
    found: Results = {}
    for code in EMBEDDED_LANGUAGES:
        prompts = render_prompts(prepared.items(code, "heldout"), layout, opened.tokenizer)
        scores = engine_of(opened).score(prompts)
        found[code] = {
            "logprobs": plain(scores.logprobs),
            "n_tokens": plain(scores.n_tokens),
            "prompts": text_sha256(prompts),
        }
    return found


def embedded_training_results() -> Results:
    """Two steps of QLoRA on the smaller embedded model: the curve alone, which shows the rest."""
    study = golden_study(EMBEDDED_TRAINED)
    few = study.models[0].model_copy(update={"training_items": 1})
    study = study.model_copy(update={"models": (few,)})
    found = train(
        study, "finetuned", open_model(EMBEDDED_TRAINED), epochs=1, batch_size=1, warmup_steps=0,
        learning_rate=1e-3,
    )  # fmt: skip
    return {key: found[key] for key in ("curve", "tokens", "modules", "heldout_logprobs")}


def engine_of(opened: LoadedModel) -> InProcessEngine:
    special = not opened.recipe.chat
    return InProcessEngine(
        opened.model, opened.tokenizer, add_special_tokens=special, batch_tokens=2048
    )


def summary(tensor: torch.Tensor) -> Results:
    """A tensor in a few numbers; summed in double precision, so that the sums add no error."""
    values = tensor.double().flatten()
    return {
        "shape": list(tensor.shape),
        "sum": float(values.sum()),
        "abs_sum": float(values.abs().sum()),
        "first": values[:3].tolist(),
    }


def columns(frame: pd.DataFrame) -> Results:
    """A table by column."""
    return {str(name): plain(frame[name].to_numpy()) for name in frame.columns}


def plain(values: Any) -> Any:
    """Arrays as lists that JSON can hold: a missing number is the text ``nan``."""
    if isinstance(values, np.ndarray):
        return [plain(value) for value in values.tolist()]
    if isinstance(values, list):
        return [plain(value) for value in values]
    return "nan" if isinstance(values, float) and np.isnan(values) else values


def text_sha256(texts: Sequence[str]) -> str:
    """Hexadecimal sha256 of texts in their order."""
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def results_sha256(results: Results) -> str:
    """Hexadecimal sha256 of results to the last digit; the same on one machine only."""
    return hashlib.sha256(json.dumps(results, sort_keys=True).encode()).hexdigest()
