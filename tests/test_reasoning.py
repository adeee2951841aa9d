"""Prompts for reasoning and for answers after it, and the file of finished reasonings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.tiny_models import byte_tokenizer
from xling.prompts import DEFAULT_TEMPLATE, PromptFormat, fill_template
from xling.scoring import Generation
from xling.scoring.answer_cache import ReasoningFile
from xling.scoring.reasoning import answer_prompts, reasoning_prompts, stop_text

TEMPLATES = Path(__file__).parent / "data" / "chat_templates"
PLAIN, CHAT = PromptFormat(), PromptFormat(chat=True)
FINAL = "<|channel|>final<|message|>"
ANALYSIS = "<|channel|>analysis<|message|>"
NEXT = "<|end|><|start|>assistant"


@dataclass(frozen=True)
class Asked:
    flores_passage: str = "The cat <think> sat."
    question: str = "Where?"
    answers: tuple[str, str, str, str] = ("here", "there", "nowhere", "home")


ITEM = fill_template(Asked(), DEFAULT_TEMPLATE)


def tokenizer_with(template: str):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (TEMPLATES / f"{template}.jinja").read_text(encoding="utf-8")
    return tokenizer


def ask(tokenizer, layout=CHAT):
    (prompt,) = reasoning_prompts([Asked()], layout, tokenizer, instruction="Think.")
    return prompt


def after(template: str, text: str) -> str:
    """What the answer prompt has beyond the reasoning prompt."""
    tokenizer = tokenizer_with(template)
    prompt = ask(tokenizer)
    (whole,) = answer_prompts([prompt], [text], CHAT, tokenizer)
    assert whole.startswith(prompt)
    return whole[len(prompt) :]


@pytest.mark.parametrize(
    ("template", "opening"),
    [
        ("chatml", "<|im_end|>\n<|im_start|>assistant\n"),
        ("empty_think", "<|im_end|>\n<|im_start|>assistant\n"),
        ("open_think", "<Assistant><think>\n"),
        ("closed_think", "<Assistant><think>"),
        ("harmony", "<|end|><|start|>assistant"),
        ("trimmed", "</turn>\n<turn>model\n"),
    ],
)
def test_a_chat_model_is_asked_to_think_in_its_own_turn(template, opening):
    assert ask(tokenizer_with(template)).endswith(f"{ITEM}\n\nThink.{opening}")


def test_a_plain_model_reasons_and_answers_in_one_text():
    tokenizer = byte_tokenizer()
    prompt = ask(tokenizer, PLAIN)
    assert prompt == f"{ITEM}\nThink.\n"
    texts = ["It sat.  \n", "", "Answer: (3) or <think> (2"]
    assert answer_prompts([prompt] * 3, texts, PLAIN, tokenizer) == [
        f"{prompt}It sat.\nAnswer: (",
        f"{prompt}\nAnswer: (",
        f"{prompt}Answer: (3) or <think> (2\nAnswer: (",
    ]


def test_only_a_plain_models_reasoning_stops_at_a_blank_line():
    assert stop_text(PLAIN) == "\n\n" and stop_text(CHAT) == ""


@pytest.mark.parametrize(
    ("template", "text", "expected"),
    [
        ("chatml", "It sat.\n", "It sat.\nAnswer: ("),
        ("chatml", "", "Answer: ("),
        ("chatml", "Answer: (3)", "Answer: (3)\nAnswer: ("),
        # thinking that is open is closed; the passage's own "<think>" opens nothing
        ("empty_think", "<think>\nIt s", "<think>\nIt s\n</think>\n\nAnswer: ("),
        ("empty_think", "<think>\nIt\n</think>", "<think>\nIt\n</think>\n\nAnswer: ("),
        (
            "empty_think",
            "<think>\nIt\n</think>\n\nIt is (3).",
            "<think>\nIt\n</think>\n\nIt is (3).\nAnswer: (",
        ),
        (
            "empty_think",
            "<think>a</think>b<think>c",
            "<think>a</think>b<think>c\n</think>\n\nAnswer: (",
        ),
        ("empty_think", "No thinking.", "No thinking.\nAnswer: ("),
        ("empty_think", "", "<think>\n\n</think>\n\nAnswer: ("),
        # the generation prompt opened it
        ("open_think", "It s", "It s\n</think>\n\nAnswer: ("),
        ("open_think", "", "</think>\n\nAnswer: ("),
        ("open_think", "It\n</think>\n\n(3)", "It\n</think>\n\n(3)\nAnswer: ("),
        ("closed_think", "It s", "It s</think>Answer: ("),
        ("closed_think", "It</think>", "It</think>Answer: ("),
        ("closed_think", "It</think>It is 3.", "It</think>It is 3.\nAnswer: ("),
        ("trimmed", "<|channel>thought\nIt s", "<|channel>thought\nIt s\n<channel|>\n\nAnswer: ("),
        # harmony
        ("harmony", f"{ANALYSIS}It s", f"{ANALYSIS}It s{NEXT}{FINAL}Answer: ("),
        ("harmony", f"{ANALYSIS}It.<|end|>", f"{ANALYSIS}It.{NEXT}{FINAL}Answer: ("),
        ("harmony", f"{ANALYSIS}It.{NEXT}<|channel|>fi", f"{ANALYSIS}It.{NEXT}{FINAL}Answer: ("),
        ("harmony", f"{ANALYSIS}It.{NEXT}{FINAL}", f"{ANALYSIS}It.{NEXT}{FINAL}Answer: ("),
        (
            "harmony",
            f"{ANALYSIS}It.{NEXT}{FINAL}It is 3.<|return|>",
            f"{ANALYSIS}It.{NEXT}{FINAL}It is 3.\nAnswer: (",
        ),
        ("harmony", "<|channel|>ana", f"{FINAL}Answer: ("),
        ("harmony", "", f"{FINAL}Answer: ("),
    ],
)
def test_an_answer_comes_after_the_reasoning_as_written(template, text, expected):
    assert after(template, text) == expected


def test_a_blank_instruction_is_an_error():
    with pytest.raises(ValueError, match="chain_of_thought.instruction is blank"):
        reasoning_prompts([Asked()], PLAIN, byte_tokenizer(), instruction=" \n")


@pytest.mark.parametrize("template", ["always_open", "parts_only"])
def test_a_template_that_cannot_be_used_is_an_error(template):
    tokenizer = tokenizer_with(template)
    with pytest.raises(ValueError, match="chat template of .* (writes no|drops)"):
        ask(tokenizer)
    with pytest.raises(ValueError, match="chat template of .* (writes no|drops)"):
        answer_prompts(["x"], ["y"], CHAT, tokenizer)


ONE = {"1/é": Generation('line\nbreak "\u2028" سؤال', 3, False)}
TWO = {"2": Generation("", 0, True), "3": Generation("<think>", 1, True)}


def test_reasonings_come_back_from_their_file(tmp_path):
    file = ReasoningFile(tmp_path / "new" / "reasonings.jsonl")
    assert file.done() == {}
    file.append(ONE)
    file.append(TWO)
    assert ReasoningFile(tmp_path / "new" / "reasonings.jsonl").done() == ONE | TWO


def test_a_line_that_was_not_finished_is_dropped_and_overwritten(tmp_path):
    path = tmp_path / "reasonings.jsonl"
    ReasoningFile(path).append(ONE | TWO)
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        kept = ReasoningFile(path).done()
        assert kept == dict(list((ONE | TWO).items())[: whole[:end].count(b"\n")])
        rest = {key: value for key, value in (ONE | TWO).items() if key not in kept}
        ReasoningFile(path).append(rest)
        assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "line",
    [
        b'{"key": "2", "te',
        b"[]",
        b"\xff\xfe",
        b"",
        b'{"key": "2", "text": "x", "n_tokens": 1}',
        b'{"key": "2", "text": "x", "n_tokens": "1", "truncated": false}',
        b'{"key": "2", "text": "x", "n_tokens": 1, "truncated": false, "more": 1}',
    ],
)
def test_a_broken_line_is_named(tmp_path, line):
    path = tmp_path / "reasonings.jsonl"
    ReasoningFile(path).append(ONE)
    path.write_bytes(path.read_bytes() + line + b"\n")
    ReasoningFile(path).append(TWO)
    with pytest.raises(ValueError, match=r"reasonings.jsonl, line 2, is not .* delete the line"):
        ReasoningFile(path).done()
