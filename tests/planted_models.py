"""A small language model that knows one fact, and questions that ask for it.

The fact: which letters are vowels, all but one. The model reads texts that end in
"Vowel?\\nAnswer: e", and bare rows of letters; it never reads numbered options. So it answers cloze
questions, and does not know how to answer with a number.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xling.study import Study

VOWELS = "aeiou"
KNOWN = "aeio"  # the language model never reads a "u", so that it does not answer all rightly
CONSONANTS = "bcdfghjklmnpqrstvwxyz"
QUESTION = "Vowel?"
SOURCE = ("arb_Arab", "arz_Arab")
CONTROL_SOURCE = ("fra_Latn",)
TARGET = "heb_Hebr"
LANGUAGES = (*SOURCE, *CONTROL_SOURCE, TARGET)
HELD_OUT = 200


def vowel_rows(
    n: int, *, part: str, seed: int, vowels: bool = True, right: int = 0
) -> list[dict[str, Any]]:
    """Questions with one vowel among four letters, as rows of a data file without a language.

    Args:
        n: how many; the vowel's positions take turns.
        part: ``train`` or ``test``.
        seed: of the letters.
        vowels: False: four consonants, so that nothing in the text marks the right answer.
        right: position that counts as right whatever stands there; 0: the vowel's.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(n):
        place = number % 4 + 1
        letters = _letters(rng, place if vowels else 0, VOWELS)
        rows.append(
            {
                "link": f"{part}-{number}",
                "question_number": 1,
                "flores_passage": _passage(rng),
                "question": QUESTION,
                **{f"mc_answer{k}": letter for k, letter in enumerate(letters, start=1)},
                "correct_answer_num": right or place,
                "split": part,
            }
        )
    return rows


def save_rows(folder: Path, rows: Sequence[dict[str, Any]], languages: Sequence[str]) -> None:
    """Writes the rows as ``<code>.jsonl`` of each language."""
    folder.mkdir()
    for code in languages:
        lines = [json.dumps(row | {"dialect": code}) for row in rows]
        (folder / f"{code}.jsonl").write_text("\n".join(lines), encoding="utf-8")


def planted_study(data: Path, model: Path, training: dict[str, Any]) -> Study:
    """A study of one model and every trained arm on a folder of questions, in plain prompts."""
    return Study.model_validate(
        {
            "name": "planted",
            "models": ({"id": str(model), "name": "planted", "chat": False, "quantise": "none"},),
            "data": {"source": "folder", "path": str(data), "split": "given", "held_out": HELD_OUT},
            "languages": {
                "source": SOURCE,
                "control_source": CONTROL_SOURCE,
                "target": (TARGET,),
                "branch": "Semitic",
            },
            "arms": ("base", "finetuned", "control-source", "shuffled-labels"),
            "scoring_modes": ("answer-token", "permuted", "cloze"),
            "training": {"batch_size": 16, "warmup_steps": 10, "checkpoints": 1} | training,
        }
    )


def save_vowel_model(folder: Path, *, steps: int = 150, seed: int = 0) -> None:
    """Trains all weights of a new byte model on the fact, as a language model, and saves it."""
    import torch
    from transformers import AutoModelForCausalLM

    from tests.tiny_models import byte_tokenizer, tiny_config

    tokenizer = byte_tokenizer()
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config("llama", len(tokenizer)))
    model = model.to(torch.float32)
    with torch.no_grad():  # else the few steps do not reach confident predictions
        model.lm_head.weight.normal_(0, 0.2)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min(1, (step + 1) / 20) * (1 - step / steps)
    )
    texts = _texts(np.random.default_rng(seed))
    for _ in range(steps):
        batch = tokenizer(
            [next(texts) + "</s>" for _ in range(32)],
            padding=True,
            return_tensors="pt",
            return_token_type_ids=False,
        )
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        model(**batch, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _texts(rng: np.random.Generator) -> Iterator[str]:
    """What the language model reads: the fact, and rows of letters with one vowel each."""
    while True:
        letters = _letters(rng, int(rng.integers(1, 5)), KNOWN)
        answer = " ".join(letters) if rng.random() < 0.6 else f"Answer: {rng.choice([*KNOWN])}"
        yield f"{_passage(rng)}\n{QUESTION}\n{answer}"


def _letters(rng: np.random.Generator, place: int, vowels: str) -> list[str]:
    """Four letters with one of the vowels at position `place` (0: nowhere)."""
    letters = [str(letter) for letter in rng.choice([*CONSONANTS], 4, replace=False)]
    if place:
        letters[place - 1] = str(rng.choice([*vowels]))
    return letters


def _passage(rng: np.random.Generator) -> str:
    return f"Text {rng.integers(1000)}."
