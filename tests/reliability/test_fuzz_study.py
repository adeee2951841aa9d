"""Study files, damaged: read as what they say, or refused with the key or the line."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.reliability.fuzzing import TEXTS, any_value, damaged, refused, sweep, write
from xling.languages import belebele_codes
from xling.prompts import fill_template
from xling.study import LONGEST_STUDY_NAME, Study
from xling.study.load import MOST_PROBLEMS, load_study, parse_study, study_names
from xling.study.settings import LONGEST_NAME

TEXT = {name: load_study(name).to_yaml() for name in study_names()}


def small(name: str) -> dict[str, Any]:
    """A study with every key, and few models and languages, as parsing takes its time."""
    content = yaml.safe_load(TEXT[name])
    content["models"] = content["models"][:1]
    if isinstance(content["languages"]["target"], list):
        content["languages"]["target"] = content["languages"]["target"][:2]
    content["languages"]["source"] = content["languages"]["source"][:2]
    return content


SMALL = {name: json.dumps(small(name)) for name in TEXT}
# A heading, the problems, and how many more there are.
LINES = MOST_PROBLEMS + 2
SERVER = """\
id: Qwen/Qwen3-4B
engine: server
server: {url: "http://localhost:8000/v1", timeout: 10.0, adapter: "{study}-{model}"}
"""


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to every key and place of a value but itself."""
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in entries:
        yield (*path, key)
        if isinstance(inner, dict | list):
            yield from places(inner, (*path, key))


def check_study(study: Study) -> None:
    """An accepted study can be written, read again, split into cells and put into prompts."""
    text = study.to_yaml()
    assert parse_study(text, where=study.origin) == study
    assert text.encode() and "\0" not in json.dumps(study.model_dump(mode="json"))
    assert len({cell.name for cell in study.cells()}) == len(study.cells()) > 0
    assert set(study.languages.evaluated) <= set(belebele_codes())
    for model in study.models:
        assert (
            0 < len(model.label) <= LONGEST_NAME
            and model.label.strip(".")
            and model.label.isprintable()
        )
    assert 0 < len(study.name) <= LONGEST_STUDY_NAME
    assert study.training.learning_rate < float("inf")
    for section in study.model_dump(mode="json").values():
        for value in section.values() if isinstance(section, dict) else ():
            assert not isinstance(value, int) or abs(value) < 2**63
    filled = fill_template(_Question(), study.prompt.template)
    assert all(word in filled for word in ("PASSAGE", "QUESTION", "ONE", "TWO", "THREE", "FOUR"))


class _Question:
    flores_passage = "PASSAGE"
    question = "QUESTION"
    answers = ("ONE", "TWO", "THREE", "FOUR")


def tried(text: str, where: str = "mine.yaml") -> str:
    begin = time.process_time()
    try:
        study = parse_study(text, where=where)
    except Exception as error:
        assert time.process_time() - begin < 20
        return refused(error, told=[where], lines=LINES)
    check_study(study)
    return "accepted"


def test_a_changed_value_is_taken_as_it_stands_or_refused() -> None:
    def check(rng: random.Random) -> str:
        content = json.loads(SMALL[rng.choice(sorted(SMALL))])
        if rng.random() < 0.2:
            content["models"].append(yaml.safe_load(SERVER))
        *path, last = rng.choice(list(places(content)))
        inner = content
        for key in path:
            inner = inner[key]
        match rng.randrange(8):
            case 0:
                del inner[last]
            case 1 if isinstance(inner, dict):
                inner[rng.choice((f"{last}x", "", "\ud800", "a\nb", "x" * 9999))] = inner.pop(last)
            case 2:
                inner[last] = [inner[last], any_value(rng)]
            case 3:
                inner[last] = {str(last): inner[last]}
            case _:
                inner[last] = any_value(rng)
        return tried(json.dumps(content))

    found = sweep("study-value", 1000, check)
    assert found["accepted"] and found["refused"]


def test_damaged_files_are_taken_as_they_stand_or_refused(tmp_path: Path) -> None:
    def check(rng: random.Random) -> str:
        text = yaml.safe_dump(json.loads(SMALL["demo"]), sort_keys=False)
        path = write(tmp_path / "damaged.yaml", damaged(rng, text.encode()))
        try:
            study = load_study(str(path))
        except Exception as error:
            return refused(error, told=[str(path)], lines=LINES)
        check_study(study)
        return "accepted"

    found = sweep("study-bytes", 500, check)
    assert found["accepted"] and found["refused"]


def test_a_line_of_yaml_in_the_wrong_place_is_refused_or_harmless() -> None:
    lines = (
        "lora: &a {r: 8}",
        "training: *a",
        "<<: {seeds: [3]}",
        "? [a, b]",
        "3: 4",
        "null: 1",
        "seeds: !!int x",
        "seeds: !!timestamp 2020-01-01",
        "description: 2020-99-99",
        "description: !!python/name:os.system",
        "description: !!binary gA==",
        "seeds: !!set {1, 2}",
        "seeds: [0b_, 0x_]",
        "seeds: [1:99:99]",
        "%YAML 9.9",
        "---",
        "...",
        "\t- a",
        'description: "\\x00\\ud800"',
        f"seeds: [{'9' * 5000}]",
        f"seeds: [0x{'f' * 5000}]",
        "lora: {r: 1e400}",
        "lora: {dropout: .nan}",
        "seeds: &b [*b]",
        *(f"description: {json.dumps(text)[:200]}" for text in TEXTS[:13]),
    )

    def check(rng: random.Random) -> str:
        text = yaml.safe_dump(json.loads(SMALL["demo"]), sort_keys=False).splitlines()
        for _ in range(rng.choice((1, 1, 2))):
            place = rng.randrange(len(text) + 1)
            text.insert(place, " " * rng.choice((0, 0, 2)) + rng.choice(lines))
        return tried("\n".join(text))

    sweep("study-line", 700, check)


