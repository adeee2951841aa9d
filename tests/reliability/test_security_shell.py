"""Values of `-P` and names of experiments reach a command literally, and run nothing."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.place import ROOT, Place

PROJECT = yaml.safe_load((ROOT / "MLproject").read_text(encoding="utf-8"))
ENTRY_POINTS = tuple(PROJECT["entry_points"])
# What a shell would run, expand, split or end a word at; {m} is a file that must not appear.
VALUES = (
    "a b",
    "; touch {m}",
    "$(touch {m})",
    "`touch {m}`",
    "x && touch {m}",
    "x || touch {m}",
    "| touch {m}",
    "> {m}",
    "< {m}",
    "& touch {m} &",
    "x\ntouch {m}\n",
    "' ; touch {m} ; '",
    '" ; touch {m} ; "',
    "'\"'; touch {m} #",
    "\\'; touch {m}",
    "$IFS$9~ $HOME ${{PATH}} !! !$ * ? [a-z] {{a,b}} #x",
    "{{study}} %s \\n \\$x",
    "--help",
    "-c import os",
    "$'\\x24(touch {m})'",
    "\u202eabc\u2028; touch {m}",
    "",
)
SHOW = 'for each in "$@"; do printf "%s\\0" "$each"; done'


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "marker"


@pytest.fixture
def stubs(tmp_path: Path) -> dict[str, str]:
    """An environment in which `python` and `mlflow` print their arguments, NUL after each."""
    folder = tmp_path / "stubs"
    folder.mkdir()
    for name in ("python", "mlflow"):
        (folder / name).write_text(f"#!/bin/sh\n{SHOW}\n")
        (folder / name).chmod(0o755)
    return {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


def shell(command: str, environment: dict[str, str], folder: Path) -> list[str]:
    """Arguments of the stub that a shell runs, as MLflow runs an entry point."""
    done = subprocess.run(
        ["bash", "-c", command], env=environment, cwd=folder, capture_output=True, check=True
    )
    assert done.stderr == b""
    return done.stdout.decode().split("\0")[:-1]


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_every_parameter_of_an_entry_point_arrives_literally(
    name: str, stubs: dict[str, str], marker: Path, tmp_path: Path
) -> None:
    from mlflow.projects._project_spec import load_project

    entry_point = load_project(str(ROOT)).get_entry_point(name)
    for form in VALUES:
        value = form.format(m=marker)
        parameters = dict.fromkeys(entry_point.parameters, value)
        command = entry_point.compute_command(parameters, str(tmp_path))
        given = shell(command, stubs, tmp_path)
        module, options = given[:2], given[2:]
        assert module == ["-m", f"entrypoints.{name}"]
        assert options == [
            part
            for key in PROJECT["entry_points"][name]["parameters"]
            for part in (f"--{key}", value)
        ]
        assert not marker.exists(), form


@pytest.mark.parametrize("form", VALUES[1:])
def test_a_parameter_that_nobody_declared_runs_nothing(
    form: str, stubs: dict[str, str], marker: Path, tmp_path: Path
) -> None:
    from mlflow.projects._project_spec import load_project

    text = form.format(m=marker)
    entry_point = load_project(str(ROOT)).get_entry_point("prepare")
    command = entry_point.compute_command({f"x{text}": text}, str(tmp_path))
    given = shell(command, stubs, tmp_path)
    assert given[-2:] == [f"--x{text}", text]
    assert not marker.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "parameter", "form", "told"),
    [
        ("prepare", "study", "$(touch {m})", "unknown study '$(touch "),
        ("simulate", "name", "a'; touch {m}; 'b", "may hold letters, digits, _ and - only"),
        ("import", "file", "`touch {m}` && touch {m} > {m} | touch {m}", "does not exist"),
        ("evaluate", "adapter", '"\n; touch {m}\n', "the base arm takes no adapter"),
    ],
)
def test_a_real_run_takes_the_value_literally(
    name: str, parameter: str, form: str, told: str, tmp_path: Path, tiny_model, zygote
) -> None:
    place = Place(tmp_path, {"tiny": tiny_model("llama")})
    marker = tmp_path / "marker"
    settings = {} if parameter == "study" else {"study": place.study}
    if name == "simulate":
        settings = {}
    given = {**settings, parameter: form.format(m=marker)}
    # A shell runs the command of the project file, as `mlflow run` has it; one is enough.
    real = name == "simulate"
    done = place.mlflow_run(name, **given) if real else place.run(zygote, name, **given)
    assert done.returncode != 0
    assert told in done.stderr, done.stderr[-2000:]
    assert not marker.exists()
    assert not (ROOT / "marker").exists()


def test_the_command_of_a_run_can_be_pasted(
    tmp_path: Path, stubs: dict[str, str], marker: Path
) -> None:
    """Names of experiments are anybody's choice on a shared server."""
    name = f"it's; $(touch {marker}) `touch {marker}` \" && touch {marker}\n> {marker} #"
    code = (
        "import sys\n"
        "from xling import tracking\n"
        "tracking.open_store()\n"
        "print(tracking.run_command('main', {'study': sys.argv[1], 'data': sys.argv[1]}))\n"
    )
    value = f"a b; $(touch {marker})'"
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'store.db'}",
        "MLFLOW_EXPERIMENT_NAME": name,
    }
    done = subprocess.run(
        [sys.executable, "-c", code, value],
        env=environment, cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    given = shell(done.stdout, stubs, tmp_path)
    assert given[given.index("--experiment-name") + 1] == name
    assert given[-3:] == [f"study={value}", "-P", f"data={value}"]
    assert not marker.exists()


def test_the_stubs_do_run_what_is_not_quoted(
    tmp_path: Path, stubs: dict[str, str], marker: Path
) -> None:
    """Or the tests above would show nothing."""
    shell(f"mlflow x $(touch {marker})", stubs, tmp_path)
    assert marker.exists()
    assert importlib.util.find_spec("mlflow.projects._project_spec")
