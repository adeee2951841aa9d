"""Results are found again by what the code means: a lock on it, and versions raised by hand."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.result_code import (
    DATA,
    INSTRUMENTS,
    LOCK,
    PACKAGES,
    ROOT,
    ROOTS,
    WINGS,
    Change,
    differences,
    import_graph,
    reached,
    result_code,
    source_of,
)
from xling.execution import StudyData, prepare_study
from xling.execution.cell_run import CellJob
from xling.execution.evaluate.run_evaluate import evaluate_fingerprint
from xling.execution.finetune.run_finetune import finetune_fingerprint
from xling.files.fingerprint import fingerprint
from xling.files.result_versions import REASONS, result_versions
from xling.models import ModelFiles, locate_model
from xling.study import Cell, Study

Asked = tuple[StudyData, Cell, ModelFiles]
Cells = dict[str, Asked]

KEPT = json.loads(LOCK.read_text(encoding="utf-8"))
SAY = """
import json
from tests.result_code import result_code
from xling.files.fingerprint import fingerprint
print(json.dumps([result_code(), fingerprint({"seed": 0}, stages=("prepare", "score"))]))
"""


def failing(change: Change) -> set[str]:
    """Stages that the check names after a change of the code."""
    said = differences(KEPT, result_code(change))
    found = {re.match(r"stage (\S+)'s code changed: ", text)[1] for text in said}  # type: ignore[index]
    assert len(found) == len(said)
    return found


def replaced(module: str, before: str, after: str) -> Change:
    """A change of one module's text."""
    assert before in source_of(module)

    def change(name: str, source: str) -> str:
        return source.replace(before, after) if name == module else source

    return change


# The lock


def test_the_code_is_that_of_the_lock() -> None:
    said = differences(KEPT, result_code())
    assert not said, "\n".join(said)


def test_the_message_names_the_stage_and_what_to_do() -> None:
    change = replaced(
        "xling.execution.evaluate.by_language", "SAMPLE_PROMPTS = 2\n", "SAMPLE_PROMPTS = 3\n"
    )
    assert differences(KEPT, result_code(change)) == [
        "stage score's code changed: raise its version in xling/files/result_versions.py if "
        "results change, then `make lock`"
    ]
    assert differences({}, {"new": "0"}) and differences({"gone": "0"}, {})


@pytest.mark.parametrize(
    ("module", "before", "after", "stages"),
    [
        ("xling.scoring.batch_runner", "LONGEST_ROW = 4096", "LONGEST_ROW = 4095", "train score"),
        ("xling.planning.memory", "OPTIMISER_BYTES = 16", "OPTIMISER_BYTES = 8", "train score"),
        (
            "xling.execution.evaluate.by_language",
            "MOST_PROMPTS = 20_000",
            "MOST_PROMPTS = 1",
            "score",
        ),
        ("xling.training.step", "class Step", "class Stride", "train"),
        ("xling.data.training_rows", "SHUFFLES = 200", "SHUFFLES = 1", "prepare train score"),
        ("xling.scoring.reasoning", '"</think>"', '"</thought>"', "chain-of-thought"),
        ("xling.scoring.option_orders", "OPTIONS = 4", "OPTIONS = 5", "permuted"),
        ("xling.scoring.answer_spans", 'DELIMITER = " "', 'DELIMITER = ""', "cloze"),
        ("xling.routing.table", "_SHARE_SLACK = 1e-9", "_SHARE_SLACK = 1", "routing"),
        ("xling.scoring.server.responses", "SAME = 0.25", "SAME = 0.5", "server"),
        ("analysis.simulation.sheets", "0.9, 3.5, 0.5", "0.9, 3.5, 0.6", "simulate"),
        ("xling.tracking.runs", "def ", "def other_", ""),
    ],
)
def test_another_constant_is_another_stage(module, before, after, stages) -> None:
    assert failing(replaced(module, before, after)) == set(stages.split())


def test_embedded_data_counts(tmp_path: Path) -> None:
    copy = copied(tmp_path)
    (file,) = copy.rglob("patterns.yaml")
    text = file.read_text(encoding="utf-8")
    file.write_text(f"# a comment\n{text}", encoding="utf-8")
    assert told(copy)[0] == KEPT
    file.write_text(f"{text}\nmore: 1\n", encoding="utf-8")
    now = told(copy)[0]
    assert {stage for stage in KEPT if now[stage] != KEPT[stage]} == {"prepare"}


