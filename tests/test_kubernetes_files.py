"""docs/kubernetes: what it says fits conda.yaml, and MLflow's own code takes it."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
import yaml

from entrypoints.main import main
from xling.files.requirements import pinned_packages

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "kubernetes"
IMAGE = "registry.example.org/xling-base:1"


@pytest.fixture
def kubernetes(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """MLflow's module, which needs the cluster's client package only to reach a cluster."""
    try:
        import kubernetes  # noqa: F401
    except ImportError:
        client, config = ModuleType("kubernetes"), ModuleType("kubernetes.config")
        exceptions = ModuleType("kubernetes.config.config_exception")
        exceptions.ConfigException = type("ConfigException", (Exception,), {})
        for module in (client, config, exceptions):
            monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.delitem(sys.modules, "mlflow.projects.kubernetes", raising=False)
    import mlflow.projects.kubernetes as backend

    return backend


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The copy of the project that the documentation makes."""
    folder = tmp_path / "project"
    done = subprocess.run(
        [str(FOLDER / "make_project.sh"), str(folder), IMAGE],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def dockerfile_runs() -> str:
    """The first RUN of the Dockerfile, as one line."""
    text = (FOLDER / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    return next(line for line in text.splitlines() if line.startswith("RUN "))


def test_the_image_has_the_python_and_the_pins_of_conda_yaml():
    environment = (ROOT / "conda.yaml").read_text(encoding="utf-8")
    (python,) = re.findall(r"^  - python=(\S+)$", environment, flags=re.MULTILINE)
    text = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
    assert re.search(rf"^FROM python:{re.escape(python)}-slim-bookworm$", text, re.MULTILINE)
    lines = re.findall(r"sed -n '[^']*'", dockerfile_runs())
    pip, pins = (
        subprocess.run(
            [*shlex.split(line), str(ROOT / "conda.yaml")],
            capture_output=True, text=True, check=True,
        ).stdout.splitlines()
        for line in lines
    )  # fmt: skip
    assert pins == [f"{name}=={version}" for name, version in pinned_packages().items()]
    assert len(pip) == 1 and re.fullmatch(r"pip==[0-9.]+", pip[0])
    # Nothing is installed that is not in those lists.
    assert dockerfile_runs().count("pip install") == 2
    assert re.search(r"--requirement /opt/xling/requirements.txt\s*$", dockerfile_runs())


def test_the_image_does_not_run_as_root():
    text = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
    (user,) = re.findall(r"^USER (\d+)$", text, flags=re.MULTILINE)
    template = yaml.safe_load((FOLDER / "job_template.yaml").read_text(encoding="utf-8"))
    security = template["spec"]["template"]["spec"]["securityContext"]
    assert security["runAsNonRoot"] and security["runAsUser"] == int(user) > 0


def test_mlflow_refuses_both_environments_at_once(tmp_path):
    from mlflow.exceptions import MlflowException
    from mlflow.projects._project_spec import load_project

    text = (ROOT / "MLproject").read_text(encoding="utf-8")
    (tmp_path / "conda.yaml").write_text((ROOT / "conda.yaml").read_text(encoding="utf-8"))
    (tmp_path / "MLproject").write_text(f"docker_env: {{image: {IMAGE}}}\n{text}")
    with pytest.raises(MlflowException, match="multiple environment fields"):
        load_project(str(tmp_path))


def test_the_copy_is_a_docker_project_with_the_same_entry_points(project):
    from mlflow.projects._project_spec import load_project

    loaded = load_project(str(project))
    assert loaded.docker_env == {"image": IMAGE}
    made = yaml.safe_load((project / "MLproject").read_text(encoding="utf-8"))
    for entry in made["entry_points"].values():
        assert entry["command"].startswith("xling-run -m entrypoints.")
    assert (project / "xling" / "execution" / "run_study.py").is_file()
    assert not (project / ".git").exists()


def test_mlflow_makes_a_job_whose_command_arrives_unharmed(kubernetes, project, monkeypatch):
    import mlflow.projects as projects
    from mlflow.projects._project_spec import load_project
    from mlflow.projects.utils import get_entry_point_command

    monkeypatch.chdir(ROOT)
    config = json.loads((FOLDER / "kubernetes_config.json").read_text(encoding="utf-8"))
    parsed = projects._parse_kubernetes_config(config)
    loaded = load_project(str(project))
    command = get_entry_point_command(
        loaded, "main", {"study": "paper", "models": "two words, it's"}, None
    )
    job: dict[str, Any] = kubernetes._get_kubernetes_job_definition(
        loaded.name,
        config["repository-uri"],
        "sha256:0",
        kubernetes._get_run_command(command),
        {"MLFLOW_RUN_ID": "r"},
        parsed["kube-job-template"],
    )
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == "registry.example.org/xling@sha256:0"
    assert {"name": "MLFLOW_RUN_ID", "value": "r"} in container["env"]
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", job["metadata"]["name"])
    assert job["metadata"]["namespace"] == "xling"
    # What the container would start, without a shell, with a python that prints its arguments.
    assert container["command"][0] == "xling-run"
    fake = project / "bin"
    fake.mkdir()
    (fake / "python").write_text(
        f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n"
    )
    (fake / "python").chmod(0o755)
    done = subprocess.run(
        [str(FOLDER / "xling-run"), *container["command"][1:]],
        env={"PATH": f"{fake}:/usr/bin:/bin"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    arguments = json.loads(done.stdout)
    assert arguments[:2] == ["-m", "entrypoints.main"]
    values = dict(zip(arguments[2::2], arguments[3::2], strict=True))
    assert values["--data"] == ""
    assert values["--models"] == "two words, it's"
    assert isinstance(main, click.Command)
    assert set(values) == {option.opts[0] for option in main.params} - {"--debug"}


def test_the_script_says_how_it_is_used(tmp_path):
    script = str(FOLDER / "make_project.sh")
    bare = subprocess.run([script], capture_output=True, text=True, check=False)
    assert bare.returncode == 2 and "usage:" in bare.stderr
    there = subprocess.run(
        [script, str(tmp_path), IMAGE], capture_output=True, text=True, check=False
    )
    assert there.returncode == 1 and "is there already" in there.stderr
