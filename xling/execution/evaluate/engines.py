"""Where an evaluate cell's answers come from: a model in this process, or a server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xling.execution.memory_checks import check_scoring_memory, scoring_batch, scoring_copies
from xling.execution.study_data import StudyData, prompt_format
from xling.files.atomic import remember_int
from xling.files.fingerprint import fingerprint
from xling.models import BaseModelCache, ModelFiles
from xling.models.fast_forward import reduce_compute
from xling.models.loaded import configured_context
from xling.prompts import render_prompts
from xling.routing import has_known_routers
from xling.scoring import Engine, InProcessEngine
from xling.study import Cell, Study
from xling.study.settings import ModelSettings, ServerSettings

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from xling.scoring.server import ServedModels, Transport


KEPT_ANSWERS = "server-answers.jsonl"
KEPT_BATCHES = "batches.jsonl"
BATCH_TOKENS = "batch_tokens"


@dataclass(frozen=True)
class EngineHandle:
    """What one stage's items are put to.

    Attributes:
        engine: scores and writes.
        tokenizer: of the model.
        model: where it is in this process; else None.
    """

    engine: Engine
    tokenizer: PreTrainedTokenizerBase
    model: PreTrainedModel | PeftModel | None = None


@dataclass(frozen=True)
class EnginePool:
    """Engines of a cell, one of each stage.

    Attributes:
        params: what the cell's run logs of them under ``cfg.``.
        seats: a block for each stage, in which its seat can be used.
    """

    params: dict[str, Any]
    seats: tuple[AbstractContextManager[EngineHandle], ...]


def source_identity(prepared: StudyData, cell: Cell) -> dict[str, Any]:
    """What of a cell's engine decides its answers, for the fingerprint.

    Of a server's device and batches nothing is known, and its key and limits decide nothing. The
    address stands for what is served there: a finished run is found without asking.
    """
    server = cell.model.server
    if server is None:
        return {"batch_tokens": prepared.study.scoring.batch_tokens}
    return {
        "engine": cell.model.engine,
        "device": [],
        "server": {
            "url": server.url,
            "model": server.model,
            "adapters": _adapter_names(prepared, cell, server),
            "top_logprobs": server.top_logprobs,
        },
    }


@dataclass(frozen=True)
class ServerConnection:
    """A cell's server, and what it serves."""

    transport: Transport
    served: ServedModels

    def work_key(self, digest: str) -> str:
        """Name of the cell's unfinished work: answers of what is served now, and of nothing else.

        Args:
            digest: the cell's fingerprint.
        """
        server = [self.transport.url, *self.served.identity]
        # The versions that count are part of the cell's fingerprint.
        return fingerprint({"cell": digest, "server": server}, stages=())


def reach_server(model: ModelSettings) -> ServerConnection | None:
    """Asks a model's server what it serves; None where the model is in this process.

    Raises:
        ValueError: it cannot be reached, or does not serve the model.
    """
    from xling.scoring.server import Transport, find_served_models

    if model.server is None:
        return None
    transport = Transport(model.server)
    return ServerConnection(
        transport, find_served_models(transport, model=model.server.model, study_model=model.id)
    )


def check_servers(study: Study) -> None:
    """Asks each server of a study's models once, so that nothing is trained in vain.

    Raises:
        ValueError: one cannot be reached, or does not serve its model.
    """
    for model in study.models:
        reach_server(model)


