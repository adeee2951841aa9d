"""Which names a server knows its models and adapters by, and how it is handed an adapter."""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xling.scoring.server.transport import ServerError, Transport

PATIENCE = 10.0  # seconds that a server may take for what it need not compute
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServedModels:
    """What a server says it has.

    Attributes:
        names: of models and adapters.
        base: name of the base model.
        owner: program that serves it, where it says (``vllm``, ``sglang``, ``llamacpp``).
        version: of that program; empty: it does not say.
        context: most tokens that it takes; None: it does not say.
        parents: base model of each adapter, by the adapter's name.
        aliases: names by which adapters may call the base.
    """

    names: tuple[str, ...]
    base: str
    owner: str = ""
    version: str = ""
    context: int | None = None
    parents: Mapping[str, str] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()

    @property
    def identity(self) -> tuple[str, ...]:
        """What of it decides answers: base, program and version."""
        return self.base, self.owner, self.version

    def request_name(self, adapter: str) -> str:
        """Return what requests name; SGLang takes an adapter's bare name for the base."""
        if not adapter:
            return self.base
        return f"{self.base}:{adapter}" if self.owner == "sglang" else adapter


@dataclass(frozen=True)
class ServedModel:
    """A model or adapter on a server, and where its answers are kept.

    Attributes:
        served: what the server has.
        adapter: its name there; empty: the base.
        context: of the model's own configuration, in tokens; None: it names none.
        cache_file: file of finished answers; None: they are not kept.
        cache_name: what kept answers know the adapter by, where its name is another each time;
            empty: its name.
    """

    served: ServedModels
    adapter: str = ""
    context: int | None = None
    cache_file: Path | None = None
    cache_name: str = ""


def find_served_models(transport: Transport, *, model: str, study_model: str) -> ServedModels:
    """Ask a server what it serves.

    Args:
        transport: to the server.
        model: name of the base in the study file's `server`; may be empty.
        study_model: id of the study's model, which is the base's name if `model` is empty and the
            server serves several.

    Raises:
        ValueError: it cannot be reached, refuses the key, or does not serve the base; says what it
            serves.
    """
    try:
        body = transport.get("/models", retries=1, timeout=PATIENCE).body
    except ServerError as error:
        remedy = "" if error.status else "\nStart the server, or correct `server.url`"
        raise ValueError(f"{error}{remedy}") from None
    cards = [card for card in body.get("data") or () if isinstance(card, dict) and "id" in card]
    names = tuple(str(card["id"]) for card in cards)
    bases = [card for card in cards if not card.get("parent")]
    wanted = model or study_model
    chosen = next((card for card in bases if card["id"] == wanted), None)
    if chosen is None and not model and len(bases) == 1:
        chosen = bases[0]
    if chosen is None:
        raise ValueError(
            f"server {transport.url} does not serve {wanted!r}; it serves "
            f"{', '.join(names) or 'nothing'}: set `server.model` to one of them, or serve "
            "the model under that name"
        )
    context = chosen.get("max_model_len")
    same = [card for card in bases if card.get("root") and card["root"] == chosen.get("root")]
    return ServedModels(
        names,
        str(chosen["id"]),
        str(chosen.get("owned_by") or ""),
        _version(transport),
        context if isinstance(context, int) else None,
        {str(card["id"]): str(card["parent"]) for card in cards if card.get("parent")},
        tuple(str(name) for card in same for name in (card["id"], card["root"])),
    )


def _version(transport: Transport) -> str:
    """Return the server program's version, from vLLM's and SGLang's pages; empty: it has none."""
    for page in ("/version", "/server_info"):
        try:
            version = transport.get(transport.root + page, retries=0, timeout=PATIENCE).body.get(
                "version"
            )
        except ServerError:
            continue  # a page that this server does not have
        if isinstance(version, str):
            return version
    return ""


