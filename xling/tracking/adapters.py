"""Adapters in MLflow: logged as pyfunc models, loaded back, registered, fetched."""

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

from xling.models.memory import free_memory
from xling.prompts import ITEM_FIELDS
from xling.records import LOGPROB_COLUMNS
from xling.requirements import adapter_requirements
from xling.tracking.store import tracking_uri, without_password

ADAPTER = "adapter"
ROOT = Path(__file__).resolve().parent.parent


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
    """A prompt, or the fields of an item, in; scores of the four options out."""
    inputs = [ColSpec("string", name, required=False) for name in ("prompt", *ITEM_FIELDS)]
    outputs = [ColSpec("double", name) for name in LOGPROB_COLUMNS]
    outputs += [ColSpec("long", "prediction"), ColSpec("double", "answer_mass")]
    return ModelSignature(Schema(inputs), Schema(outputs))


def log_adapter(folder: Path, *, settings: Mapping[str, Any]) -> str:
    """Logs an adapter folder as a models-from-code pyfunc model of the active run.

    Args:
        folder: PEFT's files; safetensors.
        settings: what the model needs to load its base; see `xling.adapter_model`.

    Returns:
        Id of the logged model.
    """
    info = mlflow.pyfunc.log_model(
        name=ADAPTER,
        python_model=str(ROOT / "adapter_model.py"),
        artifacts={ADAPTER: str(folder)},
        model_config=dict(settings),
        signature=adapter_signature(),
        code_paths=[str(ROOT)],
        pip_requirements=adapter_requirements(),
    )
    return str(info.model_id)


def score_logged_adapter(model_id: str, prompts: Sequence[str]) -> np.ndarray[Any, Any]:
    """Loads a logged model back, base and all, scores prompts with it, and frees its memory.

    Returns:
        Shape (n, 4); natural logs.
    """
    model = mlflow.pyfunc.load_model(f"models:/{model_id}")
    try:
        answers = model.predict(pd.DataFrame({"prompt": list(prompts)}))
        return np.asarray(answers[list(LOGPROB_COLUMNS)].to_numpy())
    finally:
        # MLflow keeps the last model that it ran the code of: it would keep the base with it.
        vars(model.unwrap_python_model()).clear()
        free_memory()


def fetch_adapter(uri: str, folder: Path) -> FetchedAdapter:
    """Downloads an adapter.

    Args:
        uri: id of a finetune run, ``models:/name@alias``, ``models:/name/version`` or
            ``models:/m-…``.
        folder: where it is put.

    Raises:
        ValueError: there is no such adapter; the message names the forms that are valid.
    """
    address = uri if uri.startswith(("models:/", "runs:/")) else f"runs:/{uri}/{ADAPTER}"
    try:
        info = mlflow.models.get_model_info(address)
        local = Path(
            mlflow.artifacts.download_artifacts(artifact_uri=address, dst_path=str(folder))
        )
    except (MlflowException, OSError) as error:
        reason = without_password(str(error))
        raise ValueError(
            f"no adapter {uri!r} in {tracking_uri()} ({reason}); valid: the id of a finetune run, "
            "or models:/name@alias"
        ) from error
    flavor = info.flavors.get("python_function", {})
    settings = flavor.get("config") or {}
    path = local / "artifacts"
    found = sorted(path.rglob("adapter_config.json"))
    if not found or "weights" not in settings:
        raise ValueError(f"{uri!r} is a model, but no adapter that this package logged")
    return FetchedAdapter(
        folder=found[0].parent,
        settings=dict(settings),
        model_id=str(info.model_id or ""),
        uri=uri,
    )


def register_adapter(
    model_id: str, *, name: str, alias: str, tags: Mapping[str, str]
) -> RegisteredAdapter:
    """Makes a logged model a version in the registry, with alias and tags.

    A model that is a version already gets the alias and tags, and no second version.

    Args:
        model_id: of a logged model that has been loaded back and checked.
        name: registered model name.
        alias: moved to this version.
        tags: of the version, under ``xling.``.
    """
    client = MlflowClient()
    version = _version_of(client, name, model_id)
    if version is None:
        version = str(mlflow.register_model(f"models:/{model_id}", name).version)
    for key, value in tags.items():
        client.set_model_version_tag(name, version, f"xling.{key}", value)
    client.set_registered_model_alias(name, alias, version)
    return RegisteredAdapter(name, version, alias)


def _version_of(client: MlflowClient, name: str, model_id: str) -> str | None:
    for version in client.search_model_versions(f"name = '{name}'"):
        if version.source == f"models:/{model_id}" or version.model_id == model_id:
            return str(version.version)
    return None
