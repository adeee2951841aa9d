"""Keys and passwords, planted in environment, addresses and study files: found nowhere after."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file, save_file

from tests.place import ROOT, Place
from tests.reliability.study_processes import Zygote
from tests.serving import TinyServer
from xling.messages.secrets import MASK, hide, without_secrets
from xling.study.load import parse_study

CANARY = "c4n4ry"
# No two the same, none of a known form: each can only be known by where it stands.
PLANTED = {
    name: f"{CANARY}-{place}-Zk9/x+Q7="
    for place, name in enumerate(
        (
            "HF_TOKEN",
            "HUGGING_FACE_HUB_TOKEN",
            "OPENAI_API_KEY",
            "CLUSTER_KEY",
            "MLFLOW_TRACKING_PASSWORD",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_SESSION_TOKEN",
            "GITHUB_TOKEN",
            "DATABASE_PASSWORD",
            "WANDB_API_KEY",
        )
    )
} | {
    "MLFLOW_TRACKING_USERNAME": "somebody",
    "HTTP_PROXY_UNUSED": f"http://user:{CANARY}-proxy@proxy:3128",
    "PIP_EXTRA_INDEX_URL": f"https://user:{CANARY}-index@index.invalid/simple",
}


def run(
    place: Place, module: str, *arguments: str, zygote: Zygote | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, with all that is planted around it.

    With a zygote the process has the libraries loaded, which have not seen what is planted.
    """
    around = {
        **place.environment,
        **PLANTED,
        "PYTHONPATH": str(ROOT),
        "MLFLOW_EXPERIMENT_NAME": "tiny",
        "XDG_CACHE_HOME": str(place.folder / "cache"),
        **environment,
    }
    if zygote is not None:
        words = [module.removeprefix("entrypoints."), *arguments]
        return zygote.complete(words, around, folder=place.folder)
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=around, cwd=place.folder, capture_output=True, text=True, check=False,
    )  # fmt: skip


