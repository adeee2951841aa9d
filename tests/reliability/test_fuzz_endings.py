"""How commands end: one message whatever went wrong, and a traceback only where it is asked for."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner, Result

from entrypoints.common import OneMessage, entry_point, study_option
from xling.study.load import load_study

ROOT = Path(__file__).resolve().parents[2]
PROJECT = yaml.safe_load((ROOT / "MLproject").read_text(encoding="utf-8"))
COMMANDS = tuple(PROJECT["entry_points"])


@pytest.fixture(autouse=True)
def _no_debug(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("XLING_DEBUG", raising=False)
    yield
    assert not os.environ.pop("XLING_DEBUG", "")


def deep(level: int = 0) -> int:
    return deep(level + 1) + 1


def bare() -> None:
    raise ValueError


def unreadable() -> None:
    raise RuntimeError("first line\nsecond \ud800 line")


def endless() -> None:
    raise ValueError("x" * 1_000_000)


ERRORS: tuple[tuple[Callable[[], Any], str], ...] = (
    (lambda: {}["absent"], "a defect of this package: KeyError at "),
    (lambda: len(3), "a defect of this package: TypeError at "),  # type: ignore[arg-type]
    (lambda: None.absent, "a defect of this package: AttributeError at "),  # type: ignore
    (lambda: [][1], "a defect of this package: IndexError at "),
    (lambda: 1 / 0, "a defect of this package: ZeroDivisionError at "),
    (deep, "a defect of this package: RecursionError at "),
    (lambda: bytearray(2**62), "memory ran out at "),
    (lambda: importlib.import_module("no_such_module"), "a defect of this package: ModuleNotFou"),
    (bare, "a defect of this package: ValueError at "),
    (lambda: yaml.safe_load("a: ["), "a defect of this package: ParserError at "),
    (lambda: b"\xff".decode(), "UnicodeDecodeError"),
    (lambda: pd.read_csv("no/such.csv"), "no/such.csv"),
    (lambda: pd.DataFrame({"a": [1]}).astype("int8x"), "defect of this package: TypeError at "),
    (unreadable, "first line"),
    (endless, "… (--debug shows all)"),
    (lambda: (_ for _ in ()).throw(KeyError("a\nb")), "a defect of this package: KeyError at "),
)


def command_that(fails: Callable[[], Any]) -> click.Command:
    @click.command(cls=OneMessage)
    @entry_point
    def main() -> None:
        """Fail."""
        fails()

    return main


def run(command: click.Command, *arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


@pytest.mark.parametrize(("fails", "told"), ERRORS, ids=[told[:45] for _, told in ERRORS])
def test_any_error_is_one_message(fails: Callable[[], Any], told: str) -> None:
    result = run(command_that(fails))
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert result.output.startswith("Error: ") and told in result.output
    assert "Traceback" not in result.output and len(result.output) < 6200


@pytest.mark.parametrize(("fails", "told"), ERRORS, ids=[told[:45] for _, told in ERRORS])
def test_with_debug_an_error_keeps_its_traceback(fails: Callable[[], Any], told: str) -> None:
    result = run(command_that(fails), "--debug")
    assert result.exit_code == 1
    assert result.exception is not None and not isinstance(result.exception, SystemExit)


def test_a_defect_names_the_place_in_this_package(tmp_path: Path) -> None:
    def fails() -> None:
        from xling.records.metrics import clustered_stderr

        clustered_stderr(None, None)  # type: ignore[arg-type]

    result = run(command_that(fails))
    assert "AttributeError at xling/records/metrics.py:" in result.output
    assert "Please report it with what --debug shows (under `mlflow run`: XLING_DEBUG=1)" in (
        result.output
    )


def test_a_librarys_error_names_the_place_where_it_was_called() -> None:
    def fails() -> None:
        from xling.records.metrics import position_shares

        position_shares("text")  # type: ignore[arg-type]

    output = run(command_that(fails)).output
    assert "(ValueError at xling/records/metrics.py:" in output and "defect" not in output


def test_a_password_in_a_defect_is_not_shown() -> None:
    def fails() -> None:
        raise KeyError("https://me:secret@example.org/v1")

    assert "secret" not in run(command_that(fails)).output


@pytest.mark.parametrize("error", [click.UsageError("u"), click.BadParameter("b")])
def test_usage_errors_keep_their_code(error: click.UsageError) -> None:
    def fails() -> None:
        raise error

    assert run(command_that(fails)).exit_code == 2


def test_leaving_keeps_its_code() -> None:
    assert run(command_that(lambda: click.get_current_context().exit(3))).exit_code == 3
    assert run(command_that(lambda: sys.exit(143))).exit_code == 143


@pytest.mark.parametrize("logged", [False, True])
def test_a_store_that_fails_while_a_study_is_looked_up_is_one_message(
    logged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")

    @click.command(cls=OneMessage)
    @study_option(logged=logged)
    @entry_point
    def main(study: Any) -> None:
        """Never reached."""
        raise AssertionError

    result = run(main, "--study", "their")
    assert result.exit_code == (1 if logged else 2)
    assert "Traceback" not in result.output and "secret" not in result.output
    assert ("does not answer" if logged else "unknown study 'their'") in result.output


def test_a_logged_study_that_is_no_longer_valid_is_a_usage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'store.db'}")
    monkeypatch.chdir(tmp_path)
    from xling import tracking

    tracking.open_store()
    old = load_study("demo").to_yaml().replace("dropout:", "drop_out:")
    with tracking.tracked_run("study", name="old", study="old", params={}, tags={}):
        tracking.log_text(old, "study.yaml")
    command = importlib.import_module("entrypoints.analyze").main
    result = run(command, "--study", "old")
    assert result.exit_code == 2 and "Traceback" not in result.output
    assert "old (study.yaml of its run) is not a valid study:\n  lora.drop_out" in result.output


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_debug_once(name: str) -> None:
    command = importlib.import_module(f"entrypoints.{name}").main
    options = [option for option in command.params if "--debug" in option.opts]
    assert len(options) == 1 and "XLING_DEBUG=1" in (options[0].help or "")
    assert options[0] is command.params[-1]


def test_processes_end_with_a_message_or_with_a_traceback(tmp_path: Path, zygote) -> None:
    study = tmp_path / "mine.yaml"
    study.write_text(load_study("demo").to_yaml())
    for arguments, traced in (
        (["--study", str(study), "--data", "/nowhere"], False),
        (["--study", str(study), "--data", "/nowhere", "--debug"], True),
        (["--study", f"{'x' * 5000}.yaml"], False),
    ):
        done = zygote.complete(
            ["prepare", *arguments],
            {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'store.db'}"},
            folder=ROOT,
        )
        assert done.returncode == (2 if "x" * 5000 in arguments[1] else 1)
        assert ("Traceback" in done.stderr) == traced
        assert traced or done.stderr.splitlines()[-1].startswith("Error: ")
