"""Adapters in MLflow: logged as pyfunc models, loaded back, registered, fetched."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types.schema import ColSpec, Schema

from xling.files.atomic import atomic_directory, atomic_write, work_lock
from xling.files.checksums import hash_folder
from xling.files.paths import ROOT
from xling.files.requirements import adapter_requirements
from xling.messages.secrets import without_secrets
from xling.models.memory import free_memory
from xling.prompts import ITEM_FIELDS
from xling.records import LOGPROB_COLUMNS
from xling.serving.limits import LIMITS, default_limits
from xling.tracking.outbox.connection import outbox
from xling.tracking.outbox.entry import ADAPTER
from xling.tracking.outbox.pending import adapter_id, find_waiting_adapter, latest_id
from xling.tracking.outbox.sender import is_final, one_try
from xling.tracking.runs import active_entry, log_operation
from xling.tracking.store import store_errors, tracking_uri

# Key of a logged adapter's settings: sha256 of its files.
FILES_SHA256 = "files_sha256"
# Beside an adapter on this machine: the run that logged it, and its settings.
SETTINGS_FILE = "logged.json"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FetchedAdapter:
    """An adapter brought from the store to this machine.

    Attributes:
        folder: PEFT's files.
        settings: base model, revision, weights identity, quantisation and prompt it was
            trained with.
        model_id: of the logged model, which evaluation metrics are linked to.
        uri: as it was asked for.
    """

    folder: Path
    settings: dict[str, Any]
    model_id: str
    uri: str

    @property
    def files_sha256(self) -> str:
        """Hash of its files, as they were logged; of one that was logged without, its id."""
        return str(self.settings.get(FILES_SHA256, "") or self.model_id)


@dataclass(frozen=True)
class RegisteredAdapter:
    """A version in the model registry."""

    name: str
    version: str
    alias: str

    @property
    def uri(self) -> str:
        """``models:/name@alias``."""
        return f"models:/{self.name}@{self.alias}"


def adapter_signature() -> ModelSignature:
    """Return the signature: a prompt, or an item's fields, in; scores of the options out."""
    inputs = [ColSpec("string", name, required=False) for name in ("prompt", *ITEM_FIELDS)]
    outputs = [ColSpec("double", name) for name in LOGPROB_COLUMNS]
    outputs += [ColSpec("long", "prediction"), ColSpec("double", "answer_mass")]
    return ModelSignature(Schema(inputs), Schema(outputs))


def log_adapter(folder: Path, *, settings: Mapping[str, Any], example: str) -> str:
    """Log an adapter folder as a models-from-code pyfunc model of the active run.

    Args:
        folder: PEFT's files; safetensors.
        settings: what the model needs to load its base; see `xling.serving.adapter_model`.
        example: a prompt, which shows a user what to send.

    Returns:
        Id of the logged model, or what stands for it while the store is silent.
    """
    entry = active_entry()
    digest = hash_folder(folder)
    with atomic_directory(entry.adapter) as temporary:
        mlflow.pyfunc.save_model(
            path=str(temporary),
            python_model=str(ROOT / "xling" / "serving" / "adapter_model.py"),
            artifacts={ADAPTER: str(folder)},
            model_config={LIMITS: default_limits(), **settings, FILES_SHA256: digest},
            signature=adapter_signature(),
            input_example=pd.DataFrame({"prompt": [example]}),
            code_paths=[str(ROOT / "xling")],
            pip_requirements=adapter_requirements(),
        )
        for compiled in list(temporary.rglob("__pycache__")):
            shutil.rmtree(compiled)
    if not log_operation({"do": "adapter", "params": {FILES_SHA256: digest}}):
        entry.sent.has_placeholder = True
        entry.record_sent()
    logged = {
        "run_id": entry.run_id,
        "model_id": adapter_id(entry),
        "settings": {**settings, FILES_SHA256: digest},
    }
    with atomic_write(folder.parent / SETTINGS_FILE) as target:
        target.write_text(json.dumps(logged), encoding="utf-8")
    return adapter_id(entry)


def score_logged_adapter(model_id: str, prompts: Sequence[str]) -> np.ndarray[Any, Any]:
    """Load a logged model back, score prompts with it, and free its memory.

    The adapter comes from the store, whatever is in memory, or from the outbox while the store is
    silent; the base, too, unless the process shares one (`xling.models.BaseModelCache.share`).

    Returns:
        Shape (n, 4); natural logs.
    """
    model = _loaded_back(latest_id(outbox(), model_id))
    try:
        answers = model.predict(pd.DataFrame({"prompt": list(prompts)}))
        return np.asarray(answers[list(LOGPROB_COLUMNS)].to_numpy())
    finally:
        # MLflow keeps the last model that it ran the code of: it would keep the base with it.
        model.unwrap_python_model().close()
        free_memory()


def _loaded_back(model_id: str) -> Any:
    """Load a logged model from the store, or from the outbox while that is silent."""
    waiting = find_waiting_adapter(outbox(), model_id)
    if waiting is not None:
        return mlflow.pyfunc.load_model(str(waiting.adapter))
    try:
        return mlflow.pyfunc.load_model(f"models:/{model_id}")
    except store_errors() as error:
        entry = active_entry()
        if is_final(error) or entry.sent.models.get(ADAPTER) != model_id:
            raise
        logger.warning("%s could not be loaded back from the store: %s", model_id, error)
        return mlflow.pyfunc.load_model(str(entry.adapter))


