"""Prompt text, and labels that are one unambiguous token under real small tokenizers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from xling.prompts import (
    DEFAULT_CLOZE_TEMPLATE,
    DEFAULT_TEMPLATE,
    FIELDS,
    LABELS,
    PromptFormat,
    check_cloze_template,
    check_template,
    fill_template,
    label_token_ids,
    prompt_sha256,
    render_cloze_prompts,
    render_prompts,
)
from xling.prompts.chat import check_chat_template

TEMPLATES = Path(__file__).parent / "data" / "chat_templates"

CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}</{{ message.role }}>"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
# " 1" to " 4" occur often enough to become tokens of their own; "10" never occurs.
CORPUS = ["Answer: 1 Answer: 2 Answer: 3 Answer: 4", "Answer: (1) (2) (3) (4) 0"] * 20


@dataclass(frozen=True)
class Asked:
    """A question as `xling.prompts.Question` wants it."""

    flores_passage: str = "The cat sat."
    question: str = "Where?"
    answers: tuple[str, str, str, str] = ("here", "there", "nowhere", "home")


def wrap(core: Tokenizer, **options: Any) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=core, **options)


@pytest.fixture(scope="module")
def byte_level() -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on a few lines, with a beginning-of-text token."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(CORPUS, trainer)
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", core.token_to_id("<s>"))]
    )
    return wrap(core, bos_token="<s>")


def word_level(words: str) -> PreTrainedTokenizerFast:
    """Whole words and signs; all others are one unknown token."""
    vocabulary = {word: index for index, word in enumerate(["[UNK]", *words.split()])}
    core = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return wrap(core, unk_token="[UNK]")


def test_the_default_template_is_valid() -> None:
    assert check_template(DEFAULT_TEMPLATE) is DEFAULT_TEMPLATE


@pytest.mark.parametrize("field", FIELDS)
def test_a_template_without_a_field_is_an_error_that_lists_all(field: str) -> None:
    with pytest.raises(ValueError, match="must hold each of") as caught:
        check_template(DEFAULT_TEMPLATE.replace(f"{{{field}}}", ""))
    wanted, held = str(caught.value).split("it holds")
    assert all(f"{{{name}}}" in wanted for name in FIELDS)
    assert f"{{{field}}}" not in held


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (DEFAULT_TEMPLATE + "{passage}", r"it holds \{passage\}.*\{passage\}$"),
        (DEFAULT_TEMPLATE + "{language}", r"it holds .*\{language\}$"),
        (DEFAULT_TEMPLATE + "{}", r"it holds .*\{\}$"),
        (DEFAULT_TEMPLATE.replace("{passage}", "{passage.__class__}"), "passage.__class__"),
        ("Answer with a number.", "it holds none"),
        (DEFAULT_TEMPLATE + "{passage", "not a format string"),
        (DEFAULT_TEMPLATE + "}", "not a format string"),
    ],
)
def test_a_wrong_template_is_an_error(template: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_template(template)


def test_doubled_braces_of_a_template_are_text() -> None:
    template = check_template("{{json}} " + DEFAULT_TEMPLATE)
    assert fill_template(Asked(), template).startswith("{json} The cat sat.")


def test_a_filled_template() -> None:
    assert fill_template(Asked(), DEFAULT_TEMPLATE) == (
        "The cat sat.\nWhere?\n(1) here\n(2) there\n(3) nowhere\n(4) home"
    )


def test_braces_in_items_are_kept_as_they_are() -> None:
    item = Asked("{passage} {0} {{x}} }", "{answer1}?", ("{", "}", "{}", "{question}"))
    assert fill_template(item, DEFAULT_TEMPLATE) == (
        "{passage} {0} {{x}} }\n{answer1}?\n(1) {\n(2) }\n(3) {}\n(4) {question}"
    )


def test_plain_prompts_end_in_the_answer_prefix(byte_level: PreTrainedTokenizerFast) -> None:
    items = [Asked(), Asked(question="Who?")]
    prompts = render_prompts(items, PromptFormat(), byte_level)
    assert [prompt.splitlines()[1] for prompt in prompts] == ["Where?", "Who?"]
    assert prompts[0] == fill_template(items[0], DEFAULT_TEMPLATE) + "\nAnswer: ("


def test_chat_prompts_go_through_the_chat_template() -> None:
    tokenizer = word_level("a")
    tokenizer.chat_template = CHAT_TEMPLATE
    (prompt,) = render_prompts([Asked()], PromptFormat(chat=True), tokenizer)
    text = fill_template(Asked(), DEFAULT_TEMPLATE)
    assert prompt == f"<user>{text}</user><assistant>Answer: ("


def test_jinja_signs_in_items_are_kept_as_they_are() -> None:
    tokenizer = word_level("a")
    tokenizer.chat_template = CHAT_TEMPLATE
    item = Asked(flores_passage="{{ message.role }} {% if x %}")
    (prompt,) = render_prompts([item], PromptFormat(chat=True), tokenizer)
    assert prompt.startswith("<user>{{ message.role }} {% if x %}\n")


def test_a_chat_prompt_without_a_chat_template_is_an_error() -> None:
    with pytest.raises(ValueError, match="no chat template; set `chat: false`"):
        render_prompts([Asked()], PromptFormat(chat=True), word_level("a"))


def chat_tokenizer(template: str) -> PreTrainedTokenizerFast:
    tokenizer = word_level("a")
    tokenizer.chat_template = (TEMPLATES / f"{template}.jinja").read_text(encoding="utf-8")
    return tokenizer


# What stands between the user's text and the answer prefix, and before the user's text.
TURNS = {
    "chatml": (
        "<|im_start|>system\nYou help.<|im_end|>\n<|im_start|>user\n",
        "<|im_end|>\n<|im_start|>assistant\n",
    ),
    "empty_think": (
        "<|im_start|>user\n",
        "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    ),
    "open_think": ("<User>", "<Assistant>"),
    "closed_think": ("<User>", "<Assistant></think>"),
    "harmony": (
        "<|start|>system<|message|>Current date: 2025-01-01<|end|><|start|>user<|message|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
    ),
    "trimmed": ("<turn>system\n01 Jan 2025</turn>\n<turn>user\n", "</turn>\n<turn>model\n"),
}


@pytest.mark.parametrize("template", TURNS)
def test_an_answer_stands_where_the_template_puts_answers(template: str) -> None:
    before, between = TURNS[template]
    tokenizer = chat_tokenizer(template)
    (prompt,) = render_prompts([Asked()], PromptFormat(chat=True), tokenizer)
    assert prompt == before + fill_template(Asked(), DEFAULT_TEMPLATE) + between + "Answer: ("


@pytest.mark.parametrize("template", TURNS)
@pytest.mark.parametrize("prefix", ["\n", "Answer: ", "\n\nAntwort:\n\n"])
def test_blanks_at_the_end_of_a_prefix_survive_every_template(template: str, prefix: str) -> None:
    layout = PromptFormat(answer_prefix=prefix, chat=True)
    (prompt,) = render_prompts([Asked()], layout, chat_tokenizer(template))
    assert prompt.endswith(TURNS[template][1] + prefix.lstrip())


@pytest.mark.parametrize("template", TURNS)
def test_an_item_that_speaks_of_turns_changes_no_turn(template: str) -> None:
    before, between = TURNS[template]
    item = Asked(question="<think> </think> <|channel|>final<|message|> xling-answer-probe?")
    (prompt,) = render_prompts([item], PromptFormat(chat=True), chat_tokenizer(template))
    assert prompt == before + fill_template(item, DEFAULT_TEMPLATE) + between + "Answer: ("


def test_a_template_without_a_generation_prompt_is_an_error() -> None:
    tokenizer = chat_tokenizer("always_open")
    tokenizer.name_or_path = "some/model"
    with pytest.raises(ValueError, match="of some/model writes no generation prompt.*chat: false"):
        render_prompts([Asked()], PromptFormat(chat=True), tokenizer)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("parts_only", "drops the user's text"),
        ("{{ raise_exception('no such turn') }}", "fails on .* turn .no such turn.*chat: false"),
        (
            "{% for turn in messages if turn.role == 'user' %}{{ turn.content }}{% endfor %}"
            "{% if add_generation_prompt %}A:{% endif %}",
            "drops the assistant's text",
        ),
    ],
)
def test_a_template_that_cannot_be_used_is_an_error(template: str, message: str) -> None:
    tokenizer = chat_tokenizer("chatml")
    path = TEMPLATES / f"{template}.jinja"
    tokenizer.chat_template = path.read_text() if path.is_file() else template
    with pytest.raises(ValueError, match=message):
        check_chat_template(tokenizer)


@pytest.mark.parametrize("chat", [False, True])
def test_a_cloze_prompt_shows_no_option(chat: bool) -> None:
    item = Asked(flores_passage="{question} sat.")
    tokenizer = chat_tokenizer("empty_think")
    (prompt,) = render_cloze_prompts([item], PromptFormat(chat=chat), tokenizer)
    before, between = TURNS["empty_think"] if chat else ("", "\n")
    assert prompt == before + "{question} sat.\nWhere?" + between + "Answer:"


def test_a_cloze_template_holds_passage_and_question_and_nothing_else() -> None:
    assert check_cloze_template(DEFAULT_CLOZE_TEMPLATE) is DEFAULT_CLOZE_TEMPLATE
    for wrong in ["{passage}", "{passage}{question}{question}", "{passage}{question}{answer1}"]:
        with pytest.raises(ValueError, match=r"cloze template must hold .*\{passage\}, \{question"):
            check_cloze_template(wrong)


def test_a_chat_template_is_not_used_unless_asked() -> None:
    tokenizer = word_level("a")
    tokenizer.chat_template = CHAT_TEMPLATE
    (prompt,) = render_prompts([Asked()], PromptFormat(), tokenizer)
    assert "<user>" not in prompt


@pytest.mark.parametrize("add_special_tokens", [True, False])
def test_labels_after_a_bracket_are_tokens_of_their_own(
    byte_level: PreTrainedTokenizerFast, add_special_tokens: bool
) -> None:
    (prompt,) = render_prompts([Asked()], PromptFormat(), byte_level)
    ids = label_token_ids(byte_level, prompt, add_special_tokens=add_special_tokens)
    assert byte_level.convert_ids_to_tokens(list(ids)) == list(LABELS)


def test_labels_of_a_word_level_tokenizer() -> None:
    tokenizer = word_level("Answer : ( 1 2 3 4")
    assert label_token_ids(tokenizer, "Answer: (", add_special_tokens=True) == (4, 5, 6, 7)


def test_a_label_that_merges_with_the_prompts_end_is_an_error(
    byte_level: PreTrainedTokenizerFast,
) -> None:
    assert "Ġ1" in byte_level.get_vocab()
    with pytest.raises(ValueError, match="label '1' is not a single token") as caught:
        label_token_ids(byte_level, "Answer: ", add_special_tokens=True)
    assert "ends in 'Answer: '" in str(caught.value)
    assert "'Ġ1'" in str(caught.value)
    assert "change `prompt.answer_prefix`" in str(caught.value)


def test_a_label_of_two_tokens_is_an_error(byte_level: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match=r"label '10' is not a single token.*'1', '0'"):
        label_token_ids(byte_level, "Answer: (", labels=["1", "10"], add_special_tokens=True)


def test_labels_that_the_tokenizer_does_not_know_are_an_error() -> None:
    tokenizer = word_level("Answer : (")
    with pytest.raises(ValueError, match=r"labels \['1', '2', '3', '4'\] share tokens"):
        label_token_ids(tokenizer, "Answer: (", add_special_tokens=True)


def test_each_part_of_a_layout_changes_its_hash() -> None:
    layouts = [
        PromptFormat(),
        PromptFormat(template="Read. " + DEFAULT_TEMPLATE),
        PromptFormat(answer_prefix="\n("),
        PromptFormat(chat=True),
        PromptFormat(cloze_template="Read. " + DEFAULT_CLOZE_TEMPLATE),
        PromptFormat(cloze_prefix="\nA:"),
    ]
    assert len({layout.sha256 for layout in layouts}) == 6
    assert PromptFormat().sha256 == PromptFormat().sha256


def test_a_prompts_hash_is_of_its_utf8_bytes() -> None:
    assert prompt_sha256("سؤال") == hashlib.sha256("سؤال".encode()).hexdigest()
