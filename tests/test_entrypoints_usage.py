"""Wrong input to the commands: one clear message, no traceback, and no model library loaded."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import mlflow
import pytest
import yaml
from click.testing import CliRunner, Result

from xling.study.load import load_study, study_names

ROOT = Path(__file__).resolve().parent.parent
PROJECT = yaml.safe_load((ROOT / "MLproject").read_text(encoding="utf-8"))
COMMANDS = {name: frozenset(entry["parameters"]) for name, entry in PROJECT["entry_points"].items()}
MODELS = ", ".join(model.label for model in load_study("demo").models)
# Commands that read questions; analyze and register take the folder for the study's name alone.
READERS = ("main", "prepare", "finetune", "evaluate")


def with_option(option: str) -> list[str]:
    return [name for name, options in COMMANDS.items() if option in options]


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    """A command handles SIGTERM; the test run must not keep its handler."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(autouse=True)
def _no_store_of_another_test(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """MLflow keeps the address and the experiment that a process used last, and prefers them."""
    mlflow.set_tracking_uri(None)
    for name in ("MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    yield
    mlflow.set_tracking_uri(None)
    os.environ.pop("MLFLOW_EXPERIMENT_ID", None)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store that does not exist yet, so that a test can prove that nothing was written."""
    path = tmp_path / "store.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
    return path


def invoke(name: str, *arguments: str) -> Result:
    command = importlib.import_module(f"entrypoints.{name}").main
    assert isinstance(command, click.Command)
    return CliRunner().invoke(command, arguments)


def check_refused(result: Result, store: Path, *told: str) -> None:
    """One message, told before anything was logged."""
    assert isinstance(result.exception, SystemExit)
    assert result.exit_code in (1, 2)
    (message,) = [line for line in result.output.splitlines() if line.startswith("Error: ")]
    for text in told:
        assert text in message
    assert result.output.rstrip().endswith(message)
    assert "Traceback" not in result.output
    assert not store.exists()


@pytest.mark.parametrize("name", with_option("study"))
def test_an_unknown_study_lists_the_valid_ones(name: str, store: Path) -> None:
    valid = f"Valid: {', '.join(study_names())}, or the path of a .yaml file"
    result = invoke(name, "--study", "dmo")
    check_refused(result, store, "unknown study 'dmo'. Did you mean 'demo'?", valid)


def test_a_wrong_study_file_names_the_key_and_the_valid_keys(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(load_study("demo").to_yaml().replace("dropout:", "drop_out:"))
    result = invoke("prepare", "--study", str(path))
    assert result.exit_code == 2
    assert "mine.yaml is not a valid study:\n  lora.drop_out: unknown key; valid: r, alpha, dr" in (
        result.output
    )
    assert not store.exists()


# Imported models need not be in the study.
@pytest.mark.parametrize("name", [name for name in with_option("model") if name != "import"])
def test_an_unknown_model_lists_the_valid_ones(name: str, store: Path) -> None:
    result = invoke(name, "--model", "gpt")
    check_refused(result, store, f"study 'demo' has no model 'gpt'; valid: {MODELS}")


@pytest.mark.parametrize("name", ["main"])  # elsewhere `models` is a number
def test_one_unknown_model_among_several_lists_the_valid_ones(name: str, store: Path) -> None:
    result = invoke(name, "--models", "gemma3-270m, gpt")
    check_refused(result, store, f"study 'demo' has no model 'gpt'; valid: {MODELS}")


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("arm", "tuned", ("'--arm'", "'tuned'", "'finetuned'")),
        ("reasoning", "deep", ("'--reasoning'", "'deep'", "'direct'")),
        ("scoring", "guess", ("'--scoring'", "'guess'", "'answer-token'")),
        ("execution", "slurm", ("'--execution'", "'slurm'", "'local'", "'ray'")),
        ("limit", "-1", ("'--limit'", "-1 is not in the range x>=0")),
        ("limit", "many", ("'--limit'", "'many' is not a valid integer")),
        ("seed", "-1", ("'--seed'", "-1 is not in the range 0<=x<=4294967295")),
        ("force", "maybe", ("'--force'", "'maybe' is not a valid boolean", "true")),
        ("items", "0", ("'--items'", "0 is not in the range x>=1")),
        ("bound", "0", ("'--bound'", "0.0 is not in the range 0<x<1")),
        ("bound", "wide", ("'--bound'", "'wide' is not a valid float")),
    ],
)
def test_a_value_out_of_range_names_the_option_and_the_range(
    name: str, option: str, value: str, told: tuple[str, ...], store: Path
) -> None:
    if option in COMMANDS[name]:
        check_refused(invoke(name, f"--{option}", value), store, *told)
    else:
        check_refused(invoke(name, f"--{option}", value), store, f"No such option '--{option}'")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_loose_word_is_refused(name: str, store: Path) -> None:
    check_refused(invoke(name, "demo"), store, "unexpected extra argument (demo)")


@pytest.mark.parametrize("name", READERS)
def test_a_missing_data_folder_is_named(name: str, store: Path, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    result = invoke(name, "--data", str(missing))
    check_refused(result, store, f"data folder {missing} does not exist", "<code>.jsonl files")


@pytest.mark.parametrize("name", READERS)
def test_a_folder_without_the_needed_files_lists_them(
    name: str, store: Path, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "arb_Arab.jsonl").write_text("{}\n")
    result = invoke(name, "--data", str(tmp_path / "data"))
    told = ("lacks arz_Arab.jsonl, apc_Arab.jsonl", "It has arb_Arab.jsonl", "Add the files")
    check_refused(result, store, *told)


@pytest.mark.parametrize("name", READERS)
def test_a_file_is_no_data_folder(name: str, store: Path, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.touch()
    check_refused(invoke(name, "--data", str(path)), store, "is a file, not a folder")


@pytest.mark.parametrize("name", READERS)
def test_a_malformed_row_names_file_line_and_remedy(name: str, store: Path, tmp_path: Path) -> None:
    for code in load_study("demo").languages.evaluated:
        (tmp_path / f"{code}.jsonl").write_text("{not json}\n")
    result = invoke(name, "--data", str(tmp_path))
    check_refused(result, store, f"{tmp_path / 'arb_Arab.jsonl'}", "line 1")


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "import"])
def test_a_server_that_does_not_answer_is_named_without_its_password(
    name: str, monkeypatch: pytest.MonkeyPatch, store: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    result = invoke(name)
    told = ("tracking server http://***@127.0.0.1:9 does not answer", "MLFLOW_TRACKING_URI")
    check_refused(result, store, *told)
    assert "secret" not in result.output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments", "code"),
    [
        ("evaluate", ["--arm", "tuned"], 2),
        ("finetune", ["--model", "gpt"], 1),
        ("prepare", ["--data", "no-such-folder"], 1),
    ],
)
def test_wrong_input_loads_no_model_library(
    name: str, arguments: list[str], code: int, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", f"entrypoints.{name}", *arguments],
        cwd=ROOT,
        env={**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'store.db'}"},
        capture_output=True,
        text=True,
    )
    timings = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    said = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    imported = {line.rsplit("|", 1)[1].strip() for line in timings}
    assert done.returncode == code
    assert "xling.study" in imported
    assert not imported & {"torch", "transformers", "peft", "datasets", "qq"}
    assert said[-1].startswith("Error: ")
    assert not any("Traceback" in line for line in said)
    assert not (tmp_path / "store.db").exists()


@pytest.mark.slow
def test_a_study_that_only_the_store_knows_is_found_by_its_name(store: Path) -> None:
    made = invoke("simulate", "--models", "2", "--items", "8", "--name", "mine")
    assert made.exit_code == 0, made.output
    found = invoke("analyze", "--study", "mine")
    assert found.exit_code == 0, found.output
    unknown = invoke("analyze", "--study", "their")
    assert unknown.exit_code == 2 and "unknown study 'their'" in unknown.output