BOMB = "\n".join(
    ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))]
)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (BOMB, "more than"),
        ("a: &a [*a]", "line 1: it holds itself"),
        ("a: &a {b: *a}", "line 1: it holds itself"),
        ("[" * 5000, "nested"),
        ("a: " + "[" * 400 + "]" * 400, "nested"),
        ("name: a\nname: b", "line 2: the key 'name' appears twice"),
        ("lora: {r: 1, r: 2}", "line 1: the key 'r' appears twice"),
        ("name: !!python/object/apply:os.system ['touch /tmp/never']", "line 1"),
        ("name: !!python/name:os.system ''", "line 1"),
        ("name: !mine x", "line 1"),
        ("seeds: [!!int x]", "line 1"),
        ("seeds: [!!bool x]", "line 1"),
        ("seeds: [!!int '']", "line 1"),
        ("description: 2020-99-99", "line 1"),
        ("description: 2020-01-01", "line 1"),
        (f"a: {'9' * 5000}", "line 1"),
        ("seeds: [1, 010]", "line 1: versions of YAML read '010' differently"),
        ("name: a\nseeds: [1:30]", "line 2: versions of YAML read '1:30' differently"),
        ("seeds: [1_000]", "line 1: versions of YAML read '1_000' differently"),
        ("%YAML 1.1\n---\nseeds: [0b11]", "line 3: versions of YAML read '0b11' differently"),
        ("quantise: yes", "line 1: versions of YAML read 'yes' differently"),
        ("3: 4", "line 1: the key 3 is not text"),
        ("? [a]\n: b", "line 1"),
        ('description: "a\\0b"', "line 1: a null character"),
        ('description: "\\ud800"', "line 1: half a surrogate pair"),
        ("name: a\x01", "not YAML"),
        ("x" * 2_000_000, "at most"),
        ("a: b\n---\nc: d", "line 2"),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_yaml_that_does_more_than_say_settings_is_refused(text: str, told: str) -> None:
    begin = time.process_time()
    with pytest.raises(ValueError) as caught:
        parse_study(text, where="mine.yaml")
    assert time.process_time() - begin < 10
    refused(caught.value, told=["mine.yaml", told])


def test_aliases_and_merges_say_what_they_repeat() -> None:
    text = TEXT["demo"].replace("lora:\n", "lora: &l\n") + "\n"
    settings = yaml.safe_load(text)
    settings["languages"] = {"source": ["arb_Arab"], "target": ["heb_Hebr"], "branch": "Semitic"}
    same = yaml.safe_dump(settings).replace("lora:\n", "lora:\n  <<: {dropout: 0.25}\n")
    without = same.replace("  dropout: 0.0\n", "", 1)
    assert parse_study(without, where="mine").lora.dropout == 0.25
    assert parse_study(same, where="mine").lora.dropout == 0.0


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("models.0.lora_modules", "(", "models.0.lora_modules: is not a regular expression"),
        ("models.0.name", "..", "models.0"),
        ("models.0.name", "a" * 101, "models.0: id 'gemma3-270m' makes the name 'aaa"),
        ("name", "a" * 151, "name"),
        ("lora.r", 10**12, "lora.r"),
        ("training.learning_rate", 10**400, "training.learning_rate"),
        ("data.held_out", 2**63, "data.held_out"),
        ("data.path", "a\0b", "null"),
        ("languages.target", ["x" * 5000], "languages.target"),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_a_value_that_would_fail_later_is_refused(path: str, value: Any, told: str) -> None:
    content = yaml.safe_load(TEXT["demo"])
    *outer, last = path.split(".")
    inner = content
    for key in outer:
        inner = inner[int(key) if key.isdigit() else key]
    inner[last] = value
    with pytest.raises(ValueError) as caught:
        parse_study(json.dumps(content), where="mine.yaml")
    refused(caught.value, told=["mine.yaml", told], lines=LINES)


def test_a_hundred_wrong_keys_are_told_by_the_first_ones() -> None:
    content = yaml.safe_load(TEXT["demo"]) | {f"wrong{number}": 1 for number in range(100)}
    with pytest.raises(ValueError, match=f"{100 - MOST_PROBLEMS} more problems") as caught:
        parse_study(json.dumps(content), where="mine.yaml")
    refused(caught.value, lines=LINES)


def test_a_name_that_no_file_can_have_is_no_traceback() -> None:
    for name in ("x" * 5000 + ".yaml", "a\0b.yaml", "\ud800.yaml", "..", "/", "\n"):
        with pytest.raises(ValueError, match="unknown study") as caught:
            load_study(name)
        refused(caught.value)