def planted_in(folder: Path) -> list[str]:
    """Files of a folder, and names of files, that hold a canary."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file() and CANARY.encode() in path.read_bytes():
            found.append(str(path))
        if CANARY in path.name:
            found.append(str(path))
    return found


def check_clean(done: subprocess.CompletedProcess[str]) -> None:
    for text in (done.stdout, done.stderr):
        place = text.find(CANARY)
        assert place < 0, text[max(0, place - 300) : place + 100]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_model) -> Place:
    """A study of one whole model and one that fails with its own path in the message."""
    folder = tmp_path_factory.mktemp("secrets")
    damaged = shutil.copytree(tiny_model("qwen3"), folder / "damaged")
    tensors = load_file(damaged / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, damaged / "model.safetensors", {"format": "pt"})
    return Place(folder, {"tiny": tiny_model("llama"), "damaged": damaged})


@pytest.mark.slow
def test_a_study_leaves_no_secret_in_store_disk_or_output(place: Place) -> None:
    done = run(place, "entrypoints.main", "--study", str(place.study), XLING_DEBUG="1")
    assert done.returncode == 1 and "damaged/base/seed-0" in done.stderr, done.stderr[-3000:]
    check_clean(done)
    kinds = {kind: len(place.runs(kind)) for kind in ("study", "finetune", "evaluate", "analyze")}
    assert kinds["study"] == 1 and kinds["finetune"] >= 1 and kinds["evaluate"] >= 3
    # Every byte of the database, of artifacts, unfinished work and cache.
    assert (place.folder / "mlflow.db").stat().st_size > 0
    assert list((place.folder / "state").rglob("*")) and list((place.folder / "cache").rglob("*"))
    assert planted_in(place.folder) == []
    assert list((place.folder / "mlruns").rglob("report.html"))


def study_of(place: Place, name: str, **changes: object) -> Path:
    path = place.folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**place.settings, "name": name, **changes}))
    return path


URIS = (
    f"http://user:{CANARY}-a@127.0.0.1:9",
    f"http://user:{CANARY}-p@ss/w0rd@127.0.0.1:9/x",
    f"http://{CANARY}-token@127.0.0.1:9/?api_key={CANARY}-q",
    f"postgresql://user:{CANARY}-a@127.0.0.1:9/db",
    f"mysql+pymysql://user:{CANARY}%40a@127.0.0.1:9/db",
    f"nosuch://user:{CANARY}-a@127.0.0.1:9/db",
)


@pytest.mark.slow
@pytest.mark.parametrize("uri", URIS)
def test_a_store_that_fails_tells_no_password(uri: str, place: Place, zygote: Zygote) -> None:
    done = run(
        place, "entrypoints.prepare", "--study", str(place.study), zygote=zygote,
        MLFLOW_TRACKING_URI=uri,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr[-2000:]
    check_clean(done)
    assert planted_in(place.folder) == []


@pytest.mark.slow
def test_the_token_of_a_clone_s_address_is_in_no_tag(tmp_path: Path) -> None:
    """MLflow tags a project's run with the address that its clone came from."""
    clone = tmp_path / "clone"
    for name in ("xling", "analysis", "entrypoints"):
        shutil.copytree(ROOT / name, clone / name)
    for name in ("MLproject", "conda.yaml"):
        shutil.copy(ROOT / name, clone / name)
    who = ["-c", "user.name=n", "-c", "user.email=e"]
    for command in (
        ["init", "-q"],
        ["remote", "add", "origin", f"https://user:{CANARY}-git@host/xling.git"],
        ["add", "MLproject"],
        [*who, "commit", "-q", "-m", "x"],
    ):
        subprocess.run(["git", *command], cwd=clone, check=True, capture_output=True)
    place = Place(tmp_path, {})
    done = subprocess.run(
        [
            sys.executable, "-m", "mlflow", "run", str(clone), "-e", "simulate",
            "--env-manager", "local", "--experiment-name", "tiny", "-P", "models=2",
            "-P", "items=4",
        ],
        env=place.environment, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    (run,) = place.runs("study")
    assert "host/xling.git" in run.data.tags["mlflow.source.git.repoURL"]
    check_clean(done)
    assert planted_in(tmp_path / "mlruns") == [] and CANARY not in str(run.to_dictionary())
    assert CANARY.encode() not in (tmp_path / "mlflow.db").read_bytes()


@pytest.fixture(scope="module")
def server(tiny_model):
    with TinyServer(tiny_model("llama")).running() as running:
        yield running


@pytest.mark.slow
def test_a_server_that_repeats_the_key_is_not_repeated(
    place: Place, server, zygote: Zygote
) -> None:
    server.reset(key="another", says_key=True)
    model = {
        "id": str(server.folder),
        "name": "served",
        "engine": "server",
        "server": {"url": server.url, "key_variable": "CLUSTER_KEY"},
    }
    path = study_of(place, "served", models=[model], arms=["base"])
    done = run(place, "entrypoints.main", "--study", str(path), zygote=zygote)
    assert done.returncode == 1, done.stderr[-2000:]
    assert "Incorrect API key provided: ***" in done.stderr
    assert PLANTED["CLUSTER_KEY"] in server.seen.keys  # it was sent, and to no one else
    check_clean(done)
    assert planted_in(place.folder) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"description": f"see https://user:{CANARY}-x@host/page"},
        {"description": f"password={CANARY}-x"},
        {"description": "Authorization: Bearer " + CANARY + "-x-y-z"},
        {"description": "the token is hf_AbCdEfGhIjKlMnOpQrStUv0123"},
        {"data": {"source": "folder", "path": f"https://user:{CANARY}-x@host/data"}},
        {"data": {"source": "hub", "repository": f"https://h/x?token={CANARY}-x"}},
        {"models": [{"id": f"https://user:{CANARY}-x@host/model", "name": "a"}]},
        {"models": [{"id": f"https://user:{CANARY}-x@host/model"}]},
        {"models": [{"id": "gemma3-270m", "nmae": f"http://u:{CANARY}@h"}]},
        {"models": [{"id": "gemma3-270m", "engine": "server",
                     "server": {"url": f"http://user:{CANARY}@host/v1"}}]},
        {"models": [{"id": "gemma3-270m", "engine": "server",
                     "server": {"url": f"http://host/v1?api_key={CANARY}"}}]},
        {"models": [{"id": "gemma3-270m", "engine": "server",
                     "server": {"url": "http://host/v1", "model": f"password={CANARY}"}}]},
        {"name": f"http://u:{CANARY}@h"},
    ],
)  # fmt: skip
def test_a_study_file_that_holds_a_secret_is_refused_without_it(
    changes: dict[str, object], tmp_path: Path, place: Place
) -> None:
    text = yaml.safe_dump({**place.settings, **changes})
    with pytest.raises(ValueError, match=r"mine\.yaml") as refused:
        parse_study(text, where="mine.yaml")
    assert CANARY not in str(refused.value) and "hf_" not in str(refused.value)