@contextmanager
def engine_source(
    prepared: StudyData,
    cell: Cell,
    located: ModelFiles,
    shelf: BaseModelCache,
    adapters: Sequence[Path | None],
    folders: Sequence[Path],
    *,
    reached: ServerConnection | None,
    asked_for: str = "",
) -> Iterator[EnginePool]:
    """Engines of a cell's stages; a server is tried out, and handed adapters, before the block.

    Args:
        prepared: study and data.
        cell: what is asked.
        located: the model.
        shelf: opens it, where it is in this process.
        adapters: folder of each stage's adapter; None: the base.
        folders: of each stage's work.
        reached: the model's server; None: the model is in this process.
        asked_for: run id or address of the one adapter that must answer; empty: the cell's own.

    Raises:
        ValueError: the server cannot be used, or does not have the base or an adapter; or this
            machine cannot hold the model.
    """
    if reached is None:
        work = folders[0].parent
        tokens = remember_int(work / BATCH_TOKENS, lambda: scoring_batch(prepared, located, shelf))
        routed = (cell.reasoning, cell.scoring) == ("direct", "answer-token")
        if not shelf.holds(located):
            check_scoring_memory(prepared, cell, located, shelf, batch_tokens=tokens)
        copies = scoring_copies(prepared, located, shelf, batch_tokens=tokens)
        params = {"engine": "in-process", "batch_tokens": tokens, "plain_copy": copies}
        yield EnginePool(
            params,
            tuple(
                _local(located, shelf, adapter, folder, tokens, routed=routed, copies=copies)
                for adapter, folder in zip(adapters, folders, strict=True)
            ),
        )
        return
    with ExitStack() as stack:
        yield _remote(prepared, cell, located, reached, adapters, folders, asked_for, stack)


@contextmanager
def _local(
    located: ModelFiles,
    shelf: BaseModelCache,
    adapter: Path | None,
    folder: Path,
    batch_tokens: int,
    *,
    routed: bool,
    copies: bool,
) -> Iterator[EngineHandle]:
    """A model in this process, with or without an adapter.

    Where routing is recorded batches are not kept: what is not computed again is not counted.
    """
    opened = shelf.open(located)
    with (
        opened.adapted(adapter) if adapter else nullcontext(opened) as it,
        reduce_compute(it.model, plain_copies=copies),
    ):
        engine = InProcessEngine(
            it.model,
            it.tokenizer,
            add_special_tokens=not located.recipe.chat,
            batch_tokens=batch_tokens,
            cache_file=None if routed and has_known_routers(it.model) else folder / KEPT_BATCHES,
        )
        yield EngineHandle(engine, it.tokenizer, it.model)


def _remote(
    prepared: StudyData,
    cell: Cell,
    located: ModelFiles,
    reached: ServerConnection,
    adapters: Sequence[Path | None],
    folders: Sequence[Path],
    asked_for: str,
    stack: ExitStack,
) -> EnginePool:
    from xling.scoring.server import ServedModel, ServerEngine, served_adapter

    server = cell.model.server
    if server is None:
        raise ValueError(f"model {cell.model.label} names no server")
    transport, served = reached.transport, reached.served
    tokenizer = located.tokenizer()
    layout = prompt_format(prepared, located.recipe)
    first = prepared.all_heldout(prepared.study.languages.evaluated[0])[:1]
    samples = render_prompts(first, layout, tokenizer)
    engines: list[ServerEngine] = []
    asked: list[str] = []
    names = _adapter_names(prepared, cell, server) or [""] * len(adapters)
    for name, adapter, folder in zip(names, adapters, folders, strict=True):
        there = name
        if name:
            there = stack.enter_context(
                served_adapter(transport, served, name, adapter, asked_for=asked_for)
            )
            asked.append(there)
        context = configured_context(located)
        engine = ServerEngine(
            transport,
            server,
            ServedModel(served, there, context, folder / KEPT_ANSWERS, cache_name=name),
            tokenizer,
            add_special_tokens=not layout.chat,
            ending=layout.answer_prefix,
        )
        for sample in samples:
            engine.check_scoring(cell.scoring, sample)
        engines.append(engine)
    params = {
        "engine": cell.model.engine,
        # Of the server's machine and precision nothing is known here.
        **dict.fromkeys(("device", "dtype", "quantise", "threads"), "server"),
        "server.host": transport.host,
        "server.model": served.base,
        "server.adapter": " ".join(asked),
        "server.program": f"{served.owner} {served.version}".strip(),
        "server.answers": "; ".join(sorted({each.capabilities.answers for each in engines})),
        "server.top_logprobs": server.top_logprobs,
    }
    return EnginePool(params, tuple(nullcontext(EngineHandle(each, tokenizer)) for each in engines))


def _adapter_names(prepared: StudyData, cell: Cell, server: ServerSettings) -> list[str]:
    """What the server calls the cell's adapters, fold by fold; none for the base."""
    if cell.arm == "base":
        return []
    template = server.adapter
    template += "" if "{arm}" in template else "-{arm}"
    template += "" if "{seed}" in template else "-seed-{seed}"
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
