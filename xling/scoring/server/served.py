"""Which names a server knows its models and adapters by, and how it is handed an adapter."""

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xling.scoring.server.transport import ServerError, Transport

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Served:
    """What a server says it has.

    Attributes:
        names: of models and adapters.
        base: name of the base model.
        owner: program that serves it, where it says (``vllm``, ``sglang``, ``llamacpp``).
        version: of that program; empty: it does not say.
        context: most tokens that it takes; None: it does not say.
    """

    names: tuple[str, ...]
    base: str
    owner: str = ""
    version: str = ""
    context: int | None = None

    def request_name(self, adapter: str) -> str:
        """What requests name; SGLang takes an adapter's bare name for the base."""
        if not adapter:
            return self.base
        return f"{self.base}:{adapter}" if self.owner == "sglang" else adapter


def find_served(transport: Transport, *, model: str, study_model: str) -> Served:
    """Asks a server what it serves.

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
        body = transport.get("/models").body
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
    return Served(
        names,
        str(chosen["id"]),
        str(chosen.get("owned_by") or ""),
        _version(transport),
        context if isinstance(context, int) else None,
    )


def _version(transport: Transport) -> str:
    """Version of the server's program, from vLLM's and SGLang's pages; empty: it has none."""
    for page in ("/version", "/server_info"):
        try:
            version = transport.get(transport.root + page, retries=0).body.get("version")
        except ServerError:
            continue  # a page that this server does not have
        if isinstance(version, str):
            return version
    return ""


@contextmanager
def served_adapter(
    transport: Transport, served: Served, name: str, folder: Path | None
) -> Iterator[str]:
    """Makes sure that a server has an adapter, and gives the name that it has there.

    An adapter that is served under `name` is taken for the right one. Else it is handed over, where
    the server can read `folder` and allows it, under a name with a digest of its files, and taken
    back after the block.

    Args:
        transport: to the server.
        served: what it serves.
        name: of the adapter.
        folder: PEFT's files on this machine; None: they are not at hand.

    Raises:
        ValueError: the adapter is not served and cannot be handed over; says how to load it.
    """
    if name in served.names:
        yield name
        return
    refusals: list[str] = []
    if folder is not None:
        own_name = f"{name}-{_folder_digest(folder)}"
        for room in (transport.url, transport.root):  # vLLM's way, and SGLang's
            load, unload = f"{room}/load_lora_adapter", f"{room}/unload_lora_adapter"
            body: dict[str, Any] = {"lora_name": own_name, "lora_path": str(folder.resolve())}
            try:
                if own_name in served.names:  # of work that was cut off; its files are gone
                    _post_quietly(transport, unload, {"lora_name": own_name})
                _post_quietly(transport, load, body)
            except ServerError as error:
                if error.status not in (404, 405):
                    refusals.append(str(error))
                continue
            logger.info("server %s has loaded adapter %s", transport.url, own_name)
            try:
                yield own_name
            finally:
                _post_quietly(transport, unload, {"lora_name": own_name})
            return
    raise ValueError(_not_served(transport, served, name, folder, refusals))


def _post_quietly(transport: Transport, path: str, body: dict[str, Any]) -> None:
    """A request whose answer is a sentence, not JSON."""
    transport.post(path, body, retries=1, plain=True)


def _not_served(
    transport: Transport, served: Served, name: str, folder: Path | None, refusals: list[str]
) -> str:
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
    """First eight digits of the sha256 of a folder's files."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(path.relative_to(folder).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]
