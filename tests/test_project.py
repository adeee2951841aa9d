"""What the project's files say of each other: MLproject, pins, imports."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from xling.files.requirements import (
    ADAPTER_PACKAGES,
    DECIDING_PACKAGES,
    adapter_requirements,
    pinned_packages,
)

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("xling", "analysis", "entrypoints")
PROJECT = yaml.safe_load((ROOT / "MLproject").read_text(encoding="utf-8"))
ENVIRONMENT = yaml.safe_load((ROOT / "conda.yaml").read_text(encoding="utf-8"))
ENTRY_POINTS: dict[str, Any] = PROJECT["entry_points"]
PARAMETERS = [(name, key) for name, entry in ENTRY_POINTS.items() for key in entry["parameters"]]
EXACT_PIN = re.compile(r"[a-z0-9][a-z0-9._-]*==[0-9][0-9a-z.]*")

each_entry_point = pytest.mark.parametrize("name", ENTRY_POINTS)
each_parameter = pytest.mark.parametrize(("name", "key"), PARAMETERS)


def command_of(name: str) -> click.Command:
    command = importlib.import_module(f"entrypoints.{name}").main
    assert isinstance(command, click.Command)
    return command


def options_of(name: str) -> dict[str, click.Option]:
    options = [option for option in command_of(name).params if isinstance(option, click.Option)]
    # How a command tells its errors is no parameter of a run.
    named = {name.removeprefix("--"): option for option in options for name in option.opts}
    return {name: option for name, option in named.items() if name != "debug"}


def as_text(default: object) -> str:
    return str(default).lower() if isinstance(default, bool) else str(default)


# MLproject


@each_entry_point
def test_an_entry_point_has_its_module(name: str) -> None:
    assert (ROOT / "entrypoints" / f"{name}.py").is_file()
    assert command_of(name).help


@each_entry_point
def test_a_command_is_its_module_with_each_parameter_once(name: str) -> None:
    words = ENTRY_POINTS[name]["command"].split()
    assert words[:3] == ["python", "-m", f"entrypoints.{name}"]
    pairs = list(zip(words[3::2], words[4::2], strict=True))
    assert pairs == [(f"--{key}", f"{{{key}}}") for key in ENTRY_POINTS[name]["parameters"]]


@each_entry_point
def test_parameters_are_the_options_of_the_command(name: str) -> None:
    assert list(ENTRY_POINTS[name]["parameters"]) == list(options_of(name))


@each_parameter
def test_a_parameter_has_the_default_of_its_option(name: str, key: str) -> None:
    declared = ENTRY_POINTS[name]["parameters"][key]
    assert declared["type"] == "string"
    assert declared["default"] == as_text(options_of(name)[key].default)


@each_parameter
def test_an_option_takes_one_value_and_is_not_required(name: str, key: str) -> None:
    option = options_of(name)[key]
    assert not option.is_flag and not option.required and option.nargs == 1


@each_entry_point
def test_the_command_that_mlflow_makes_of_the_defaults_is_accepted(name: str) -> None:
    from mlflow.projects._project_spec import load_project

    line = load_project(str(ROOT)).get_entry_point(name).compute_command({}, None)
    program, *arguments = shlex.split(line)[2:]
    assert program == f"entrypoints.{name}"
    context = command_of(name).make_context(name, arguments)
    assert set(context.params) == set(ENTRY_POINTS[name]["parameters"])


def test_every_command_file_is_an_entry_point() -> None:
    files = {path.stem for path in (ROOT / "entrypoints").glob("*.py")}
    assert files - {"__init__", "common"} == set(ENTRY_POINTS)


def test_the_project_names_its_environment() -> None:
    assert (ROOT / PROJECT["conda_env"]).samefile(ROOT / "conda.yaml")


# Pins


def pip_lines() -> list[str]:
    return next(entry["pip"] for entry in ENVIRONMENT["dependencies"] if isinstance(entry, dict))


def dev_tools() -> list[str]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)["dependency-groups"]["dev"]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("line", pip_lines() + dev_tools())
def test_a_requirement_is_an_exact_pin(line: str) -> None:
    assert EXACT_PIN.fullmatch(line)


def test_pins_are_sorted_and_each_is_there_once() -> None:
    for lines in (pip_lines(), dev_tools()):
        names = [canonical(line.split("==")[0]) for line in lines]
        assert names == sorted(set(names))


def test_python_and_pip_are_pinned_to_the_patch() -> None:
    first, second, *rest = ENVIRONMENT["dependencies"]
    assert re.fullmatch(r"python=3\.11\.\d+", first)
    assert re.fullmatch(r"pip=\d+\.\d+(\.\d+)?", second)
    assert len(rest) == 1  # the rest is pip's


def test_pinned_packages_are_those_of_conda_yaml() -> None:
    assert [f"{name}=={version}" for name, version in pinned_packages().items()] == pip_lines()


def test_the_makefile_installs_the_same_pins() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (line,) = re.findall(r"^\t(sed -n .* conda\.yaml) > \S+$", makefile, flags=re.MULTILINE)
    done = subprocess.run(
        shlex.split(line.replace("$$", "$")), cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == pip_lines()


def test_packages_of_adapters_and_fingerprints_are_pinned() -> None:
    assert set(ADAPTER_PACKAGES) | set(DECIDING_PACKAGES) <= set(pinned_packages())
    assert set(DECIDING_PACKAGES) <= set(ADAPTER_PACKAGES)
    assert set(adapter_requirements()) <= set(pip_lines())


def test_no_tool_is_pinned_twice() -> None:
    tools = {canonical(line.split("==")[0]) for line in dev_tools()}
    assert not tools & {canonical(name) for name in pinned_packages()}


def test_a_line_that_is_no_pin_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conda.yaml").write_text("dependencies: [python=3.11.7, pip: [torch>=2]]\n")
    monkeypatch.setattr("xling.files.requirements.ROOT", tmp_path)
    with pytest.raises(ValueError, match=r"conda\.yaml: 'torch>=2' is not an exact pin"):
        pinned_packages.__wrapped__()


@pytest.mark.parametrize("line", pip_lines() + dev_tools())
def test_the_installed_version_is_the_pinned_one(line: str) -> None:
    name, _, version = line.partition("==")
    # A local part, such as +cpu, names the build of the same version.
    assert importlib.metadata.version(name).partition("+")[0] == version


# Imports


def sources(*rooms: str) -> list[Path]:
    return sorted(path for room in rooms for path in (ROOT / room).rglob("*.py"))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports_of(path: Path) -> Iterator[str]:
    """Dotted names of all that a file imports, in functions and for type checking too."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_imported_package_is_pinned() -> None:
    names = {name.split(".")[0] for path in sources(*ROOMS) for name in imports_of(path)}
    third_party = names - set(sys.stdlib_module_names) - set(ROOMS)
    pinned = {canonical(name) for name in pinned_packages()}
    distributions = importlib.metadata.packages_distributions()
    unpinned = {
        name
        for name in third_party
        if not pinned & {canonical(package) for package in distributions.get(name, [])}
    }
    assert {"torch", "mlflow", "yaml", "qq"} <= third_party
    assert not unpinned


