"""Where an evaluate cell's answers come from: a model in this process, or a server."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xling.execution.cells import configured_context, prompt_format
from xling.execution.prepared import Prepared
from xling.models import BaseShelf, LocatedModel
from xling.scoring import Engine, InProcessEngine
from xling.settings import ServerSettings
from xling.study import Cell

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


KEPT_ANSWERS = "server-answers.jsonl"


@dataclass(frozen=True)
class Seat:
    """What one stage's items are put to.

    Attributes:
        engine: scores and writes.
        tokenizer: of the model.
        model: where it is in this process; else None.
    """

    engine: Engine
    tokenizer: "PreTrainedTokenizerBase"
    model: "PreTrainedModel | PeftModel | None" = None


@dataclass(frozen=True)
class Source:
    """Engines of a cell, one of each stage.

    Attributes:
        params: what the cell's run logs of them under ``cfg.``.
        seats: a block for each stage, in which its seat can be used.
    """

    params: dict[str, Any]
    seats: tuple[AbstractContextManager[Seat], ...]


def source_identity(prepared: Prepared, cell: Cell) -> dict[str, Any]:
    """What of a cell's engine decides its answers, for the fingerprint.

    Of a server's device and batches nothing is known, and its address, key and limits decide
    nothing. The base's name is the study file's, which may leave it to the server: a finished run
    is found without asking it.
    """
    server = cell.model.server
    if server is None:
        return {"batch_tokens": prepared.study.scoring.batch_tokens}
    return {
        "engine": cell.model.engine,
        "device": [],
        "server": {
            "model": server.model,
            "adapters": _adapter_names(prepared, cell, server),
            "top_logprobs": server.top_logprobs,
        },
    }


@contextmanager
def engine_source(
    prepared: Prepared,
    cell: Cell,
    located: LocatedModel,
    shelf: BaseShelf,
    adapters: Sequence[Path | None],
    folders: Sequence[Path],
) -> Iterator[Source]:
    """Engines of a cell's stages; a server is tried out, and handed adapters, before the block.

    Args:
        prepared: study and data.
        cell: what is asked.
        located: the model.
        shelf: opens it, where it is in this process.
        adapters: folder of each stage's adapter; None: the base.
        folders: of each stage's work.

    Raises:
        ValueError: the server cannot be used, or does not have the base or an adapter.
    """
    server = cell.model.server
    if server is None:
        params = {"engine": "in-process", "batch_tokens": prepared.study.scoring.batch_tokens}
        yield Source(
            params, tuple(_local(prepared, cell, located, shelf, each) for each in adapters)
        )
        return
    with ExitStack() as stack:
        yield _remote(prepared, cell, located, server, adapters, folders, stack)


@contextmanager
def _local(
    prepared: Prepared,
    cell: Cell,
    located: LocatedModel,
    shelf: BaseShelf,
    adapter: Path | None,
) -> Iterator[Seat]:
    opened = shelf.open(located)
    with opened.adapted(adapter) if adapter else nullcontext(opened) as it:
        engine = InProcessEngine(
            it.model,
            it.tokenizer,
            add_special_tokens=not located.recipe.chat,
            batch_tokens=prepared.study.scoring.batch_tokens,
        )
        yield Seat(engine, it.tokenizer, it.model)


def _remote(
    prepared: Prepared,
    cell: Cell,
    located: LocatedModel,
    server: ServerSettings,
    adapters: Sequence[Path | None],
    folders: Sequence[Path],
    stack: ExitStack,
) -> Source:
    from xling.scoring.server import (
        ServedModel,
        ServerEngine,
        Transport,
        find_served,
        served_adapter,
    )

    transport = Transport(server)
    served = find_served(transport, model=server.model, study_model=cell.model.id)
    tokenizer = located.tokenizer()
    layout = prompt_format(prepared, located.recipe)
    names = _adapter_names(prepared, cell, server) or [""] * len(adapters)
    engines: list[ServerEngine] = []
    asked: list[str] = []
    for name, adapter, folder in zip(names, adapters, folders, strict=True):
        if name:
            name = stack.enter_context(served_adapter(transport, served, name, adapter))
            asked.append(name)
        model = ServedModel(served, name, configured_context(located), folder / KEPT_ANSWERS)
        engines.append(
            ServerEngine(
                transport,
                server,
                model,
                tokenizer,
                add_special_tokens=not layout.chat,
                ending=layout.answer_prefix,
            )
        )
    params = {
        "engine": cell.model.engine,
        # Of the server's machine and precision nothing is known here.
        **dict.fromkeys(("device", "dtype", "quantise"), "server"),
        "server.host": transport.host,
        "server.model": served.base,
        "server.adapter": " ".join(asked),
        "server.program": f"{served.owner} {served.version}".strip(),
        "server.answers": "; ".join(sorted({each.abilities.answers for each in engines})),
        "server.top_logprobs": server.top_logprobs,
    }
    return Source(params, tuple(nullcontext(Seat(each, tokenizer)) for each in engines))


def _adapter_names(prepared: Prepared, cell: Cell, server: ServerSettings) -> list[str]:
    """What the server calls the cell's adapters, fold by fold; none for the base."""
    if cell.arm == "base":
        return []
    template = server.adapter
    if prepared.cross_fitted and "{fold}" not in template:
        template += "-fold-{fold}"
    return [
        template.format(
            study=prepared.study.name,
            model=cell.model.label,
            arm=cell.arm,
            seed=cell.seed,
            fold=fold,
        )
        for fold in range(len(prepared.splits))
    ]
