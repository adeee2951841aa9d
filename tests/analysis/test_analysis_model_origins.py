"""Which base and which developer a model has: file, runs, catalog, and what contradicts itself."""

from __future__ import annotations

from typing import Any

import pytest

from analysis.runs.model_origins import model_origins
from xling.study import Study
from xling.tracking import LoggedRun


def study(*models: dict[str, str]) -> Study:
    languages = {"source": ("arb_Arab",), "target": ("heb_Hebr", "fra_Latn"), "branch": "Semitic"}
    content: dict[str, Any] = {"name": "s", "data": {"source": "hub"}, "languages": languages}
    return Study.model_validate(content | {"models": models or ({"id": "m"},)})


def run(model: str, number: int = 0, **params: str) -> LoggedRun:
    return LoggedRun(
        run_id=f"{model}-{number}",
        name=f"evaluate {model}",
        params={"cfg.model": model, **{f"cfg.{key}": value for key, value in params.items()}},
        metrics={},
        tags={},
        start_time=0,
        status="FINISHED",
    )


def test_a_model_of_which_nothing_is_known_is_by_itself() -> None:
    bases, developers = model_origins(study(), [run("m"), run("x"), run("x", 1)])
    assert bases == developers == {"m": "m", "x": "x"}


def test_models_of_a_study_go_by_file_and_catalog() -> None:
    models = (
        {"id": "Qwen/Qwen3-4B"}, {"id": "Qwen/Qwen3-32B"},
        {"id": "tuner/Arabic-4B", "base": "qwen3-4b"}, {"id": "y/Y-1B", "developer": "Y"},
    )  # fmt: skip
    labels = ("qwen3-4b", "qwen3-32b", "arabic-4b", "y-1b")
    bases, developers = model_origins(study(*models), [run(label) for label in labels])
    assert bases["qwen3-4b"] == bases["arabic-4b"] == "Qwen/Qwen3-4B" != bases["qwen3-32b"]
    assert developers == dict.fromkeys(labels[:3], "Qwen") | {"y-1b": "Y"}


def test_eleven_imported_models_of_five_bases_are_five_units() -> None:
    five = ["llama", "llama", "llama", "qwen", "qwen", "gemma", "gemma", "gemma", "aya", "aya"]
    runs = [run(f"tuned-{n}", base=base) for n, base in enumerate(five)]
    runs += [run("mistral")]
    # It is enough that one model of a base says who made it.
    runs[0] = run("tuned-0", base="llama", developer="Meta")
    bases, developers = model_origins(study(), runs)
    assert len(bases) == 11 and len(set(bases.values())) == 5
    assert {developers[f"tuned-{n}"] for n in range(3)} == {"Meta"}
    assert developers["tuned-9"] == "aya" and developers["mistral"] == "mistral"


def test_a_base_may_be_named_by_the_label_of_another_model() -> None:
    runs = [run("tuned", base="plain"), run("plain", base="org/Plain-7B"), run("m", base="tuned")]
    assert model_origins(study(), runs)[0]["tuned"] == "org/Plain-7B"


def test_what_was_loaded_is_not_the_base() -> None:
    runs = [run("x", base_model="org/Base"), run("x", 1, base_model="org/Tuned")]
    assert model_origins(study(), runs)[0] == {"x": "x"}


@pytest.mark.parametrize("key", ["base", "developer"])
def test_runs_that_contradict_each_other_are_both_named(key: str) -> None:
    runs = [run("x", 1, **{key: "one"}), run("x", 2), run("x", 3, **{key: "other"})]
    with pytest.raises(ValueError) as caught:
        model_origins(study(), runs)
    message = str(caught.value)
    for words in ("(x-1)", "'one'", "(x-3)", "'other'", f"`{key}` of the model"):
        assert words in message
    # What the study file says ends the contradiction.
    found = model_origins(study({"id": "x", key: "third"}), runs)
    assert found[key == "developer"] == {"x": "third"}


def test_a_base_has_one_developer() -> None:
    runs = [run("x", base="llama", developer="Meta"), run("y", base="llama", developer="Tuner")]
    with pytest.raises(ValueError, match="models x and y have the base llama, but the developers"):
        model_origins(study(), runs)