def test_a_study_file_that_holds_a_value_of_the_environment_is_refused(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = yaml.safe_dump({**place.settings, "description": f"my key: {CANARY}-plain"})
    parse_study(text, where="mine.yaml")
    monkeypatch.setenv("SOME_API_KEY", f"{CANARY}-plain")
    with pytest.raises(ValueError, match="description holds what looks like a password"):
        parse_study(text, where="mine.yaml")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:pw@host/x", "http://***@host/x"),
        ("http://user:p@ss/w@host/x y", "http://***@host/x y"),
        ("'https://tok@github.com/x'", "'https://***@github.com/x'"),
        ("folder https:/user:pw@host is none", "folder https:/***@host is none"),
        ("http://h/v1?api_key=abc&x=1", "http://h/v1?api_key=***&x=1"),
        ("GET /x?X-Amz-Signature=abc;token=d", "GET /x?X-Amz-Signature=***;token=***"),
        ("host=h password=abc, port=1", "host=h password=***, port=1"),
        ("MLFLOW_TRACKING_TOKEN=zzz", "MLFLOW_TRACKING_TOKEN=***"),
        ("Authorization: Bearer abcdefgh.i", "Authorization: ***"),
        ("{'Authorization': 'Basic dXNlcjpwdw=='}", "{'Authorization': '***'}"),
        ("used Bearer abcdefghijkl there", "used Bearer *** there"),
        ("hf_ABCDEFGHIJKLMNOPQRSTUV", "***"),
        ("sk-proj-abcdefghijklmnop", "***"),
    ],
)
def test_secrets_are_known_by_their_form(text: str, shown: str) -> None:
    assert without_secrets(text) == shown
    assert without_secrets(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "models:/tiny-llama@champion is version 1",
        "hub:Qwen/Qwen3-4B@0123456789abcdef",
        "server http://127.0.0.1:9/api/2.0/x: status 500",
        "sqlite:////tmp/a:b/mlflow.db",
        "git+https://github.com/x/y@tag",
        "max_tokens=3 sort_key=1 author=Bob",
        "mlflow run . -P adapter=models:/x@y -P data=/a:b/c@d",
        "TOKENIZERS_PARALLELISM is false",
        "http://h:5000 and x@y.z",
    ],
)
def test_what_is_no_secret_is_shown(text: str) -> None:
    assert without_secrets(text) == text


def test_the_working_folder_is_no_secret(monkeypatch) -> None:
    """Shells call it PWD, which is also short for a password."""
    for name in ("PWD", "OLDPWD"):
        monkeypatch.setenv(name, "/home/someone/work")
    assert without_secrets("sqlite:////home/someone/work/mlflow.db").count("someone") == 1
    monkeypatch.setenv("DATABASE_PWD", "canary-of-a-database")
    assert "canary" not in without_secrets("it is canary-of-a-database")


def test_values_of_the_environment_are_masked_in_every_form(monkeypatch) -> None:
    monkeypatch.setenv("X_TOKEN", "a b/c+d=é")
    monkeypatch.setenv("X_URI", "postgresql://u:q%40r-s-t@h/db")
    monkeypatch.setenv("X_KEY_PATH", "/home/somebody/key")
    for form in ("a b/c+d=é", "a%20b/c%2Bd%3D%C3%A9", "a%20b%2Fc%2Bd%3D%C3%A9", "q@r-s-t"):
        assert without_secrets(f"<{form}>") == f"<{MASK}>"
    assert without_secrets("/home/somebody/key") == "/home/somebody/key"
    hide("told-at-run-time")
    assert without_secrets("told-at-run-time") == MASK


def test_masking_takes_no_time_whatever_the_text() -> None:
    texts = [part * 50_000 + " @" for part in ("a:/b:c", "//a:", "a_", "key=", "x@", "Bearer a")]
    start = time.process_time()
    for text in texts:
        without_secrets(text)
    assert time.process_time() - start < 20


def test_commands_need_nothing_heavy_to_mask() -> None:
    code = "import sys, xling.messages.secrets; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    heavy = {"mlflow", "torch", "pandas", "numpy", "requests", "click", "pydantic", "yaml"}
    assert not heavy & set(done.stdout.split())
