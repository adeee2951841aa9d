"""Where an evaluate cell's answers come from: a model in this process, or a server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xling.execution.cell_run import CellJob
from xling.execution.memory_checks import check_scoring_memory, scoring_batch, scoring_copies
from xling.execution.study_data import ItemsByPart, StudyData
from xling.files.atomic import remember_int
from xling.files.fingerprint import fingerprint
from xling.models.fast_forward import reduce_compute
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
class Stage:
    """Items that one adapter, or the base, answers.

    Attributes:
        adapter: folder of PEFT's files; None: the base.
        items: by part and language.
        folder: of its work.
    """

    adapter: Path | None
    items: ItemsByPart
    folder: Path


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
        handles: a block for each stage, in which its engine can be used.
    """

    params: dict[str, Any]
    handles: tuple[AbstractContextManager[EngineHandle], ...]


def engine_identity(data: StudyData, cell: Cell) -> dict[str, Any]:
    """Return what of a cell's engine decides its answers, for the fingerprint.

    Of a server's device and batches nothing is known, and its key and limits decide nothing. The
    address stands for what is served there: a finished run is found without asking.
    """
    server = cell.model.server
    if server is None:
        return {"batch_tokens": data.study.scoring.batch_tokens}
    return {
        "engine": cell.model.engine,
        "device": [],
        "server": {
            "url": server.url,
            "model": server.model,
            "adapters": _adapter_names(data, cell, server),
            "top_logprobs": server.top_logprobs,
        },
    }


@dataclass(frozen=True)
class ServerConnection:
    """A cell's server, and what it serves."""

    transport: Transport
    served: ServedModels

    def work_key(self, digest: str) -> str:
        """Name the cell's unfinished work: answers of what is served now, and of nothing else.

        Args:
            digest: the cell's fingerprint.
        """
        server = [self.transport.url, *self.served.identity]
        # The versions that count are part of the cell's fingerprint.
        return fingerprint({"cell": digest, "server": server}, stages=())


def connect_server(model: ModelSettings) -> ServerConnection | None:
    """Ask a model's server what it serves; None where the model is in this process.

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
    """Ask each server of a study's models once, so that no training turns out to be for nothing.

    Raises:
        ValueError: one cannot be reached, or does not serve its model.
    """
    for model in study.models:
        connect_server(model)


@contextmanager
def open_engines(
    job: CellJob, stages: Sequence[Stage], connection: ServerConnection | None, *, adapter: str = ""
) -> Iterator[EnginePool]:
    """Open the engines of a cell's stages.

    A server is tried out, and handed adapters, before the block.

    Args:
        job: what is asked, of which model.
        stages: of the cell.
        connection: to the model's server; None: the model is in this process.
        adapter: run id or address of the one adapter that must answer; empty: the cell's own.

    Raises:
        ValueError: the server cannot be used, or does not have the base or an adapter; or this
            machine cannot hold the model.
    """
    if connection is not None:
        with ExitStack() as stack:
            yield _remote(job, stages, connection, adapter, stack)
        return
    data, cell, model, bases = job.data, job.cell, job.model, job.bases
    work = stages[0].folder.parent
    tokens = remember_int(work / BATCH_TOKENS, lambda: scoring_batch(data, model, bases))
    if not bases.holds(model):
        check_scoring_memory(data, cell, model, bases, batch_tokens=tokens)
    copies = scoring_copies(data, model, bases, batch_tokens=tokens)
    yield EnginePool(
        {"engine": "in-process", "batch_tokens": tokens, "plain_copy": copies},
        tuple(_local(job, stage, tokens, plain_copies=copies) for stage in stages),
    )


@contextmanager
def _local(
    job: CellJob, stage: Stage, batch_tokens: int, *, plain_copies: bool
) -> Iterator[EngineHandle]:
    """Open a model in this process, with or without an adapter.

    Where routing is recorded batches are not cached: what is not computed again is not counted.
    """
    routed = (job.cell.reasoning, job.cell.scoring) == ("direct", "answer-token")
    base = job.bases.open(job.model)
    with (
        base.adapted(stage.adapter) if stage.adapter else nullcontext(base) as loaded,
        reduce_compute(loaded.model, plain_copies=plain_copies),
    ):
        engine = InProcessEngine(
            loaded.model,
            loaded.tokenizer,
            add_special_tokens=not job.model.recipe.chat,
            batch_tokens=batch_tokens,
            cache_file=(
                None if routed and has_known_routers(loaded.model) else stage.folder / KEPT_BATCHES
            ),
        )
        yield EngineHandle(engine, loaded.tokenizer, loaded.model)


def _remote(
    job: CellJob,
    stages: Sequence[Stage],
    connection: ServerConnection,
    adapter: str,
    stack: ExitStack,
) -> EnginePool:
    from xling.scoring.server import ServedModel, ServerEngine, served_adapter

    data, cell, layout = job.data, job.cell, job.prompt_format
    server = cell.model.server
    if server is None:
        raise ValueError(f"model {cell.model.label} names no server")
    transport, served = connection.transport, connection.served
    tokenizer = job.model.tokenizer()
    first = data.all_heldout(data.study.languages.evaluated[0])[:1]
    samples = render_prompts(first, layout, tokenizer)
    engines: list[ServerEngine] = []
    asked: list[str] = []
    names = _adapter_names(data, cell, server) or [""] * len(stages)
    for name, stage in zip(names, stages, strict=True):
        there = name
        if name:
            there = stack.enter_context(
                served_adapter(transport, served, name, stage.adapter, asked_for=adapter)
            )
            asked.append(there)
        answers = stage.folder / KEPT_ANSWERS
        engine = ServerEngine(
            transport,
            server,
            ServedModel(served, there, job.model.context, answers, cache_name=name),
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


def _adapter_names(data: StudyData, cell: Cell, server: ServerSettings) -> list[str]:
    """Return what the server calls the cell's adapters, fold by fold; none for the base."""
    if cell.arm == "base" and cell.model.primed is None:
        return []
    template = server.adapter
    template += "" if "{arm}" in template else "-{arm}"
    template += "" if "{seed}" in template else "-seed-{seed}"
    if data.cross_fitted and "{fold}" not in template:
        template += "-fold-{fold}"
    return [
        template.format(
            study=data.study.name,
            model=cell.model.label,
            arm=cell.arm,
            seed=cell.seed,
            fold=fold,
        )
        for fold in range(len(data.splits))
    ]
