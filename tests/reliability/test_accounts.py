"""A study on a tracking server with accounts, by a user who may write one experiment only."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.place import Place
from tests.reliability.accounts import ADMIN, AccountServer, as_user
from tests.reliability.study_processes import Zygote

pytestmark = pytest.mark.slow

EXPERIMENT, HIDDEN = "shared", "others"
WRITER = ("writer", "writers-own-secret-1")
READER = ("reader", "readers-own-secret-1")
STRANGER = ("stranger", "strangers-own-secret-1")
# Not even new experiments are theirs to make.
GUEST = ("guest", "guests-own-secret-1")
SOAK = int(os.environ.get("XLING_SOAK", "1"))
SECRETS = [secret for _, secret in (ADMIN, WRITER, READER, STRANGER, GUEST)]


class Accounts:
    """A server whose keeper made two experiments, and a study of its users."""

    def __init__(self, server: AccountServer, place: Place, zygote: Zygote) -> None:
        self.server = server
        self.place = place
        self.zygote = zygote
        place.uri = server.uri

    def grant(self) -> None:
        """Makes experiments and users, and says who may do what."""
        from mlflow import MlflowClient
        from mlflow.server.auth.client import AuthServiceClient

        with as_user(*ADMIN):
            client, keeper = MlflowClient(self.server.uri), AuthServiceClient(self.server.uri)
            shared = client.create_experiment(EXPERIMENT)
            hidden = client.create_experiment(HIDDEN)
            run = client.create_run(
                hidden, tags={"xling.kind": "study", "xling.study": "secret-study"}
            )
            client.log_text(run.info.run_id, "name: secret-study\n", "study.yaml")
            for user in (WRITER, READER, STRANGER, GUEST):
                keeper.create_user(*user)
            keeper.grant_user_permission(WRITER[0], "experiment", shared, "EDIT")
            keeper.grant_user_permission(READER[0], "experiment", shared, "READ")
            keeper.grant_user_permission(GUEST[0], "experiment", "*", "DENY")

    def run(
        self, entry_point: str, user: tuple[str, str], *, experiment: str = EXPERIMENT, **options
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command of the study as a user."""
        words = [w for key, value in options.items() for w in (f"--{key}", str(value))]
        return self._complete(user, experiment, entry_point, *words)

    def fetch(self, user: tuple[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
        """Fetches the registered adapter as a user; prints where its files are."""
        code = (
            "import pathlib, sys; from xling.tracking import fetch_adapter; "
            "print(fetch_adapter(sys.argv[1], pathlib.Path(sys.argv[2])).folder)"
        )
        words = ("models:/tiny-tiny-llama@champion", str(folder))
        return self._complete(user, EXPERIMENT, "-c", code, *words)

    def permit(self, user: tuple[str, str], experiment_id: str, permission: str) -> None:
        """Changes what a user may do; for the keeper."""
        from mlflow.server.auth.client import AuthServiceClient

        keeper = AuthServiceClient(self.server.uri)
        keeper.revoke_user_permission(user[0], "experiment", experiment_id)
        keeper.grant_user_permission(user[0], "experiment", experiment_id, permission)

    def _complete(
        self, user: tuple[str, str], experiment: str, *words: str
    ) -> subprocess.CompletedProcess[str]:
        return self.zygote.completed(self.start(user, experiment, *words), list(words))

    def start(
        self, user: tuple[str, str], experiment: str, *words: str, kill: dict | None = None
    ) -> Path:
        """Start a command as a user; `zygote.completed` takes what is returned."""
        environment = {
            **self.place.environment,
            "MLFLOW_TRACKING_USERNAME": user[0],
            "MLFLOW_TRACKING_PASSWORD": user[1],
            "MLFLOW_EXPERIMENT_NAME": experiment,
            "XDG_CACHE_HOME": str(self.place.folder / "cache"),
            "OMP_NUM_THREADS": "1",
        }
        return self.zygote.start(
            list(words), environment, folder=self.place.folder, drawn=False, apart=True, kill=kill
        )

    def names(self, user: tuple[str, str] = ADMIN) -> list[str]:
        """Names of all runs in the experiment, sorted."""
        with as_user(*user):
            client = self.place.client()
            found = client.get_experiment_by_name(EXPERIMENT)
            runs = client.search_runs([found.experiment_id], "attributes.status = 'FINISHED'")
        return sorted(run.info.run_name for run in runs)


@pytest.fixture(scope="module")
def accounts(tmp_path_factory: pytest.TempPathFactory, tiny_model, zygote) -> Iterator[Accounts]:
    server = AccountServer(tmp_path_factory.mktemp("server"))
    place = Place(tmp_path_factory.mktemp("user"), {"tiny-llama": tiny_model("llama")})
    try:
        server.start()
        made = Accounts(server, place, zygote)
        made.grant()
        yield made
    finally:
        server.kill()


@pytest.fixture(scope="module")
def study(accounts: Accounts) -> subprocess.CompletedProcess[str]:
    return accounts.run("main", WRITER, study=accounts.place.study)


def test_a_user_who_may_edit_one_experiment_runs_a_whole_study(accounts, study):
    assert study.returncode == 0, study.stderr[-3000:]
    assert f"Runs      in experiment '{EXPERIMENT}'" in study.stdout
    assert accounts.names() == [
        "analyze tiny",
        "evaluate tiny-llama/base/seed-0",
        "evaluate tiny-llama/finetuned/seed-0",
        "finetune tiny-llama/finetuned/seed-0",
        "prepare tiny",
        "study tiny",
    ]


def test_the_adapter_is_registered_and_its_maker_may_load_it(accounts, study, tmp_path):
    assert "models:/tiny-tiny-llama@champion is version 1" in study.stdout
    with as_user(*WRITER):
        client = accounts.place.client()
        version = client.get_model_version_by_alias("tiny-tiny-llama", "champion")
        assert version.tags["xling.evaluate_run"]
    fetched = accounts.fetch(WRITER, tmp_path / "own")
    assert fetched.returncode == 0, fetched.stderr[-3000:]
    assert (Path(fetched.stdout.strip()) / "adapter_model.safetensors").is_file()
    refused = accounts.fetch(STRANGER, tmp_path / "not")
    assert "ValueError: no adapter 'models:/tiny-tiny-llama@champion' in http" in refused.stderr
    assert not [secret for secret in SECRETS if secret in refused.stderr]


def test_a_second_start_repeats_nothing(accounts, study):
    before = accounts.names()
    again = accounts.run("main", WRITER, study=accounts.place.study)
    assert again.returncode == 0, again.stderr[-3000:]
    assert sorted([*before, "analyze tiny", "study tiny"]) == accounts.names()
    assert "models:/tiny-tiny-llama@champion is version 1" in again.stdout


def test_a_study_is_found_by_name_in_what_a_user_may_read(accounts, study):
    found = accounts.run("analyze", WRITER, study="tiny")
    assert found.returncode == 0, found.stderr[-3000:]
    for user, name in ((WRITER, "secret-study"), (STRANGER, "tiny")):
        refused = accounts.run("analyze", user, experiment="own", study=name)
        assert refused.returncode == 2
        assert f"unknown study '{name}'" in refused.stderr


COMMANDS = ("main", "finetune", "evaluate", "prepare", "register", "analyze")


@pytest.mark.parametrize("entry_point", COMMANDS[: 2 if SOAK == 1 else None])
def test_a_wrong_password_ends_in_one_message_before_any_work(accounts, study, entry_point):
    wrong = (WRITER[0], "not-the-writers-secret")
    message = _refusal(accounts, entry_point, wrong)
    assert f"tracking server {accounts.server.uri} does not know this account (401" in message
    assert "MLFLOW_TRACKING_PASSWORD" in message
    assert wrong[1] not in message


def test_a_wrong_password_is_told_where_a_study_is_looked_up_by_name(accounts, study):
    refused = accounts.run("analyze", (WRITER[0], "not-the-writers-secret"), study="tiny")
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    assert "does not know this account (401" in refused.stderr


def test_no_account_ends_in_one_message_before_any_work(accounts, study):
    assert "does not know this account (401" in _refusal(accounts, "main", ("", ""))


def test_a_user_who_may_not_see_the_experiment_is_told_so(accounts, study):
    message = _refusal(accounts, "main", STRANGER)
    assert f"does not let this account use experiment {EXPERIMENT!r} (403" in message


def test_a_user_who_may_only_read_the_experiment_is_told_so(accounts, study):
    message = _refusal(accounts, "main", READER)
    assert f"takes no run in experiment {EXPERIMENT!r}" in message
    assert "403" in message


def test_a_user_who_may_make_no_experiment_is_told_so(accounts, study):
    message = _refusal(accounts, "main", GUEST, experiment="brand-new")
    assert "does not let this account use experiment 'brand-new' (403" in message
    with as_user(*ADMIN):
        assert accounts.place.client().get_experiment_by_name("brand-new") is None


def test_a_right_that_is_taken_away_amid_a_study_loses_nothing(accounts, study):
    before = accounts.names()
    words = ("evaluate", "--study", str(accounts.place.study), "--force", "true")
    stop = {"stage": "scoring", "count": 0, "signal": int(signal.SIGSTOP)}
    log = accounts.start(WRITER, EXPERIMENT, *words, kill=stop)
    with as_user(*ADMIN):
        client = accounts.place.client()
        shared = client.get_experiment_by_name(EXPERIMENT).experiment_id
        process = accounts.zygote.wait_until_stopped(log)
        assert client.search_runs([shared], "attributes.status = 'RUNNING'")
        accounts.permit(WRITER, shared, "READ")
        os.kill(process, signal.SIGCONT)
    done = accounts.zygote.completed(log, list(words))
    output, errors = done.stdout, done.stderr
    assert accounts.names() == before
    assert "403" in errors
    assert "1 run waits" in output + errors
    assert "Traceback" not in errors
    with as_user(*ADMIN):
        accounts.permit(WRITER, shared, "EDIT")
    sent = accounts.run("sync", WRITER)
    assert sent.returncode == 0, sent.stderr[-3000:]
    assert accounts.names() == sorted([*before, "evaluate tiny-llama/base/seed-0"])
    assert not [secret for secret in SECRETS if secret in output + errors]


def _refusal(
    accounts: Accounts, entry_point: str, user: tuple[str, str], *, experiment: str = EXPERIMENT
) -> str:
    """The one message that a command ends with; nothing was computed or logged for it."""
    before = accounts.names()
    folders = _state(accounts.place)
    done = accounts.run(entry_point, user, experiment=experiment, study=accounts.place.study)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    messages = re.findall(r"^Error: .*", done.stderr, flags=re.MULTILINE)
    assert len(messages) == 1
    assert accounts.names() == before
    assert _state(accounts.place) == folders
    assert "cell 1 of" not in done.stderr
    assert not [secret for secret in SECRETS if secret in done.stdout + done.stderr]
    return str(messages[0])


def _state(place: Place) -> set[str]:
    """Files of unfinished work, but for empty ones."""
    root = place.folder / "state"
    return {str(path) for path in root.rglob("*") if path.is_file() and path.stat().st_size}


def test_no_secret_is_left_anywhere(accounts, study):
    """Runs last: it reads all that the others left."""
    roots = [accounts.server.folder, accounts.place.folder]
    files = [path for root in roots for path in root.rglob("*") if path.is_file()]
    assert len(files) > 100
    for path in files:
        if path.name == "basic_auth.ini":  # the server's own
            continue
        content = path.read_bytes()
        assert not [secret for secret in SECRETS if secret.encode() in content], path
    assert not [secret for secret in SECRETS if secret in study.stdout + study.stderr]
