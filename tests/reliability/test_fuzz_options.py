"""Options of every command, with values of all kinds: taken, or a usage error of one line."""

from __future__ import annotations

import importlib
import math
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner

from tests.reliability.fuzzing import BLANKS, TEXTS, refused, sweep
from xling.study import Study

ROOT = Path(__file__).resolve().parents[2]
PROJECT = yaml.safe_load((ROOT / "MLproject").read_text(encoding="utf-8"))
COMMANDS: dict[str, click.Command] = {
    name: importlib.import_module(f"entrypoints.{name}").main for name in PROJECT["entry_points"]
}
LARGEST = 2**32 - 1
VALUES = (
    *("0", "1", "-1", "3", "0.05", "1e-3", "1e999", "-1e999", "nan", "-nan", "inf", "0x10", "1_0"),
    *("٣", "²", "9" * 30, "9" * 5000, "-" + "9" * 5000, "1" * 60, "0." + "0" * 5000, "1e", "."),
    *("true", "false", "yes", "maybe", "None", "null", "[]", "{}", "a,b", ",", ",,,", "'", '"'),
    *("demo", "paper", "dmo", "base", "finetuned", "cot", "cloze", "csv", "lm-eval", "champion"),
    *("/nowhere", "/nowhere.yaml", "..", "/", "/dev/null", "x" * 5000 + ".yaml", "a\nb.yaml"),
    *("--", "-x", "--study", "-", "$(id)", "; id", "%s", "{x}", "models:/a@b", "runs:/x/y"),
    *("\udcff", "x\udcff.yaml", "\ud800"),  # bytes of a command line that are no UTF-8
    *BLANKS,
    *(text[:300] for text in TEXTS),
    "ا" * 100_000,
)


@pytest.fixture(autouse=True)
def _no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A store that is not there: names of logged studies are unknown."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'none.db'}")
    yield
    assert not (tmp_path / "none.db").exists()
    os.environ.pop("XLING_DEBUG", None)


def check_parameters(command: click.Command, params: dict[str, Any]) -> None:
    """What was taken has the type and range that the command's body relies on."""
    for option in command.params:
        if option.name == "debug":
            continue
        value = params[option.name or ""]
        if isinstance(option.type, click.Choice):
            assert value in option.type.choices
        elif isinstance(option.type, click.FloatRange):
            assert isinstance(value, float) and math.isfinite(value)
        elif isinstance(option.type, click.IntRange):
            assert isinstance(value, int) and (option.type.min or 0) <= value <= LARGEST
        elif isinstance(option.type, click.types.BoolParamType):
            assert isinstance(value, bool)
        elif option.name == "bound":
            assert value is None or (isinstance(value, float) and 0 < value < 1)
        elif option.type.name == "study":
            assert isinstance(value, Study) or (value is None and command is COMMANDS["power"])
        elif isinstance(value, tuple):
            assert all(name.strip() == name != "" for name in value)
        else:
            assert isinstance(value, str)


def draw_arguments(rng: random.Random, command: click.Command) -> list[str]:
    """One to three options with a value, now and then with a loose word or no value."""
    arguments = []
    options = [option.opts[0] for option in command.params if option.name != "debug"]
    for _ in range(rng.choice((1, 1, 2, 3))):
        option = rng.choice(options)
        if rng.random() < 0.1:
            option = rng.choice((option[:-1], option + "x", "--", "-z", option.upper(), "--help="))
        arguments += [option, rng.choice(VALUES)] if rng.random() < 0.95 else [option]
    return arguments


def test_options_are_taken_or_refused() -> None:
    names = sorted(name for name, entry in PROJECT["entry_points"].items() if entry["parameters"])

    def check(rng: random.Random) -> str:
        command = COMMANDS[rng.choice(names)]
        try:
            context = command.make_context("command", draw_arguments(rng, command))
        except click.exceptions.Exit as error:
            assert error.exit_code == 0  # --help
            return "helped"
        except Exception as error:
            assert isinstance(error, click.ClickException), repr(error)[:300]
            word = refused(error)
            # click repeats the name of an unknown option, and says which are valid.
            return word
        check_parameters(command, context.params)
        return "accepted"

    found = sweep("options", 3000, check)
    assert found["accepted"] and found["refused"]


def test_commands_that_are_refused_end_with_one_message() -> None:
    """Through the whole command: those that need a folder or a file stop where it is not there."""
    stops = {"main": "--data", "prepare": "--data", "finetune": "--data", "evaluate": "--data"}
    runner = CliRunner()

    def check(rng: random.Random) -> str:
        name = rng.choice([*sorted(stops), "import"])
        arguments = draw_arguments(rng, COMMANDS[name])
        stop = ["--file", "/nowhere.csv"] if name == "import" else [stops[name], "/nowhere"]
        result = runner.invoke(COMMANDS[name], [*arguments, *stop])
        if "--help=" in arguments and result.exit_code == 0:
            return "helped"
        assert result.exit_code in (1, 2), result.output[-300:]
        assert isinstance(result.exception, SystemExit), repr(result.exception)[:300]
        assert "Traceback" not in result.output
        said = result.output[result.output.index("Error: ") :]
        assert len(said.splitlines()) == 1, said[:600]
        return f"code {result.exit_code}"

    found = sweep("commands", 500, check)
    assert found["code 1"] and found["code 2"]


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("analyze", ["--bound", "nan"], "'nan' is not a finite number"),
        ("simulate", ["--effect", "nan"], "'nan' is not a finite number"),
        ("simulate", ["--format", "nan"], "'nan' is not a finite number"),
        ("prepare", ["--limit", "9" * 5000], "is not a valid integer"),
        ("power", ["--related", "1000000"], "more than 1000"),
        ("power", ["--items", "10000000"], "more than 1000000"),
        ("simulate", ["--models", "1000000", "--items", "1000000"], "more than memory holds"),
        ("simulate", ["--name", "a" * 101], "100 at most"),
        ("prepare", ["--study", "x" * 5000 + ".yaml"], "unknown study"),
    ],
)
def test_numbers_that_nothing_can_hold_are_refused(
    name: str, arguments: list[str], told: str
) -> None:
    result = CliRunner().invoke(COMMANDS[name], arguments)
    assert result.exit_code in (1, 2) and told in result.output, result.output
    assert len(result.output[result.output.index("Error: ") :].splitlines()) == 1


def test_bytes_that_are_no_text_are_refused_by_a_process(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "entrypoints.prepare", "--study", b"\xff\xfe.yaml"],
        cwd=ROOT,
        capture_output=True,
        env=dict(os.environ),
    )
    assert done.returncode == 2 and b"Traceback" not in done.stderr
    assert b"unknown study" in done.stderr