# What a stage reaches


def test_every_stage_has_a_version_roots_and_a_hash() -> None:
    assert set(ROOTS) == set(REASONS) == set(KEPT)
    assert set(DATA) <= set(ROOTS) and set(INSTRUMENTS) <= set(ROOTS)
    modules = import_graph().modules
    for name in (*WINGS, *(root for roots in ROOTS.values() for root in roots)):
        assert name in modules, f"tests/result_code.py: no module {name}"


def test_the_graph_has_every_module() -> None:
    files = {
        (path.parent if path.stem == "__init__" else path.with_suffix("")).relative_to(ROOT)
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }
    assert {".".join(file.parts) for file in files} == import_graph().modules


def test_training_and_scoring_keep_apart_where_they_can() -> None:
    train, score = reached("train"), reached("score")
    assert {"xling.training.loop", "xling.training.step", "xling.training.train"} <= train - score
    assert {
        "xling.execution.evaluate.item_scorer",
        "xling.execution.evaluate.by_language",
        "xling.records",
    } <= score - train
    assert {"xling.planning.memory", "xling.planning.scoring_batch"} <= train & score
    for stage in INSTRUMENTS:
        assert not set(ROOTS[stage]) & (train | score | reached("prepare"))


# What changes nothing


def copied(folder: Path) -> Path:
    """A copy of the tree that can be changed."""
    unwanted = shutil.ignore_patterns("__pycache__")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=unwanted)
    (folder / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "result_code.py", folder / "tests")
    return folder