@pytest.mark.slow
@pytest.mark.parametrize("room", ["analysis", "entrypoints"])
def test_importing_a_whole_room_loads_no_model_library(room: str) -> None:
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sources(room)]
    script = (
        f"import importlib, sys; [importlib.import_module(name) for name in {modules}]; "
        "print(sorted({'torch', 'transformers', 'peft', 'qq', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_wings_are_the_only_rooms_of_xling() -> None:
    assert [path.name for path in (ROOT / "xling").glob("*.py")] == ["__init__.py"]


def test_every_wing_says_what_lives_there() -> None:
    for room in ("xling", "analysis"):
        for package in (ROOT / room).rglob("__init__.py"):
            text = ast.get_docstring(tree_of(package)) or ""
            assert len(text) > 40, (
                f"{package}: say in three lines what lives here and what never does"
            )


# Lines of a function, its docstring included; with the reason why one is longer.
MOST_LINES = 60
LONGER: dict[str, str] = {}


def test_no_function_is_long_without_a_reason() -> None:
    found = {
        f"{path.relative_to(ROOT)}:{node.name}": node.end_lineno - node.lineno + 1
        for path in sources(*ROOMS)
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno
    }
    long = {name for name, lines in found.items() if lines > MOST_LINES}
    assert len(found) > 1000
    assert long == set(LONGER), "split it by what it does, or name the reason here"


def test_no_file_is_longer_than_a_newcomer_reads() -> None:
    lines = {path: path.read_text(encoding="utf-8").count("\n") for path in sources(*ROOMS)}
    assert not [f"{path}: {count}" for path, count in lines.items() if count > 500]


def test_every_file_that_the_guide_for_developers_names_is_there() -> None:
    text = (ROOT / "docs" / "development.md").read_text(encoding="utf-8")
    names = set(re.findall(r"`([\w/-]+\.(?:py|json|toml))`", text))
    files = [path for room in (*ROOMS, "tests", "docs") for path in (ROOT / room).rglob("*.*")]
    known = {path.relative_to(ROOT).as_posix() for path in [*files, ROOT / "pyproject.toml"]}
    assert len(names) > 30
    assert not {n for n in names if not any(f"/{each}".endswith(f"/{n}") for each in known)}
