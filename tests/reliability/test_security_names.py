"""Names from study files, options and a shared store: none leaves its folder or its filter."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from click.testing import CliRunner
from pydantic import ValidationError

from analysis.runs.run_files import FORMAT_FILE, RECORDS_FILE, fetch_file
from entrypoints.evaluate import main as evaluate
from entrypoints.prepare import main as prepare
from entrypoints.register import main as register
from tests.place import ROOT, make_store
from xling import tracking
from xling.models.weights.find import find_recipe
from xling.study import LONGEST_STUDY_NAME
from xling.study.load import load_study, parse_study
from xling.study.settings import ModelSettings
from xling.tracking.evaluations import log_evaluation

HOSTILE = (
    "../up",
    "..",
    ".",
    "a/b",
    "/etc/passwd",
    "a\\b",
    "a'b",
    'a"b',
    "a`b",
    "a\nb",
    "a\0b",
    "a b",
    "a;b",
    "$(x)",
    "<script>",
    "{model}",
    "%s",
    "\u202eabc",
    "é",
    "a" * (LONGEST_STUDY_NAME + 1),
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store; making one takes seconds."""
    folder = tmp_path_factory.mktemp("shared")
    client = mlflow.MlflowClient(make_store(folder / "store.db"))
    for name in ("xling", "foreign"):
        client.create_experiment(name, artifact_location=str(folder / name))
    return folder