def fetch_adapter(uri: str, folder: Path, *, at_hand: Path | None = None) -> FetchedAdapter:
    """Download an adapter, unless its very files are on this machine already.

    Args:
        uri: id of a finetune run, ``models:/name@alias``, ``models:/name/version`` or
            ``models:/m-…``.
        folder: where it is put.
        at_hand: folder that may hold its files, as the training left them; need not exist.

    Raises:
        ValueError: there is no such adapter (the message names the forms that are valid), or its
            files are not those that were logged.
    """
    uri = latest_id(outbox(), uri)
    waiting = find_waiting_adapter(outbox(), uri)
    address = uri if uri.startswith(("models:/", "runs:/")) else f"runs:/{uri}/{ADAPTER}"
    try:
        info = mlflow.models.get_model_info(str(waiting.adapter) if waiting else address)
        settings = info.flavors.get("python_function", {}).get("config") or {}
        model_id = adapter_id(waiting) if waiting else str(info.model_id or "")
        logged = settings.get(FILES_SHA256, "")
        if at_hand is not None and logged and hash_folder(at_hand) == logged:
            return FetchedAdapter(at_hand, dict(settings), model_id, uri)
        local = waiting.adapter if waiting else _download(address, folder)
    except store_errors() as error:
        known = _sent_before(uri, at_hand)
        if known is not None and not is_final(error):
            return known
        reason = without_secrets(str(error))
        raise ValueError(
            f"no adapter {uri!r} in {tracking_uri()} ({reason}); valid: the id of a finetune run, "
            "or models:/name@alias"
        ) from error
    found = sorted((local / "artifacts").rglob("adapter_config.json"))
    if not found or "weights" not in settings:
        raise ValueError(f"{uri!r} is a model, but not an adapter that this package logged")
    if not logged:
        raise ValueError(
            f"adapter {uri!r} has no checksums of its files ({FILES_SHA256}), so nothing says "
            "whether they were changed: train it again"
        )
    if hash_folder(found[0].parent) != logged:
        raise ValueError(
            f"the files of adapter {uri!r} in {tracking_uri()} are not those that were logged: "
            "they are damaged or were changed; train it again"
        )
    return FetchedAdapter(
        folder=found[0].parent, settings=dict(settings), model_id=model_id, uri=uri
    )


def _download(address: str, folder: Path) -> Path:
    return Path(mlflow.artifacts.download_artifacts(artifact_uri=address, dst_path=str(folder)))


def _sent_before(run_id: str, at_hand: Path | None) -> FetchedAdapter | None:
    """Return an adapter that this machine trained and sent to a store that is silent now."""
    if at_hand is None:
        return None
    path = at_hand.parent / SETTINGS_FILE
    if not path.is_file():
        return None
    known = json.loads(path.read_text(encoding="utf-8"))
    settings = known["settings"]
    if (
        latest_id(outbox(), known["run_id"]) != run_id
        or hash_folder(at_hand) != settings[FILES_SHA256]
    ):
        return None
    return FetchedAdapter(at_hand, settings, latest_id(outbox(), known["model_id"]), run_id)


def register_adapter(
    model_id: str, *, name: str, alias: str, tags: Mapping[str, str]
) -> RegisteredAdapter:
    """Make a logged model a version in the registry, with alias and tags.

    A model that is a version already gets the alias and tags, and no second version. One process
    of this machine at a time registers under a name: two that both find no version would make two.

    Args:
        model_id: of a logged model that has been loaded back and checked.
        name: registered model name.
        alias: moved to this version.
        tags: of the version, under ``xling.``.
    """
    client = MlflowClient()

    def say() -> None:
        logger.info("%s: another process is registering it; waiting for it", name)

    digest = hashlib.sha256(f"{tracking_uri()} {name}".encode()).hexdigest()
    with work_lock(digest[:32], waiting=say):
        version = _version_of(client, name, model_id) or _new_version(client, name, model_id)
        for key, value in tags.items():
            client.set_model_version_tag(name, version, f"xling.{key}", value)
        client.set_registered_model_alias(name, alias, version)
    return RegisteredAdapter(name, version, alias)


def _new_version(client: MlflowClient, name: str, model_id: str) -> str:
    """Make a version; an answer that is lost on its way must not make a second one."""
    with one_try():
        try:
            _make_registered(client, name)
            made = client.create_model_version(name, f"models:/{model_id}", model_id=model_id)
            return str(made.version)
        except store_errors():
            found = _version_of(client, name, model_id)
            if found is None:
                raise
            return found


def _make_registered(client: MlflowClient, name: str) -> None:
    """Make a registered model, unless there is one of that name."""
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _version_of(client: MlflowClient, name: str, model_id: str) -> str | None:
    if "'" in name or "\\" in name:  # the name of a model that others logged
        raise ValueError(f"{name!r} is not a valid name for a registered model: it holds quotes")
    for version in client.search_model_versions(f"name = '{name}'"):
        if version.source == f"models:/{model_id}" or version.model_id == model_id:
            return str(version.version)
    return None