@contextmanager
def served_adapter(
    transport: Transport,
    served: ServedModels,
    name: str,
    folder: Path | None,
    *,
    asked_for: str = "",
) -> Iterator[str]:
    """Make sure that a server has an adapter, and give the name that it has there.

    An adapter of the base that is served under `name` is taken for the right one, unless one was
    asked for. Else it is handed over, where the server can read `folder` and allows it, under a
    its own name, and taken back after the block.

    Args:
        transport: to the server.
        served: what it serves.
        name: of the adapter.
        folder: PEFT's files on this machine; None: they are not at hand.
        asked_for: run id or address of the very adapter that must answer; empty: the cell's own.

    Raises:
        ValueError: the adapter is not served and cannot be handed over, or `name` is another
            model's; says how to load it.
    """
    if name == served.base:
        raise ValueError(
            f"server {transport.url}: {name!r} is the base model, not an adapter on it; correct "
            "`server.adapter`"
        )
    if name in served.names and not asked_for:
        _check_parent(transport, served, name)
        yield name
        return
    refusals: list[str] = []
    if folder is not None:
        # Other cells may hand over the same adapter, and take theirs back, at any time.
        own_name = f"{name}-{_folder_digest(folder)}-{uuid.uuid4().hex[:8]}"
        for room in (transport.url, transport.root):  # vLLM's way, and SGLang's
            body: dict[str, Any] = {"lora_name": own_name, "lora_path": str(folder.resolve())}
            try:
                _post_quietly(transport, f"{room}/load_lora_adapter", body)
            except ServerError as error:
                if error.status not in (404, 405):
                    refusals.append(str(error))
                continue
            logger.info("server %s has loaded adapter %s", transport.url, own_name)
            try:
                yield own_name
            finally:
                _take_back(transport, f"{room}/unload_lora_adapter", own_name)
            return
    raise ValueError(_not_served(transport, served, name, folder, refusals, asked_for))


def _check_parent(transport: Transport, served: ServedModels, name: str) -> None:
    parent = served.parents.get(name)
    if parent not in (served.base, *served.aliases):
        what = f"is an adapter of {parent!r}" if parent else "is a model itself"
        raise ValueError(
            f"server {transport.url}: {name!r} {what}, not an adapter of {served.base!r}; correct "
            "`server.adapter` or `server.model`, or serve it as an adapter of that model"
        )


def _take_back(transport: Transport, path: str, name: str) -> None:
    """Unload an adapter; that it stays loaded spoils no result."""
    try:
        transport.post(path, {"lora_name": name}, retries=1, plain=True, timeout=PATIENCE)
    except ServerError as error:
        logger.warning("server %s keeps adapter %s: %s", transport.url, name, error)


def _post_quietly(transport: Transport, path: str, body: dict[str, Any]) -> None:
    """Send a request whose answer is a sentence, not JSON."""
    transport.post(path, body, retries=1, plain=True)


def _not_served(
    transport: Transport,
    served: ServedModels,
    name: str,
    folder: Path | None,
    refusals: list[str],
    asked_for: str,
) -> str:
    if asked_for:
        return (
            f"server {transport.url} cannot be handed adapter {asked_for!r}, and "
            f"{name!r} there need not be it: leave `adapter` empty if it is, or start vLLM with "
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True --enable-lora where it can read "
            f"{folder}{''.join(f'{chr(10)}{each}' for each in refusals)}"
        )
    place = str(folder) if folder is not None else "FOLDER"
    tried = f"\nHanding it over failed: {'; '.join(refusals)}" if refusals else ""
    return (
        f"server {transport.url} does not serve adapter {name!r}; it serves "
        f"{', '.join(served.names)}. Load it: vllm serve {served.base} --enable-lora "
        f"--lora-modules {name}={place} (SGLang: --lora-paths {name}={place}), with the files "
        "of the finetune run's artifact, or start vLLM with "
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True where it can read them; "
        f"`server.adapter` sets the name{tried}"
    )


def _folder_digest(folder: Path) -> str:
    """Return the first eight digits of the sha256 of a folder's files."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(path.relative_to(folder).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]
