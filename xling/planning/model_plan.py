"""One model's row of a plan."""

from __future__ import annotations

from dataclasses import dataclass

from xling.planning.memory import Memory


@dataclass(frozen=True)
class Job:
    """Training, or scoring, of one model.

    Attributes:
        tokens: that go through the model, padding not counted.
        flops: operations.
        hours: wall time at the stated utilisation.
        gpus: that hold it; 0: it does not fit.
        processes: that train together, each with a GPU; where there are more GPUs than processes,
            one spreads the layers over them.
        micro_batch_size: prompts of a forward pass; 0 for scoring.
        memory: peak on each GPU.
        fits: ``one GPU``, ``one node``, ``n nodes`` or ``no``.
    """

    tokens: float
    flops: float
    hours: float
    gpus: int
    processes: int
    micro_batch_size: int
    memory: Memory
    fits: str


@dataclass(frozen=True)
class ModelPlan:
    """One model's row.

    Attributes:
        model: its name in the study.
        repository: its id.
        problem: why nothing is known of it; empty: all is.
        configuration: where its sizes are from.
        parameters: total.
        linear: in the blocks, experts and routers not counted.
        expert: in routed experts.
        embedding: in embeddings and output matrix.
        router: in routers.
        active: that one token goes through.
        four_bit_bytes: of what is in NF4.
        weight_bytes: of the whole model as it is loaded.
        lora_parameters: trained.
        lora_bytes: of the saved adapter.
        adapters: that the study trains.
        training: None where the study trains nothing.
        scoring: of all cells.
        written_tokens: of reasoning, at most; in `scoring`.
        commands: that run it, in order.
        notes: what else to know.
    """

    model: str
    repository: str
    problem: str = ""
    configuration: str = ""
    parameters: int = 0
    linear: int = 0
    expert: int = 0
    embedding: int = 0
    router: int = 0
    active: int = 0
    four_bit_bytes: int = 0
    weight_bytes: int = 0
    lora_parameters: int = 0
    lora_bytes: int = 0
    adapters: int = 0
    training: Job | None = None
    scoring: Job | None = None
    written_tokens: float = 0.0
    commands: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
