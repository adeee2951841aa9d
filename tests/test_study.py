"""Study files: what they may say, what they make, and what a wrong one is told."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from xling import records
from xling.execution import resolve_study
from xling.languages import belebele_codes
from xling.models.catalog import catalog
from xling.study import Study, developer_of
from xling.study.load import load_study, parse_study, study_names
from xling.study.settings import ARMS, REASONING, SCORING, ModelSettings

SMALL: dict[str, Any] = {
    "name": "small",
    "models": ["gemma3-270m", {"id": "some/Other-1B", "chat": True, "training_items": 8}],
    "data": {"source": "mini"},
    "languages": {
        "source": ["arb_Arab", "arz_Arab"],
        "target": ["heb_Hebr", "arz_Arab", "fra_Latn"],
        "branch": "Semitic",
    },
    "seeds": [3, 4],
}
ABSENT = object()


def changed(path: str, value: object) -> str:
    """The small study as YAML, with one key changed or, with `ABSENT`, removed."""
    content = copy.deepcopy(SMALL)
    *above, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    section: Any = content
    for part in above:
        section = section.setdefault(part, {}) if isinstance(section, dict) else section[part]
    if value is ABSENT:
        del section[last]
    else:
        section[last] = value
    return yaml.safe_dump(content)


def problems(path: str, value: object) -> list[str]:
    """The lines of the message about a change, without its heading."""
    with pytest.raises(ValueError, match="is not a valid study") as caught:
        parse_study(changed(path, value), where="small.yaml")
    heading, *lines = str(caught.value).splitlines()
    assert heading == "small.yaml is not a valid study:"
    return [line.strip() for line in lines]


@pytest.fixture
def small() -> Study:
    return parse_study(yaml.safe_dump(SMALL), where="small.yaml")


@pytest.mark.parametrize("name", study_names())
def test_every_shipped_study_loads(name: str) -> None:
    study = load_study(name)
    assert study.name == study.origin == name
    assert study.cells()
    assert set(study.languages.families) == set(study.languages.evaluated)


@pytest.mark.parametrize("name", study_names())
def test_a_written_study_reads_back_as_the_same(name: str) -> None:
    study = load_study(name)
    assert parse_study(study.to_yaml(), where=study.origin) == study


def test_a_written_small_study_reads_back_as_the_same(small: Study) -> None:
    text = small.to_yaml()
    assert parse_study(text, where="small.yaml") == small
    assert "learning_rate: 0.0002" in text  # defaults are written out
    assert "origin" not in text


def test_a_study_file_is_read_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL), encoding="utf-8")
    assert load_study(str(path)).origin == str(path)


@pytest.mark.parametrize("study", ["dmo", "nothing-like-it", "", "missing.yaml", "xling/studies"])
def test_an_unknown_study_lists_the_valid_ones(study: str) -> None:
    with pytest.raises(ValueError, match="unknown study") as caught:
        load_study(study)
    assert repr(study) in str(caught.value)
    assert f"Valid: {', '.join(study_names())}, or the path of a .yaml file" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name: [", "is not YAML"),
        (b"- a\n- b\n", "holds no settings; see xling/studies/demo.yaml"),
        (b"", "holds no settings"),
        (b"name: \xff\xfe", "is not UTF-8 text"),
    ],
)
def test_a_file_that_is_no_study_is_an_error(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "odd.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_study(str(path))
    assert str(path) in str(caught.value)


def with_primed(**changes: object) -> dict[str, Any]:
    """A study of a model and of the same, primed."""
    primed = {"languages": ["eng_Latn"], "steps": 48, **changes}
    model = SMALL["models"][0]
    twin = model if isinstance(model, dict) else {"id": model}
    return SMALL | {"models": [model, {**twin, "name": "other", "primed": primed}]}


PRIMED = with_primed()["models"]


def test_a_primed_model_has_its_own_name_and_finds_its_twin() -> None:
    content = with_primed(labels=True)
    del content["models"][1]["name"]
    study = parse_study(yaml.safe_dump(content), where="small.yaml")
    twin, model = study.models
    assert model.label == f"{twin.label}-primed"
    assert study.unprimed(model) == twin and study.unprimed(twin) == twin
    assert model.primed is not None and model.primed.labels == "true"
    assert "eng_Latn" in study.loaded_languages
    assert study.primer_cell(model).adapter_name == f"{model.label}/primer/seed-3"
    assert parse_study(study.to_yaml(), where="small.yaml") == study


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (with_primed(languages=["mlt_Latn"]), "primed.languages mlt_Latn is related to the source"),
        (with_primed(languages=["arb_Arab"]), "primed.languages arb_Arab is a source language"),
        (with_primed(languages=["eng_Ltan"]), "eng_Ltan"),
        (with_primed(languages=["eng_Latn", "eng_Latn"]), "repeated: eng_Latn"),
        (with_primed(labels="wrong"), "primed.labels"),
        (
            with_primed(steps=8) | {"training": {"warmup_steps": 8}},
            "primed.steps 8 end within the warm-up of 8",
        ),
        (
            with_primed() | {"data": {"source": "mini", "split": "cross-fit"}},
            "does not go with split cross-fit",
        ),
        (
            with_primed() | {"models": with_primed()["models"][1:]},
            "the study lacks the same model without it",
        ),
        (
            with_primed()
            | {"models": [{"id": PRIMED[0], "chat": True, "quantise": "none"}, PRIMED[1]]},
            f"model {PRIMED[0]} has another chat, quantise; give both the same",
        ),
        (with_primed(steps=10**9), "primed.steps: Input should be less than or equal to 100000"),
        (with_primed(step=9), "primed.step: unknown key; valid: languages, steps, items, labels"),
        (
            SMALL | {"models": [{**PRIMED[1], "primed": {}}]},
            "models.0.primed.languages: missing\n  models.0.primed.steps: missing",
        ),
        (
            SMALL | {"models": [{**PRIMED[1], "primed": [1]}]},
            "models.0.primed: must hold keys of languages, steps, items, labels",
        ),
    ],
)
def test_a_primer_that_cannot_be_is_refused(content: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_study(yaml.safe_dump(content), where="small.yaml")


MODEL_KEYS = (
    "id, name, revision, chat, lora_modules, quantise, engine, server, processes, parallel, "
    "training_items, base, developer, primed"
)


@pytest.mark.parametrize(
    ("path", "value", "line"),
    [
        # unknown keys
        ("modles", [], "modles: unknown key; valid: name, description, models, data, languages, "),
        ("models.1.chta", True, f"models.1.chta: unknown key; valid: {MODEL_KEYS}"),
        ("lora.rank", 8, "lora.rank: unknown key; valid: r, alpha, dropout"),
        ("scoring.batch", 8, "scoring.batch: unknown key; valid: batch_tokens"),
        # missing keys
        ("name", ABSENT, "name: missing"),
        ("models.1.id", ABSENT, "models.1.id: missing"),
        ("languages.branch", ABSENT, "languages.branch: missing"),
        ("data.source", ABSENT, "data.source: missing; valid: 'hub', 'folder', 'mini'"),
        # wrong types
        ("name", "a b", "name: String should match pattern '^[A-Za-z0-9_-]+$' (got 'a b')"),
        ("name", 7, "name: Input should be a valid string (got 7)"),
        ("models", "gemma3-270m", "models: must be a list, such as [a, b] (got 'gemma3-270m')"),
        ("models", [], "models: must not be empty"),
        ("models.0", 3, f"models.0: must hold keys of {MODEL_KEYS} (got 3)"),
        ("models.1.chat", "yes", "models.1.chat: Input should be a valid boolean (got 'yes')"),
        ("models.1.quantise", "int8", "models.1.quantise: Input should be 'nf4' or 'none' (got "),
        ("models.1.training_items", -1, "models.1.training_items: Input should be greater than "),
        ("models.1.training_items", "8", "models.1.training_items: Input should be a valid integ"),
        ("lora", None, "lora: must hold keys of r, alpha, dropout (got None)"),
        ("lora.dropout", 1, "lora.dropout: Input should be less than 1 (got 1"),
        ("training.epochs", 1.5, "training.epochs: Input should be a valid integer"),
        ("training.epochs", True, "training.epochs: Input should be a valid integer (got True)"),
        ("training.learning_rate", "5e-4", "training.learning_rate: must be a number; YAML takes "),
        ("training.learning_rate", float("inf"), "training.learning_rate: Input should be a fini"),
        ("training.micro_batch_size", 3, "training: micro_batch_size 3 does not divide batch_size"),
        ("data.held_out", 0, "data.held_out: Input should be greater than or equal to 1 (got 0)"),
        ("data.difficulties", [1, 4], "data.difficulties.1: Input should be less than or equal "),
        ("data.source", "belebele", "data.source: Input should be 'hub', 'folder' or 'mini' (got"),
        ("data.source", "folder", "data: data.path is needed when data.source is 'folder'"),
        ("seeds", [-1], "seeds.0: Input should be greater than or equal to 0 (got -1)"),
        ("seeds", 0, "seeds: must be a list, such as [a, b] (got 0)"),
        ("seeds", [1, 1], "study: seeds repeats a value: 1, 1"),
        # models
        ("models.1.id", "gemma3-270m", "study: models share the name gemma3-270m; give each a "),
        # languages
        ("languages.source", ["arb_Arb"], "languages.source: unknown language code 'arb_Arb'. Cl"),
        ("languages.source", [], "languages.source: must not be empty"),
        ("languages.source", "arb_Arab", "languages.source: must be a list, such as [a, b] (got"),
        ("languages.source", ["arb_Arab"] * 2, "languages.source: repeated: arb_Arab"),
        ("languages.target", ["xxx_Latn"], "languages.target: unknown language code 'xxx_Latn'."),
        ("languages.target", "every", "languages.target: must be 'all' or a list of language "),
        ("languages.target", ["heb_Hebr", 1], "languages.target: must be 'all' or a list of lan"),
        ("languages.branch", "Turkic", "languages: branch: the source language arb_Arab (Standar"),
        # arms
        (
            "arms",
            ["base", "tuned"],
            "arms.1: Input should be 'base', 'finetuned', 'control-source' or 'shuffled-labels'",
        ),
        (
            "models.1.server",
            "http://me:secret@host/v1",
            "models.1.server: must hold keys of url, model, adapter, key_variable",
        ),
        (
            "models.1.server",
            {"url": "http://host/v1", "adress": "http://me:secret@host"},
            "models.1.server.adress: unknown key; valid: url, model, adapter, key_variable",
        ),
        ("arms", ["finetuned"], "study: arms must hold 'base': every gain is measured from it"),
        ("arms", ["base", "base"], "study: arms repeats a value: base, base"),
        ("reasoning", ["think"], "reasoning.0: Input should be 'direct'"),
        ("scoring_modes", ["guess"], "scoring_modes.0: Input should be 'answer-token'"),
        # analysis
        ("models.1.base", " x", "models.1.base: must be a name on one line, without spaces"),
        ("models.1.developer", "a\nb", "models.1.developer: must be a name on one line"),
        ("data.n_options", 1, "data.n_options: Input should be greater than or equal to 2"),
        ("data.n_options", 27, "data.n_options: Input should be less than or equal to 26"),
        ("data.n_options", "2", "data.n_options: Input should be a valid integer (got '2')"),
        ("analysis.bond", 0.1, "analysis.bond: unknown key; valid: bound, arm, scale, branch, sp"),
        ("analysis.bound", 0, "analysis.bound: Input should be greater than 0 (got 0)"),
        ("analysis.bound", 1, "analysis.bound: Input should be less than 1 (got 1)"),
        ("analysis.arm", "base", "analysis.arm: Input should be 'finetuned' (got 'base')"),
        ("analysis.scale", "logits", "analysis.scale: Input should be 'points' or 'logit'"),
        ("analysis.split", 50, "analysis.split: must be 'median' or an accuracy between 0 and 1"),
        ("analysis.split", True, "analysis.split: must be 'median' or an accuracy between 0 and"),
        ("analysis.branch", "Turkic", "study: analysis.branch: branch: the source language arb_A"),
        # prompt
        ("prompt.template", "{passage}", "prompt.template: prompt template must hold each of {pas"),
    ],
)
def test_a_wrong_setting_gets_one_line_that_names_it(path: str, value: object, line: str) -> None:
    told = problems(path, value)
    assert len(told) == 1
    assert told[0].startswith(line)
    assert "secret" not in told[0]


def test_an_unknown_arm_lists_the_valid_ones() -> None:
    assert all(arm in problems("arms", ["base", "tuned"])[0] for arm in ARMS)


def test_an_unknown_branch_lists_the_branches_of_the_source() -> None:
    (line,) = problems("languages.branch", "Turkic")
    assert "'Turkic'" in line
    assert "Semitic (semi1276), Afro-Asiatic (afro1255)" in line


def test_two_problems_get_two_lines() -> None:
    content = yaml.safe_load(changed("arms", ["finetuned", "tuned"]))
    content["lora"] = {"r": 0}
    with pytest.raises(ValueError, match=r"arms\.1: .*\n  lora\.r: "):
        parse_study(yaml.safe_dump(content), where="small.yaml")


def test_evaluated_languages_are_the_sources_then_the_other_targets(small: Study) -> None:
    assert small.languages.evaluated == ("arb_Arab", "arz_Arab", "heb_Hebr", "fra_Latn")
    assert small.languages.families == {
        "arb_Arab": "source",
        "arz_Arab": "source",
        "heb_Hebr": "related",
        "fra_Latn": "control",
    }


def test_all_targets_are_every_belebele_language() -> None:
    study = parse_study(changed("languages.target", "all"), where="small.yaml")
    assert len(study.languages.evaluated) == 122
    assert set(study.languages.evaluated) == set(belebele_codes())
    assert parse_study(study.to_yaml(), where="small.yaml") == study


def test_cells_are_by_model_with_one_base_and_a_cell_for_each_seed(small: Study) -> None:
    assert [cell.name for cell in small.cells()] == [
        "gemma3-270m/base/seed-3",
        "gemma3-270m/finetuned/seed-3",
        "gemma3-270m/finetuned/seed-4",
        "other-1b/base/seed-3",
        "other-1b/finetuned/seed-3",
        "other-1b/finetuned/seed-4",
    ]


def extended(**changes: Any) -> Study:
    """The small study with every arm, reasoning and scoring."""
    content = copy.deepcopy(SMALL) | {
        "arms": ["base", "finetuned", "control-source", "shuffled-labels"],
        "reasoning": ["direct", "cot"],
        "scoring_modes": ["cloze", "answer-token", "permuted"],
        "models": ["gemma3-270m"],
        "seeds": [0],
    }
    content["languages"]["control_source"] = ["fra_Latn", "jpn_Jpan"]
    return parse_study(yaml.safe_dump(content | changes), where="extended.yaml")


def test_reasoning_is_for_the_arms_that_are_named_and_is_followed_by_a_label() -> None:
    names = [cell.name for cell in extended().cells()]
    assert names[:4] == [
        "gemma3-270m/base/seed-0",
        "gemma3-270m/base/seed-0/permuted",
        "gemma3-270m/base/seed-0/cloze",
        "gemma3-270m/base/seed-0/cot",
    ]
    assert len(names) == len(set(names)) == 13
    asked = extended(chain_of_thought={"arms": ["base", "finetuned"]}).cells()
    assert [cell.arm for cell in asked if cell.reasoning == "cot"] == ["base", "finetuned"]
    assert {cell.adapter_name for cell in asked if cell.arm == "finetuned"} == {
        "gemma3-270m/finetuned/seed-0"
    }


def test_words_are_those_of_the_records() -> None:
    assert (ARMS, REASONING, SCORING) == (records.ARMS, records.REASONINGS, records.SCORINGS)


def test_a_control_source_is_loaded_even_where_it_is_no_target() -> None:
    languages = extended().languages
    assert "jpn_Jpan" in languages.loaded and "jpn_Jpan" not in languages.evaluated
    assert parse_study(extended().to_yaml(), where="extended.yaml") == extended()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"arms": ["base", "finetuned"]}, "languages.control_source is set, but arms lacks"),
        (
            {"languages": SMALL["languages"]},
            "arm control-source needs languages.control_source",
        ),
        (
            {"languages": SMALL["languages"] | {"control_source": ["heb_Hebr"]}},
            "control_source heb_Hebr is related to the source",
        ),
        (
            {"languages": SMALL["languages"] | {"control_source": ["arb_Arab"]}},
            "control_source arb_Arab is a source language",
        ),
        (
            {"languages": SMALL["languages"] | {"control_source": ["fra_Latn", "fra_Latn"]}},
            "repeated: fra_Latn",
        ),
        ({"scoring_modes": ["cloze"]}, "reasoning cot needs scoring mode 'answer-token'"),
        (
            {"arms": ["base", "control-source"], "chain_of_thought": {"arms": ["finetuned"]}},
            "chain_of_thought.arms names finetuned, which arms lacks",
        ),
        ({"reasoning": ["cot"]}, "nothing would be run for finetuned, control-source, shuffled-"),
        ({"prompt": {"cloze_prefix": "Answer: "}}, "prompt.cloze_prefix: must hold text"),
        ({"prompt": {"cloze_prefix": ""}}, "prompt.cloze_prefix: must hold text"),
        ({"chain_of_thought": {"instruction": " "}}, "chain_of_thought.instruction: must not be"),
        ({"chain_of_thought": {"max_tokens": 0}}, "chain_of_thought.max_tokens"),
        ({"chain_of_thought": {"top_p": 0.0}}, "chain_of_thought.top_p"),
        ({"scoring": {"orders": "some"}}, "scoring.orders: Input should be 'cyclic' or 'all'"),
        ({"prompt": {"cloze_template": "{passage}"}}, "cloze template must hold each of"),
        (
            {"data": {"source": "mini", "split": "cross-fit", "baseline_items": 5}},
            "baseline_items must be 0 with split cross-fit",
        ),
        ({"data": {"source": "mini", "split": "cross-fit", "folds": 1}}, "data.folds"),
    ],
)
def test_arms_that_do_not_fit_are_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match="is not a valid study") as caught:
        extended(**changes)
    assert told in str(caught.value)


def test_the_order_of_arms_in_the_file_does_not_matter(small: Study) -> None:
    turned = parse_study(changed("arms", ["finetuned", "base"]), where="small.yaml")
    assert turned.cells() == small.cells()


def test_a_study_of_the_base_arm_has_one_cell_a_model() -> None:
    study = parse_study(changed("arms", ["base"]), where="small.yaml")
    assert [cell.arm for cell in study.cells()] == ["base", "base"]


@pytest.mark.parametrize(
    ("settings", "label"),
    [
        ({"id": "gemma3-270m"}, "gemma3-270m"),
        ({"id": "some/Other-1B"}, "other-1b"),
        ({"id": "/models/Mine/"}, "mine"),
        ({"id": "some/Other-1B", "name": "Mine"}, "Mine"),
    ],
)
def test_a_models_label(settings: dict[str, str], label: str) -> None:
    assert ModelSettings(**settings).label == label


def test_find_model(small: Study) -> None:
    first, second = small.models
    assert small.find_model("") is first
    assert small.find_model("gemma3-270m") is first
    assert small.find_model("some/Other-1B") is second
    assert small.find_model("other-1b") is second


@pytest.mark.parametrize("find", [Study.find_model, lambda study, name: study.only_models([name])])
def test_an_unknown_model_lists_the_valid_ones(
    small: Study, find: Callable[[Study, str], object]
) -> None:
    with pytest.raises(ValueError, match=r"'small' has no model 'gpt'; valid: gemma3-270m, other"):
        find(small, "gpt")


def test_only_models_keeps_the_order_of_the_study(small: Study) -> None:
    assert small.only_models(["other-1b"]).models == small.models[1:]
    assert small.only_models(["other-1b", "gemma3-270m"]) == small


def test_a_folder_takes_the_place_of_the_data(small: Study) -> None:
    assert small.with_folder("") is small
    moved = small.with_folder("some/folder")
    assert (moved.data.source, moved.data.path) == ("folder", "some/folder")
    assert moved.languages == small.languages


@pytest.mark.parametrize(
    ("data", "limit", "name"),
    [
        ("", 0, "small"),
        ("", 60, "small-limit-60"),
        ("some/folder/", 0, "small-folder"),
        ("../my data (v1.2)", 0, "small-my-data--v1-2-"),
        ("some/folder", 60, "small-folder-limit-60"),
        ("/", 0, "small-data"),
    ],
)
def test_other_questions_make_another_name(small: Study, data: str, limit: int, name: str) -> None:
    resolved = resolve_study(small, data=data, limit=limit)
    assert resolved.name == name
    assert resolved.data.path == data
    assert resolved.origin == small.origin
    assert parse_study(resolved.to_yaml(), where=resolved.origin) == resolved


def test_a_section_analysis_that_does_not_fit_its_study_is_refused() -> None:
    content = copy.deepcopy(SMALL) | {"analysis": {}, "arms": ["base"]}
    with pytest.raises(ValueError, match="analysis.arm is finetuned, which arms lacks"):
        parse_study(yaml.safe_dump(content), where="small.yaml")
    content = copy.deepcopy(SMALL) | {"arms": ["base", "finetuned", "control-source"]}
    content["languages"] |= {"control_source": ["hau_Latn", "fra_Latn"]}
    content["analysis"] = {"branch": "Afro-Asiatic"}  # Hausa is outside Semitic, but not this
    with pytest.raises(ValueError, match="analysis.branch Afro-Asiatic holds hau_Latn of lang"):
        parse_study(yaml.safe_dump(content), where="small.yaml")


def test_without_a_section_analysis_there_are_its_defaults_and_nothing_is_registered(
    small: Study,
) -> None:
    assert small.analysis is None and small.analysis_tags == {}
    planned = small.planned_analysis
    assert (planned.bound, planned.scale, planned.split) == (0.05, "points", "median")
    assert planned.branch == "Semitic"  # of `languages`
    assert parse_study(small.to_yaml(), where="again").analysis is None


def test_the_hash_of_an_analysis_is_of_what_it_settles() -> None:
    def hashed(languages: str = "Semitic", **section: object) -> str:
        content = copy.deepcopy(SMALL) | {"analysis": section}
        content["languages"]["branch"] = languages
        study = parse_study(yaml.safe_dump(content), where="small.yaml")
        assert parse_study(study.to_yaml(), where="again").analysis_sha256 == study.analysis_sha256
        return study.analysis_tags["analysis_hash"]

    first = hashed()
    assert len(first) == 64
    assert first == hashed(bound=0.05, split="median") == hashed(branch="Semitic")
    others = [
        hashed(bound=0.1), hashed(scale="logit"), hashed(split=0.5), hashed(branch="West Semitic"),
        hashed(languages="West Semitic"),
    ]  # fmt: skip
    assert len({first, *others}) == 5  # a branch is the same wherever it is named
    assert others[3] == others[4]


def test_models_have_a_base_and_the_catalog_a_developer_for_each() -> None:
    content = copy.deepcopy(SMALL)
    content["models"] += [
        {"id": "tuner/Arabic-1B", "base": "some/Other-1B"},
        {"id": "tuner/Small", "base": "gemma3-270m"},
        {"id": "tuner/Other", "base": "other-1b"},
    ]
    assert parse_study(yaml.safe_dump(content), where="small.yaml").bases == {
        "gemma3-270m": "gemma3-270m",
        "other-1b": "some/Other-1B",
        "arabic-1b": "some/Other-1B",
        "small": "gemma3-270m",
        "other": "some/Other-1B",  # named by its label
    }
    assert all(recipe.developer for recipe in catalog().values())
    assert developer_of("Qwen/Qwen3-4B") == developer_of("Qwen/Qwen3-32B") == "Qwen"
    assert developer_of("gemma3-270m") == developer_of("google/gemma-3-4b-pt") == "Google"
    assert developer_of("some/Other-1B") == developer_of("") == ""