@pytest.fixture
def store(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The shared store, selected."""
    yield from selected(shared / "store.db", monkeypatch)


@pytest.fixture
def no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A store that does not exist yet, so that a test can prove that nothing was written."""
    yield from selected(tmp_path / "store.db", monkeypatch)


def selected(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    uri = f"sqlite:///{path}"
    monkeypatch.chdir(path.parent)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for name in ("MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    mlflow.set_tracking_uri(uri)
    yield path
    mlflow.set_tracking_uri(None)
    os.environ.pop("MLFLOW_EXPERIMENT_ID", None)


# A null character is refused while the file is read.
NULL = "not YAML that holds settings: line "


def yaml_of(**changes: object) -> str:
    import yaml

    content = yaml.safe_load(load_study("demo").to_yaml())
    return yaml.safe_dump(content | changes, allow_unicode=True)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_study_of_a_hostile_name_is_refused(name: str) -> None:
    with pytest.raises(
        ValueError, match=rf"mine\.yaml is (not a valid study:\n  name: |{NULL})"
    ) as refused:
        parse_study(yaml_of(name=name), where="mine.yaml")
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("name", HOSTILE)
def test_a_model_of_a_hostile_name_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        ModelSettings(id="gemma3-270m", name=name)


@pytest.mark.parametrize("name", [name for name in HOSTILE if name not in ("/etc/passwd", "a/b")])
def test_a_model_whose_id_makes_a_hostile_name_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="give the model a `name`"):
        ModelSettings(id=f"owner/{name}" if "/" not in name else "owner/..")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_language_of_a_hostile_code_is_refused(name: str) -> None:
    import yaml

    languages = yaml.safe_load(load_study("demo").to_yaml())["languages"]
    with pytest.raises(ValueError, match=f"is (not a valid study:\n  languages.target: |{NULL})"):
        parse_study(yaml_of(languages=languages | {"target": [name]}), where="mine.yaml")


@pytest.mark.parametrize("name", [*HOSTILE, "a" * 10_000, "a" * 300 + ".yaml", "\0.yaml", "-x"])
def test_an_unknown_study_is_a_short_message(name: str) -> None:
    with pytest.raises(ValueError, match=r"unknown study .* Valid: ") as refused:
        load_study(name)
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("name", ["..", "a\0b", "\0/x", "a'b", "~/x", "/no/such", "a/b/c"])
def test_an_unknown_model_is_a_message(name: str) -> None:
    with pytest.raises(ValueError):
        find_recipe(name)


@pytest.mark.parametrize(
    "uri",
    [
        "../../x", "/etc/passwd", "file:///etc", "models:/../../x@y", "models:/a'b@x",
        "runs:/../../x/adapter", "models:/a\nb/1", "a\0b", "http://host/x", "models:/", "x" * 5000,
        "models:/m-../../x", "$(touch x)", "s3://bucket/x", "models:/x@y/../../z",
    ],
)  # fmt: skip
def test_an_adapter_of_a_hostile_name_is_none(uri: str, store: Path, tmp_path: Path) -> None:
    target = tmp_path / "downloads"
    with pytest.raises(ValueError, match="no adapter"):
        tracking.fetch_adapter(uri, target)
    assert not target.exists() or not list(target.iterdir())


FOREIGN = """
from pathlib import Path
import mlflow

Path({marker!r}).write_text("ran")


class Foreign(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        Path({marker!r}).write_text("ran")

    def predict(self, context, model_input, params=None):
        return []


mlflow.models.set_model(Foreign())
"""


@pytest.fixture
def foreign(store: Path, tmp_path: Path) -> Path:
    """Two registered models whose code writes a file; one says that it is an adapter."""
    marker = store.parent / "marker"
    if mlflow.search_registered_models():
        return marker
    (tmp_path / "foreign.py").write_text(FOREIGN.format(marker=str(marker)))
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    mlflow.set_experiment("foreign")
    with mlflow.start_run():
        for name, settings in (("plain", {}), ("posing", {"weights": "sha256:0", "model": "x"})):
            mlflow.pyfunc.log_model(
                name=name,
                python_model=str(tmp_path / "foreign.py"),
                artifacts={"adapter": str(adapter)},
                model_config=settings,
                registered_model_name=name,
                pip_requirements=[],
            )
            mlflow.MlflowClient().set_registered_model_alias(name, "x", "1")
    assert marker.exists()  # MLflow runs it where it is logged
    marker.unlink()
    return marker


def test_a_foreign_model_is_fetched_and_not_run(foreign: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a model, but not an adapter that this package logged"):
        tracking.fetch_adapter("models:/plain@x", tmp_path / "plain")
    with pytest.raises(ValueError, match="has no checksums of its files"):
        tracking.fetch_adapter("models:/posing@x", tmp_path / "posing")
    assert not foreign.exists()


@pytest.mark.slow
def test_evaluate_does_not_run_a_foreign_model(
    foreign: Path, store: Path, tmp_path: Path, tiny_model, zygote
) -> None:
    from tests.place import Place

    place = Place(tmp_path, {"tiny": tiny_model("llama")})
    for name in ("plain", "posing"):
        words = ["--study", str(place.study), "--arm", "finetuned"]
        done = zygote.complete(
            ["evaluate", *words, "--adapter", f"models:/{name}@x"],
            {**place.environment, "MLFLOW_TRACKING_URI": f"sqlite:///{store}"},
            folder=ROOT,
        )
        assert done.returncode == 1, done.stderr[-2000:]
        assert "Traceback" not in done.stderr
        assert f"models:/{name}@x" in done.stderr
        assert not foreign.exists()


@pytest.mark.parametrize(
    "study", ["x' or tags.`xling.study` != 'x", "x'; drop table runs; --", "x\\", "' or ''='"]
)
def test_a_study_name_does_not_change_a_filter(study: str, store: Path) -> None:
    tracking.open_store()
    params = dict.fromkeys(("model", "arm", "seed", "reasoning", "scoring"), "x")
    if not tracking.find_runs(kind="evaluate", study="mine"):
        log_evaluation(
            study="mine", name="n", params=params, tags={}, families={"fra_Latn": "control"},
            accuracy={"fra_Latn": 0.5},
        )  # fmt: skip
    assert len(tracking.find_runs(kind="evaluate", study="mine")) == 1
    with pytest.raises(ValueError, match="may not hold quotes or backslashes"):
        tracking.find_runs(kind="evaluate", study=study)
    assert tracking.find_study_file(study) is None


@pytest.mark.parametrize("run_id", ["../../up", "..", "", "/etc", "a/b", "a\0b", "x" * 65, "a b"])
def test_a_run_of_a_hostile_id_is_not_fetched(run_id: str, tmp_path: Path) -> None:
    run = tracking.LoggedRun(
        run_id=run_id, name="n", params={}, metrics={}, tags={"xling.records_sha256": "0"},
        start_time=0, status="FINISHED",
    )  # fmt: skip
    folders = tmp_path / "a" / "folder", tmp_path / "a" / "cache"
    for name in (RECORDS_FILE, FORMAT_FILE):
        with pytest.raises(ValueError, match="which is not valid"):
            fetch_file(tracking, run, name, *folders)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("alias", ["../x", "a b", "a'b", "latest", "v1", "", "a\nb", "x" * 300])
def test_an_alias_that_the_registry_does_not_take_is_refused_first(
    alias: str, no_store: Path
) -> None:
    result = CliRunner().invoke(register, ["--alias", alias])
    assert result.exit_code == 2
    assert "'--alias'" in result.output and "letters, digits" in result.output
    assert not no_store.exists()


@pytest.mark.parametrize("command", [prepare, evaluate])
@pytest.mark.parametrize("data", ["x" * 5000, "../no-such", "$(touch marker)", "-x", "a\nb"])
def test_a_folder_of_a_hostile_name_is_one_message(command, data: str, no_store: Path) -> None:
    result = CliRunner().invoke(command, ["--data", data])
    assert result.exit_code == 1
    assert result.output.startswith("Error: ") and "Traceback" not in result.output
    assert list(no_store.parent.iterdir()) == []