def told(folder: Path) -> tuple[dict[str, str], str]:
    """Hashes of a copy's code, and a fingerprint that it makes."""
    done = subprocess.run(
        [sys.executable, "-c", SAY], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    hashes, digest = json.loads(done.stdout)
    return hashes, digest


def renamed(folder: Path, before: str, after: str) -> None:
    """Give a copy's module another name, wherever it is said."""
    old, new = (folder.joinpath(*name.split(".")).with_suffix(".py") for name in (before, after))
    old.rename(new)
    room, name = before.rsplit(".", 1)
    for path in folder.rglob("*.py"):
        text = path.read_text(encoding="utf-8").replace(before, after)
        if f"from {room} import {name}\n" in text:
            text = re.sub(rf"\b{name}\b", after.rsplit(".", 1)[1], text)
        path.write_text(text, encoding="utf-8")


def merged(folder: Path, module: str, into: str) -> None:
    """Append a copy's module to another, at which it is found from then on."""
    first, second = (
        folder.joinpath(*name.split(".")).with_suffix(".py") for name in (into, module)
    )
    text = first.read_text(encoding="utf-8") + "\n\n" + second.read_text(encoding="utf-8")
    first.write_text(re.sub(rf"from {module} import .*\n", "", text), encoding="utf-8")
    second.unlink()
    for path in folder.rglob("*.py"):
        path.write_text(path.read_text(encoding="utf-8").replace(module, into), encoding="utf-8")


def commented(folder: Path) -> None:
    """Put a comment and another docstring into every module of a copy, and into a function."""
    for path in folder.glob("*/**/*.py"):
        text = re.sub(r'\A"""', '"""Otherwise said. ', path.read_text(encoding="utf-8"))
        text = re.sub(
            r'^( +)"""(?=[A-Z])', r'\1# A comment.\n\1"""In other words. ', text, flags=re.M
        )
        path.write_text(f"# A comment.\n{text}", encoding="utf-8")


@pytest.mark.parametrize(
    "edit",
    [
        commented,
        lambda copy: renamed(copy, "xling.planning.memory_limits", "xling.planning.refusals"),
        lambda copy: renamed(copy, "xling.training.worker", "xling.training.process"),
        lambda copy: merged(copy, "xling.scoring.prefix_forward", "xling.scoring.batch_runner"),
    ],
    ids=["commented", "renamed", "renamed-command", "merged"],
)
def test_what_means_the_same_is_the_same(edit, tmp_path: Path) -> None:
    copy = copied(tmp_path)
    before = {path: path.read_bytes() for path in copy.rglob("*.py")}
    edit(copy)
    assert before != {path: path.read_bytes() for path in copy.rglob("*.py")}
    assert told(copy) == (KEPT, fingerprint({"seed": 0}, stages=("prepare", "score")))


def test_a_changed_constant_in_a_copy_is_told(tmp_path: Path) -> None:
    copy = copied(tmp_path)
    path = copy / "xling" / "scoring" / "batch_runner.py"
    text = path.read_text(encoding="utf-8")
    assert "MAX_LOGITS = 2**27" in text
    path.write_text(text.replace("MAX_LOGITS = 2**27", "MAX_LOGITS = 2**26"), encoding="utf-8")
    hashes, digest = told(copy)
    assert len(differences(KEPT, hashes)) == 2
    assert differences(KEPT, hashes)[0].startswith("stage score's code changed: raise its version")
    # The fingerprint waits for a person, who knows whether results change.
    assert digest == fingerprint({"seed": 0}, stages=("prepare", "score"))


# Versions


def test_versions_begin_at_one_and_every_reason_is_said() -> None:
    assert set(result_versions(REASONS).values()) >= {1}
    assert all(reason.strip() for reasons in REASONS.values() for reason in reasons)


def test_an_unknown_stage_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no stage 'scoring' .*result_versions\.py; valid: prep"):
        fingerprint({}, stages=("prepare", "scoring"))


@pytest.fixture(scope="module")
def cells(tiny_model) -> Cells:
    """One cell of every kind, with its study's data and its model."""

    def prepared_of(architecture: str, **server: object) -> StudyData:
        model = {"id": str(tiny_model(architecture)), "name": "tiny", **server}
        study = Study.model_validate(
            {
                "name": "versions",
                "models": (model,),
                "data": {"source": "mini", "split": "given", "held_out": 4},
                "languages": {
                    "source": ("arb_Arab",),
                    "target": ("heb_Hebr",),
                    "branch": "Semitic",
                },
                "reasoning": ("direct", "cot"),
                "scoring_modes": ("answer-token", "permuted", "cloze"),
            }
        )
        return prepare_study(study)

    dense, mixture = prepared_of("llama"), prepared_of("qwen3_moe")
    served = prepared_of(
        "llama", engine="server", server={"url": "http://localhost:1/v1", "model": "tiny"}
    )

    def cell(prepared: StudyData, arm: str = "base", **more: str) -> Asked:
        model = prepared.study.models[0]
        return prepared, Cell(model, arm, 0, **more), locate_model(model.id)  # type: ignore[arg-type]

    return {
        "finetune": cell(dense, "finetuned"),
        "direct": cell(dense),
        "adapted": cell(dense, "finetuned"),
        "cot": cell(dense, reasoning="cot"),
        "permuted": cell(dense, scoring="permuted"),
        "cloze": cell(dense, scoring="cloze"),
        "mixture": cell(mixture),
        "mixture cloze": cell(mixture, scoring="cloze"),
        "served": cell(served),
        "served cot": cell(served, reasoning="cot"),
    }


def fingerprints(cells: Cells) -> dict[str, str]:
    found = {}
    for name, (prepared, cell, located) in cells.items():
        if name == "finetune":
            found[name] = finetune_fingerprint(CellJob(prepared, cell, located))
        else:
            parts = prepared.evaluated_items(cell)
            found[name] = evaluate_fingerprint(CellJob(prepared, cell, located), parts, [])
    return found


@pytest.mark.parametrize(
    ("stage", "changed"),
    [
        ("prepare", None),
        ("train", {"finetune"}),
        ("chain-of-thought", {"cot", "served cot"}),
        ("permuted", {"permuted"}),
        ("cloze", {"cloze", "mixture cloze"}),
        ("routing", {"mixture"}),
        ("server", {"served", "served cot"}),
        ("simulate", set()),
    ],
)
def test_a_raised_version_is_that_of_its_cells_alone(cells, stage, changed, monkeypatch) -> None:
    before = fingerprints(cells)
    assert len(set(before.values())) == len(before)
    assert fingerprints(cells) == before
    monkeypatch.setitem(REASONS, stage, (*REASONS[stage], "a test"))
    after = fingerprints(cells)
    assert {name for name in cells if after[name] != before[name]} == (
        set(cells) if changed is None else changed
    )


def test_a_raised_version_of_scoring_leaves_adapters(cells, monkeypatch) -> None:
    before = fingerprints(cells)
    monkeypatch.setitem(REASONS, "score", (*REASONS["score"], "a test"))
    after = fingerprints(cells)
    assert {name for name in cells if after[name] == before[name]} == {"finetune"}
